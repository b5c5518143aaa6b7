// NVRTC for the slow GPU (driver.cpp): kernels are compiled by g++, for fibers on the CPU (runtime/src/cuda/shim).
//
// "Machine code" is the path of a library with two functions for each kernel: one that runs it, one that counts its
// arguments. Libraries are kept in SLOW_GPU_FOLDER under the hash of what they are made of; SLOW_GPU_HEADER is the folder
// of cushim.h.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

struct Program {
    std::string text, library, log;
};

enum { SUCCESS = 0, COMPILATION = 6 };

#define API extern "C" __attribute__((visibility("default")))

static std::string variable(const char* name) {
    const char* value = getenv(name);
    return value ? value : ".";
}

static std::string hash(const std::string& text) {
    uint64_t a = 0xcbf29ce484222325u, b = 0x9e3779b97f4a7c15u;
    for (unsigned char byte : text) {
        a = (a ^ byte) * 0x100000001b3u;
        b = (b + byte) * 0xd6e8feb86659fd93u;
        b ^= b >> 32;
    }
    char name[40];
    snprintf(name, sizeof name, "%016llx%016llx", (unsigned long long)a, (unsigned long long)b);
    return name;
}

static std::string read(const std::string& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

static bool run(const std::string& command, std::string& log) {
    FILE* pipe = popen((command + " 2>&1").c_str(), "r");
    char piece[4096];
    while (pipe && fgets(piece, sizeof piece, pipe)) log += piece;
    return pipe && pclose(pipe) == 0;
}

static const std::string COMPILER = "g++ -std=c++20 -O1 -fPIC -ffp-contract=off -fno-strict-aliasing -U_FORTIFY_SOURCE -w ";
static const char* const BEGIN =
    "#define COLAC_SHIM\n#include \"cushim.h\"\n#include <utility>\n"
    "template <class... A, size_t... I> void slow_call(void (*f)(A...), void** p, std::index_sequence<I...>) { f(*(A*)p[I]...); }\n"
    "template <class... A> void slow_run(void (*f)(A...), u32 grid, u32 threads, u32 shared, u32 seed, void** p) {\n"
    "    cushim::launch(grid, threads, shared, seed, [&] { slow_call(f, p, std::index_sequence_for<A...>()); });\n}\n"
    "template <class... A> int slow_count(void (*)(A...)) { return sizeof...(A); }\n";

// The folder of the header precompiled: reading it takes longer than most kernels do.
static std::string precompiled(const std::string& folder, const std::string& header, const std::string& text) {
    static std::mutex mutex;
    std::lock_guard<std::mutex> guard(mutex);
    std::string made = folder + "/slow-" + hash(text), own = made + "." + std::to_string(getpid()), log;
    if (access((made + "/cushim.h.gch").c_str(), R_OK) == 0) return made;
    mkdir(own.c_str(), 0777);
    std::ofstream(own + "/cushim.h") << text;
    if (!run(COMPILER + "-x c++-header -o " + own + "/cushim.h.gch " + own + "/cushim.h", log)) return header;
    // Another process may have been first.
    return rename(own.c_str(), made.c_str()) == 0 ? made : own;
}

// The kernels of a text: which of them are there depends on its macros.
static bool names_of_kernels(const std::string& own, const std::string& text, std::set<std::string>& names, std::string& log) {
    const std::string mark = "KERNEL void";
    // Without the header, whose words stay as they are.
    std::ofstream(own + ".cpp") << "#define COLAC_SHIM\n" << text;
    std::string all, path = own + ".ii";
    mkdir((own + ".d").c_str(), 0777);
    std::ofstream(own + ".d/cushim.h") << "";
    bool read_through = run(COMPILER + "-E -P -I " + own + ".d -o " + path + " " + own + ".cpp", log);
    all = read(path);
    unlink(path.c_str());
    unlink((own + ".d/cushim.h").c_str());
    rmdir((own + ".d").c_str());
    for (size_t at = all.find(mark); at != std::string::npos; at = all.find(mark, at + 1)) {
        // Behind the bounds of the launch, which are in parentheses and may have some.
        size_t behind = all.find('(', at) + 1;
        for (int open = 1; open > 0; behind++) open += all[behind] == '(' ? 1 : all[behind] == ')' ? -1 : 0;
        size_t begin = all.find_first_not_of(" \n", behind);
        names.insert(all.substr(begin, all.find_first_of(" (", begin) - begin));
    }
    return read_through;
}

static bool compile(Program& program) {
    std::string header = variable("SLOW_GPU_HEADER"), folder = variable("SLOW_GPU_FOLDER");
    std::string of_header = read(header + "/cushim.h"), name = folder + "/slow-" + hash(BEGIN + of_header + program.text);
    program.library = name + ".so";
    if (access(program.library.c_str(), R_OK) == 0) return true;
    std::string own = name + "." + std::to_string(getpid()) + "." + std::to_string((uintptr_t)&program);
    std::set<std::string> kernels;
    if (!names_of_kernels(own, program.text, kernels, program.log)) return false;
    std::ofstream unit(own + ".cpp");
    unit << BEGIN << program.text;
    for (const std::string& kernel : kernels) {
        unit << "\nextern \"C\" void run_" << kernel << "(u32 grid, u32 threads, u32 shared, u32 seed, void** p) { slow_run("
             << kernel << ", grid, threads, shared, seed, p); }\nextern \"C\" int arguments_of_" << kernel
             << "() { return slow_count(" << kernel << "); }\n";
    }
    unit.close();
    std::string include = "-I " + precompiled(folder, header, of_header);
    bool made = run(COMPILER + "-shared " + include + " -o " + own + ".so " + own + ".cpp", program.log);
    if (made) made = rename((own + ".so").c_str(), program.library.c_str()) == 0;
    unlink((own + ".cpp").c_str());
    return made;
}

API int nvrtcVersion(int* major, int* minor) { *major = 13, *minor = 0; return SUCCESS; }
API const char* nvrtcGetErrorString(int) { return "g++ refuses a kernel"; }
API int nvrtcCreateProgram(Program** program, const char* text, const char*, int, const char* const*, const char* const*) {
    *program = new Program{text, {}, {}};
    return SUCCESS;
}
API int nvrtcDestroyProgram(Program** program) { delete *program; *program = nullptr; return SUCCESS; }
API int nvrtcCompileProgram(Program* program, int, const char* const*) { return compile(*program) ? SUCCESS : COMPILATION; }
API int nvrtcGetProgramLogSize(Program* program, size_t* bytes) { *bytes = program->log.size() + 1; return SUCCESS; }
API int nvrtcGetProgramLog(Program* program, char* log) { strcpy(log, program->log.c_str()); return SUCCESS; }
API int nvrtcGetCUBINSize(Program* program, size_t* bytes) { *bytes = program->library.size() + 1; return SUCCESS; }
API int nvrtcGetCUBIN(Program* program, char* image) { strcpy(image, program->library.c_str()); return SUCCESS; }

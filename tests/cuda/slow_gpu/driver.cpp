// A CUDA driver whose GPU is this CPU, and as slow as it may be: nothing that was asked for happens before somebody waits
// for it, and then no more than has to. For tests of everything that talks to a driver: what is written over too early,
// read too early, or not waited for, comes out wrong here.
//
// Streams are lists of what was asked for; events and the waits between streams are as CUDA has them. With
// SLOW_GPU_SEED above 0 streams get on at random moments instead. Copies that do not name a stream happen at once, as
// they do beside streams that do not wait for the default one. Kernels come from nvrtc.cpp. Memory begins as rubbish.
//
// Not covered: speed, and what the hardware does.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

typedef int Status;
typedef uint64_t Address;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, UNSUPPORTED = 801, CAPTURING = 900 };

struct Stream;

// One recording of an event. Who waits, waits for the recording that was the last one then.
struct Mark {
    Stream* stream;
    bool passed = false;
    uint64_t time = 0;
};

struct Event {
    bool timing;
    std::shared_ptr<Mark> mark;
};

// One thing that a stream was asked for: to work, to pass a mark, or to wait for one.
struct Task {
    std::function<void()> work;
    std::shared_ptr<Mark> passes, waits_for;
};

struct Stream {
    std::deque<Task> tasks;
    bool capturing = false;
    std::vector<Task> captured;
};

typedef std::vector<Task> Graph;

struct Function {
    void (*run)(uint32_t, uint32_t, uint32_t, uint32_t, void**);
    int arguments;
    uint32_t shared;
};

static uint32_t seed = [] {
    const char* text = getenv("SLOW_GPU_SEED");
    return text ? (uint32_t)atoi(text) : 0;
}();
static const bool at_random = seed > 0;
static uint64_t clock_ticks = 0;
static std::vector<Stream*> streams;
static std::map<void*, size_t> allocations;

static uint32_t draw() { return (seed = seed * 1664525u + 1013904223u) >> 8; }

[[noreturn]] static void wrong(const char* what) {
    fprintf(stderr, "slow GPU: %s\n", what);
    abort();
}

// Does the oldest task of a stream, and first, on other streams, what it waits for.
static void step(Stream* stream) {
    if (stream->tasks.empty()) wrong("what is waited for was never asked for");
    Task task = std::move(stream->tasks.front());
    stream->tasks.pop_front();
    if (task.waits_for) {
        while (!task.waits_for->passed) step(task.waits_for->stream);
    } else if (task.passes) {
        task.passes->passed = true;
        task.passes->time = clock_ticks;
    } else {
        clock_ticks += 1 + draw() % 1000;
        task.work();
    }
}

static void get_on_at_random() {
    if (!at_random) return;
    for (uint32_t steps = draw() % 8; steps > 0; steps--) {
        Stream* stream = streams[draw() % streams.size()];
        if (!stream->tasks.empty()) step(stream);
    }
}

static Status ask(Stream* stream, Task task) {
    if (stream->capturing) {
        if (!task.work) return CAPTURING;
        stream->captured.push_back(std::move(task));
        return SUCCESS;
    }
    stream->tasks.push_back(std::move(task));
    get_on_at_random();
    return SUCCESS;
}

static Status copy(void* to, const void* from, size_t bytes, Stream* stream) {
    return ask(stream, {[=] { memmove(to, from, bytes); }, {}, {}});
}

#define API extern "C" __attribute__((visibility("default")))

// What cublaslt.cpp asks for.
API void slow_gpu_ask(void* stream, void (*work)(void*), void* data) {
    std::shared_ptr<void> kept(data, free);
    ask((Stream*)stream, {[=] { work(kept.get()); }, {}, {}});
}

API Status cuInit(unsigned) { return SUCCESS; }
API Status cuDriverGetVersion(int* version) { *version = 13000; return SUCCESS; }
API Status cuGetErrorString(Status status, const char** text) {
    *text = status == OUT_OF_MEMORY ? "out of memory" : status == CAPTURING ? "not while capturing" : "the slow GPU refuses";
    return SUCCESS;
}
API Status cuDeviceGetCount(int* count) { *count = 1; return SUCCESS; }
API Status cuDeviceGet(int* device, int ordinal) { *device = ordinal; return ordinal == 0 ? SUCCESS : INVALID_VALUE; }
API Status cuDeviceGetName(char* name, int length, int) { snprintf(name, length, "slow GPU"); return SUCCESS; }
API Status cuDeviceGetAttribute(int* value, int attribute, int) {
    // Multiprocessors; compute capability 9.0.
    *value = attribute == 16 ? 132 : attribute == 75 ? 9 : 0;
    return SUCCESS;
}
static const size_t MEMORY = (size_t)2 << 30;
API Status cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = MEMORY; return SUCCESS; }
API Status cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    size_t used = 0;
    for (const auto& [pointer, bytes] : allocations) used += bytes;
    *free_bytes = MEMORY - used;
    *total = MEMORY;
    return SUCCESS;
}
API Status cuDevicePrimaryCtxRetain(void** context, int) { *context = &allocations; return SUCCESS; }
API Status cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API Status cuCtxSetCurrent(void*) { return SUCCESS; }

API Status cuMemAlloc_v2(Address* address, size_t bytes) {
    size_t free_bytes, total, rounded = (bytes + 255) / 256 * 256;
    cuMemGetInfo_v2(&free_bytes, &total);
    if (rounded > free_bytes) return OUT_OF_MEMORY;
    void* pointer = aligned_alloc(256, rounded);
    memset(pointer, 0xff, rounded);
    allocations[pointer] = rounded;
    *address = (Address)pointer;
    return SUCCESS;
}
API Status cuMemFree_v2(Address address) {
    for (Stream* stream : streams) {
        while (!stream->tasks.empty()) step(stream);
    }
    if (!allocations.erase((void*)address)) return INVALID_VALUE;
    free((void*)address);
    return SUCCESS;
}
API Status cuMemAllocHost_v2(void** pointer, size_t bytes) {
    *pointer = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    memset(*pointer, 0xff, bytes);
    return SUCCESS;
}
API Status cuMemFreeHost(void* pointer) { free(pointer); return SUCCESS; }

API Status cuMemsetD8Async(Address address, unsigned char value, size_t bytes, Stream* stream) {
    return ask(stream, {[=] { memset((void*)address, value, bytes); }, {}, {}});
}
API Status cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) { memmove((void*)to, from, bytes); return SUCCESS; }
API Status cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) { memmove(to, (void*)from, bytes); return SUCCESS; }
API Status cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream* stream) {
    return copy((void*)to, from, bytes, stream);
}
API Status cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream* stream) {
    return copy(to, (void*)from, bytes, stream);
}
API Status cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream* stream) {
    return copy((void*)to, (void*)from, bytes, stream);
}

API Status cuStreamCreate(Stream** stream, unsigned) {
    streams.push_back(*stream = new Stream);
    return SUCCESS;
}
API Status cuStreamDestroy_v2(Stream* stream) {
    while (!stream->tasks.empty()) step(stream);
    std::erase(streams, stream);
    delete stream;
    return SUCCESS;
}
API Status cuStreamSynchronize(Stream* stream) {
    if (stream->capturing) return CAPTURING;
    while (!stream->tasks.empty()) step(stream);
    return SUCCESS;
}

API Status cuEventCreate(Event** event, unsigned flags) { *event = new Event{!(flags & 2), {}}; return SUCCESS; }
API Status cuEventDestroy_v2(Event* event) { delete event; return SUCCESS; }
API Status cuEventRecord(Event* event, Stream* stream) {
    event->mark = std::make_shared<Mark>(Mark{stream});
    return ask(stream, {{}, event->mark, {}});
}
API Status cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    return event->mark ? ask(stream, {{}, {}, event->mark}) : SUCCESS;
}
API Status cuEventSynchronize(Event* event) {
    while (event->mark && !event->mark->passed) step(event->mark->stream);
    return SUCCESS;
}
API Status cuEventElapsedTime_v2(float* milliseconds, Event* from, Event* to) {
    for (Event* event : {from, to}) {
        if (!event->timing || !event->mark || !event->mark->passed) return INVALID_VALUE;
    }
    *milliseconds = (float)(to->mark->time - from->mark->time) * 1e-3f;
    return SUCCESS;
}

API Status cuStreamBeginCapture_v2(Stream* stream, int) {
    if (stream->capturing) return CAPTURING;
    stream->capturing = true;
    return SUCCESS;
}
API Status cuStreamEndCapture(Stream* stream, Graph** graph) {
    if (!stream->capturing) return INVALID_VALUE;
    stream->capturing = false;
    *graph = new Graph(std::move(stream->captured));
    stream->captured.clear();
    return SUCCESS;
}
API Status cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long) {
    *executable = new Graph(*graph);
    return SUCCESS;
}
API Status cuGraphLaunch(Graph* graph, Stream* stream) {
    for (const Task& task : *graph) {
        if (Status status = ask(stream, task)) return status;
    }
    return SUCCESS;
}
API Status cuGraphDestroy(Graph* graph) { delete graph; return SUCCESS; }
API Status cuGraphExecDestroy(Graph* graph) { delete graph; return SUCCESS; }

// An image is the path of a library that nvrtc.cpp has made.
API Status cuModuleLoadData(void** module, const void* image) {
    *module = dlopen((const char*)image, RTLD_NOW | RTLD_LOCAL);
    if (!*module) fprintf(stderr, "slow GPU: %s\n", dlerror());
    return *module ? SUCCESS : INVALID_VALUE;
}
API Status cuModuleUnload(void*) { return SUCCESS; }
API Status cuModuleGetFunction(Function** function, void* module, const char* name) {
    void* run = dlsym(module, (std::string("run_") + name).c_str());
    void* count = dlsym(module, (std::string("arguments_of_") + name).c_str());
    if (!run || !count) return NOT_FOUND;
    *function = new Function{(decltype(Function::run))run, ((int (*)())count)(), 48 << 10};
    return SUCCESS;
}
API Status cuFuncSetAttribute(Function* function, int attribute, int value) {
    // The most dynamic shared memory; a block of this GPU has 227 KiB.
    if (attribute != 8 || value > 227 << 10) return INVALID_VALUE;
    function->shared = (uint32_t)value;
    return SUCCESS;
}
API Status cuLaunchKernel(Function* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y, unsigned threads_z, unsigned shared, Stream* stream, void** arguments, void**) {
    if (x == 0 || y != 1 || z != 1 || threads == 0 || threads > 1024 || threads_y != 1 || threads_z != 1) return INVALID_VALUE;
    if (shared > function->shared) return INVALID_VALUE;
    // The values are taken now; the pointers need not stay.
    auto values = std::make_shared<std::vector<uint64_t>>(function->arguments);
    for (int i = 0; i < function->arguments; i++) memcpy(&(*values)[i], arguments[i], 8);
    return ask(stream, {[=] {
        std::vector<void*> places;
        for (uint64_t& value : *values) places.push_back(&value);
        function->run(x, threads, shared, draw(), places.data());
    }, {}, {}});
}

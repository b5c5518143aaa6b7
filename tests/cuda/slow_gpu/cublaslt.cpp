// cuBLASLt for the slow GPU (driver.cpp): products by their definition, in columns as the library has them.
//
// It proposes three algorithms that add up in different orders, so that bits tell which was taken.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { REAL_32 = 0, BRAIN_16 = 14 };

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
};
struct Operation {
    int pointers = 0, turned_a = 0, turned_b = 0;
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t reductions = ~0u;
};
struct Algorithm {
    uint64_t data[8];
};
struct Proposal {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
// A product that was asked for.
struct Product {
    const char *a, *b, *c;
    char* d;
    const float *alpha, *beta;
    Layout of_a, of_b, of_d;
    bool turned_a, turned_b;
    uint64_t order;
};

extern "C" void slow_gpu_ask(void* stream, void (*work)(void*), void* data);

static float at(const char* matrix, const Layout& layout, uint64_t row, uint64_t column) {
    size_t place = row + column * (size_t)layout.stride;
    if (layout.type == REAL_32) return ((const float*)matrix)[place];
    uint32_t bits = (uint32_t)((const uint16_t*)matrix)[place] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static void put(char* matrix, const Layout& layout, uint64_t row, uint64_t column, float value) {
    size_t place = row + column * (size_t)layout.stride;
    if (layout.type == REAL_32) {
        ((float*)matrix)[place] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bool number = value == value;
    ((uint16_t*)matrix)[place] = number ? (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) : 0x7fff;
}

// d = alpha · op(a) op(b) + beta · c; c is not read where beta is 0.
static void multiply(void* data) {
    const Product& p = *(const Product*)data;
    uint64_t inner = p.turned_a ? p.of_a.rows : p.of_a.columns, half = inner / 2;
    for (uint64_t column = 0; column < p.of_d.columns; column++) {
        for (uint64_t row = 0; row < p.of_d.rows; row++) {
            float sums[2] = {0, 0};
            for (uint64_t i = 0; i < inner; i++) {
                uint64_t k = p.order == 1 ? inner - 1 - i : i;
                float x = p.turned_a ? at(p.a, p.of_a, k, row) : at(p.a, p.of_a, row, k);
                float y = p.turned_b ? at(p.b, p.of_b, column, k) : at(p.b, p.of_b, k, column);
                sums[p.order == 2 && k >= half] += x * y;
            }
            float old = *p.beta == 0.0f ? 0.0f : *p.beta * at(p.c, p.of_d, row, column);
            put(p.d, p.of_d, row, column, *p.alpha * (sums[0] + sums[1]) + old);
        }
    }
}

static bool fits(const Operation& o, const Layout& a, const Layout& b, const Layout& d) {
    uint64_t rows = o.turned_a ? a.columns : a.rows, inner = o.turned_a ? a.rows : a.columns;
    uint64_t inner_b = o.turned_b ? b.columns : b.rows, columns = o.turned_b ? b.rows : b.columns;
    return rows == d.rows && columns == d.columns && inner == inner_b && a.type == b.type;
}

#define API extern "C" __attribute__((visibility("default")))

API size_t cublasLtGetVersion() { return 130100; }
API int cublasLtCreate(void** handle) { *handle = malloc(1); return SUCCESS; }
API int cublasLtDestroy(void* handle) { free(handle); return SUCCESS; }
API int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    if (stride < (int64_t)rows) return INVALID_VALUE;
    *layout = new Layout{type, rows, columns, stride};
    return SUCCESS;
}
API int cublasLtMatrixLayoutDestroy(Layout* layout) { delete layout; return SUCCESS; }
API int cublasLtMatmulDescCreate(Operation** operation, int, int) { *operation = new Operation; return SUCCESS; }
API int cublasLtMatmulDescDestroy(Operation* operation) { delete operation; return SUCCESS; }
API int cublasLtMatmulDescSetAttribute(Operation* operation, int attribute, const void* value, size_t bytes) {
    int number;
    if (bytes != sizeof number) return INVALID_VALUE;
    memcpy(&number, value, sizeof number);
    switch (attribute) {
        case 2: operation->pointers = number; return SUCCESS;
        case 3: operation->turned_a = number; return SUCCESS;
        case 4: operation->turned_b = number; return SUCCESS;
        default: return NOT_SUPPORTED;
    }
}
API int cublasLtMatmulPreferenceCreate(Preference** preference) { *preference = new Preference; return SUCCESS; }
API int cublasLtMatmulPreferenceDestroy(Preference* preference) { delete preference; return SUCCESS; }
API int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
    if (attribute == 1 && bytes == 8) memcpy(&preference->workspace, value, 8);
    if (attribute == 3 && bytes == 4) memcpy(&preference->reductions, value, 4);
    return SUCCESS;
}
API int cublasLtMatmulAlgoGetHeuristic(void*, Operation* operation, Layout* a, Layout* b, Layout*, Layout* d, Preference*, int wanted, Proposal* proposals, int* count) {
    *count = 0;
    if (!fits(*operation, *a, *b, *d)) return NOT_SUPPORTED;
    for (uint64_t order = 0; order < 3 && *count < wanted; order++) {
        proposals[*count] = Proposal{};
        proposals[(*count)++].algorithm.data[0] = 7 + order;
    }
    return SUCCESS;
}
API int cublasLtMatmulAlgoCheck(void*, Operation* operation, Layout* a, Layout* b, Layout*, Layout* d, const Algorithm* algorithm, Proposal* found) {
    *found = Proposal{};
    uint64_t order = algorithm->data[0] - 7;
    return order < 3 && fits(*operation, *a, *b, *d) ? SUCCESS : NOT_SUPPORTED;
}
API int cublasLtMatmul(void*, Operation* o, const float* alpha, const char* a, Layout* of_a, const char* b, Layout* of_b, const float* beta, const char* c, Layout*, char* d, Layout* of_d, const Algorithm* algorithm, void*, size_t, void* stream) {
    uint64_t order = algorithm->data[0] - 7;
    // Factors are read on the device (pointer mode 1), in the order of the stream.
    if (o->pointers != 1 || order > 2 || !fits(*o, *of_a, *of_b, *of_d)) return INVALID_VALUE;
    auto* product = (Product*)malloc(sizeof(Product));
    *product = {a, b, c, d, alpha, beta, *of_a, *of_b, *of_d, o->turned_a == 1, o->turned_b == 1, order};
    slow_gpu_ask(stream, multiply, product);
    return SUCCESS;
}

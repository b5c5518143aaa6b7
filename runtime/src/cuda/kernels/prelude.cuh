// The words that every kernel is written in.
//
// Owns element formats, wide accesses, reductions in a fixed order, write modes, random draws, and the instructions
// that need inline PTX. Includes nothing, so NVRTC needs no headers. Everything here that is not plain C++ has a twin in
// shim/cushim.h that computes the same on a CPU: kernels use these words only, and no inline assembly of their own.
//
// Compiled without contraction of a product and a sum: where one rounding is meant, a kernel says fmaf. A pointwise
// program then has the same bits alone and inside another kernel.

#ifdef COLAC_SHIM
#include "cushim.h"
#else

typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL extern "C" __global__
#define DEVICE static __device__ __forceinline__
// Shared memory whose size the launch gives.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

struct __align__(2) bf16 {
    u16 bits;
};
struct __align__(16) Pack {
    u32 word[4];
};

DEVICE float bits_to_f32(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 f32_to_bits(float value) { return __float_as_uint(value); }
// One rounding to nearest even.
DEVICE bf16 to_bf16(float value) {
    bf16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
}
// Two roundings in one instruction; the first argument is stored first.
DEVICE u32 to_bf16_pair(float first, float second) {
    u32 result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
    return result;
}

DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }
// Copies 16 bytes into shared memory; done when waited for.
DEVICE void copy_async16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from));
}
// The same, or 16 zero bytes where `there` is false.
DEVICE void copy_async16_or_zero(void* to, const void* from, bool there) {
    u32 bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes));
}
// Closes a group of copies.
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `LEFT` of the thread's latest groups are not done. A barrier makes them visible to others.
template <int LEFT>
DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

// Four 8×8 matrices of bf16 from shared memory: matrix m's row i lies at the address of lane 8m + i, and lane l receives
// elements 2(l mod 4) and the next of row l/4.
DEVICE void load_matrices(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// The same, each matrix transposed.
DEVICE void load_matrices_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// c[16×8] += a[16×16] b[16×8] in f32; fragments as PTX's mma.m16n8k16 lays them out.
DEVICE void multiply_16x8x16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// Two to the power of x, to about 2^-22; for attention, whose probabilities are rounded to bf16 anyway.
#ifndef COLAC_SHIM
DEVICE float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

DEVICE float to_f32(float value) { return value; }
DEVICE float to_f32(bf16 value) { return bits_to_f32((u32)value.bits << 16); }
DEVICE void set(float* place, float value) { *place = value; }
DEVICE void set(bf16* place, float value) { *place = to_bf16(value); }
// A number as its storage holds it.
DEVICE float rounded(float value, const float*) { return value; }
DEVICE float rounded(float value, const bf16*) { return to_f32(to_bf16(value)); }
DEVICE float round_bf16(float value) { return to_f32(to_bf16(value)); }

// `N` neighbours; 8 of them at a multiple of 16 bytes (f32: 32) as wide accesses, 1 anywhere.
DEVICE void load(const float* from, float (&to)[1]) { to[0] = *from; }
DEVICE void load(const bf16* from, float (&to)[1]) { to[0] = to_f32(*from); }
DEVICE void load(const float* from, float (&to)[8]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        Pack pack = ((const Pack*)from)[half];
#pragma unroll
        for (int i = 0; i < 4; i++) to[4 * half + i] = bits_to_f32(pack.word[i]);
    }
}
DEVICE void load(const bf16* from, float (&to)[8]) {
    Pack pack = *(const Pack*)from;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[2 * i] = bits_to_f32(pack.word[i] << 16);
        to[2 * i + 1] = bits_to_f32(pack.word[i] & 0xffff0000u);
    }
}
DEVICE void store(float* to, const float (&from)[1]) { *to = from[0]; }
DEVICE void store(bf16* to, const float (&from)[1]) { *to = to_bf16(from[0]); }
DEVICE void store(float* to, const float (&from)[8]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        Pack pack;
#pragma unroll
        for (int i = 0; i < 4; i++) pack.word[i] = f32_to_bits(from[4 * half + i]);
        ((Pack*)to)[half] = pack;
    }
}
DEVICE void store(bf16* to, const float (&from)[8]) {
    Pack pack;
#pragma unroll
    for (int i = 0; i < 4; i++) pack.word[i] = to_bf16_pair(from[2 * i], from[2 * i + 1]);
    *(Pack*)to = pack;
}

// The same one by one, for neighbours that begin anywhere: those of the first `left`, the others are 0 or left out.
template <class T>
DEVICE void load_each(const T* from, float (&to)[1], u64) { to[0] = to_f32(*from); }
template <class T>
DEVICE void load_each(const T* from, float (&to)[8], u64 left) {
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = i < left ? to_f32(from[i]) : 0.0f;
}
template <class T>
DEVICE void store_each(T* to, const float (&from)[1], u64) { set(to, from[0]); }
template <class T>
DEVICE void store_each(T* to, const float (&from)[8], u64 left) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (i < left) set(to + i, from[i]);
    }
}

DEVICE float larger(float a, float b) { return a > b ? a : b; }

// Sums and maxima that every lane of a warp receives, in a fixed order.
template <class T>
DEVICE T warp_sum(T value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(~0u, value, offset);
    return value;
}
DEVICE float warp_max(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value = larger(value, __shfl_xor_sync(~0u, value, offset));
    return value;
}
// The same for a block of whole warps, all of whose threads take part; `scratch` is shared and has 32 elements. The
// scratch may be used again at once.
template <class T>
DEVICE T block_sum(T value, T* scratch) {
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    T sum = scratch[0];
    for (u32 warp = 1; warp < blockDim.x / 32; warp++) sum += scratch[warp];
    return sum;
}
DEVICE float block_max(float value, float* scratch) {
    value = warp_max(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    float most = scratch[0];
    for (u32 warp = 1; warp < blockDim.x / 32; warp++) most = larger(most, scratch[warp]);
    return most;
}

#ifdef ROW_THREADS
// For kernels whose rows have ROW_THREADS threads each, a warp of a block of THREADS or all of it: the sum over the threads
// of a row, which all of them receive.
DEVICE float row_sum(float value) {
#if ROW_THREADS == 32
    return warp_sum(value);
#else
    __shared__ float scratch[32];
    return block_sum(value, scratch);
#endif
}
// The row of a thread, counted from the first block's first.
DEVICE u64 row_of_thread() { return ((u64)blockIdx.x * THREADS + threadIdx.x) / ROW_THREADS; }
#endif

// How a result meets what is there: 0 replaces it, 1 adds to it, 2 asks a number on the device (0 replaces without
// reading, 1 adds).
DEVICE bool adds(u32 mode, const float* condition) { return mode == 2 ? *condition != 0.0f : mode == 1; }

// CUDA's execution model on one CPU thread, for tests: the kernels' sources compiled by a C++ compiler.
//
// Each thread of a block is a fiber. Barriers and warp collectives are counters; the order in which fibers run is
// pseudo-random and some warps run ahead, so that a missing barrier shows; a round in which nobody gets on ends the process with a message.
// Asynchronous copies happen when they are waited for and not before. Owns the twins of what kernels/prelude.cuh writes
// in PTX. Not covered: memory ordering between warps, bank conflicts, speed.
#pragma once
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <vector>

typedef uint16_t u16;
typedef uint32_t u32;
typedef int32_t i32;
typedef unsigned long long u64;
typedef long long i64;

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define __align__(n) __attribute__((aligned(n)))
#define KERNEL static
#define DEVICE static inline
#define DYNAMIC_SHARED(name) unsigned char* name = cushim::block->dynamic

struct __align__(2) bf16 {
    u16 bits;
};
struct __align__(16) Pack {
    u32 word[4];
};
struct dim3 {
    u32 x, y, z;
};

inline float bits_to_f32(u32 bits) { float value; memcpy(&value, &bits, 4); return value; }
inline u32 f32_to_bits(float value) { u32 bits; memcpy(&bits, &value, 4); return bits; }
inline bf16 to_bf16(float value) {
    u32 bits = f32_to_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
    return {(u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
inline u32 to_bf16_pair(float first, float second) { return to_bf16(first).bits | (u32)to_bf16(second).bits << 16; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float fast_exp2(float x) { return exp2f(x); }
inline u32 __umulhi(u32 a, u32 b) { return (u32)(((uint64_t)a * b) >> 32); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }

namespace cushim {
struct Copy {
    void* to;
    const void* from;
};
struct Fiber {
    ucontext_t context;
    jmp_buf jump;
    bool started, done;
    dim3 thread;
    int linear;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
};
struct Barrier {
    int arrived = 0;
    unsigned generation = 0;
};
struct Warp {
    Barrier barrier;
    alignas(16) unsigned char slot[32][64];
    int alive = 0;
};
struct Block {
    jmp_buf scheduler;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<std::unique_ptr<char[]>> stacks;
    Barrier barrier;
    int alive = 0;
    unsigned long progress = 0;
    dim3 index, threads, grid;
    const std::function<void()>* body;
    unsigned char* dynamic;
    Fiber* current = nullptr;
};
inline thread_local Block* block = nullptr;

__attribute__((noinline)) inline void yield() {
    Fiber* me = block->current;
    if (!_setjmp(me->jump)) _longjmp(block->scheduler, 1);
}
__attribute__((noinline)) inline void resume(Fiber& fiber) {
    if (!_setjmp(block->scheduler)) {
        if (fiber.started) _longjmp(fiber.jump, 1);
        fiber.started = true;
        setcontext(&fiber.context);
    }
}
inline void wait(Barrier& barrier, int count) {
    block->progress++;
    unsigned generation = barrier.generation;
    if (++barrier.arrived >= count) {
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    while (barrier.generation == generation) yield();
}
inline void finish(Barrier& barrier, int alive) {
    if (barrier.arrived && barrier.arrived >= alive) {
        barrier.arrived = 0;
        barrier.generation++;
    }
}
inline void entry() {
    (*block->body)();
    Fiber* me = block->current;
    me->done = true;
    block->progress++;
    block->alive--;
    Warp& warp = block->warps[me->linear / 32];
    warp.alive--;
    finish(block->barrier, block->alive);
    finish(warp.barrier, warp.alive);
    _longjmp(block->scheduler, 1);
}
// Runs a kernel. `seed` decides the order of fibers.
inline void launch(u32 grid, u32 threads, u32 shared, u32 seed, const std::function<void()>& body) {
    const size_t stack = 64 << 10;
    Block b;
    block = &b;
    b.fibers.resize(threads);
    b.warps.resize((threads + 31) / 32);
    b.threads = {threads, 1, 1};
    b.grid = {grid, 1, 1};
    b.body = &body;
    std::vector<Pack> dynamic(shared / sizeof(Pack) + 1);
    b.dynamic = (unsigned char*)dynamic.data();
    for (u32 i = 0; i < threads; i++) b.stacks.emplace_back(new char[stack]);
    for (u32 x = 0; x < grid; x++) {
        // What another block left in shared memory is no initial value.
        memset(b.dynamic, 0xff, dynamic.size() * sizeof(Pack));
        b.index = {x, 0, 0};
        b.alive = (int)threads;
        b.barrier = Barrier();
        for (auto& warp : b.warps) warp.alive = 0, warp.barrier = Barrier();
        for (u32 i = 0; i < threads; i++) {
            Fiber& fiber = b.fibers[i];
            fiber.done = fiber.started = false;
            fiber.linear = (int)i;
            fiber.thread = {i, 0, 0};
            fiber.groups.clear();
            fiber.open.clear();
            b.warps[i / 32].alive++;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = b.stacks[i].get();
            fiber.context.uc_stack.ss_size = stack;
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, (void (*)())entry, 0);
        }
        // Some warps sit out for some rounds, so that others run ahead of them as far as barriers let them.
        u32 rest = 0, rounds = 0;
        bool everybody = false;
        while (b.alive) {
            unsigned long before = b.progress;
            seed = seed * 1664525u + 1013904223u;
            if (rounds-- == 0) rest = seed >> 4, rounds = seed >> 10 & 15;
            u32 offset = seed >> 8;
            bool forward = seed >> 7 & 1;
            for (u32 k = 0; k < threads; k++) {
                u32 i = forward ? (offset + k) % threads : (offset % threads + threads - k) % threads;
                Fiber& fiber = b.fibers[i];
                bool sits_out = ((rest ^ i / 32 * 0x9e3779b9u) * 0x85ebca6bu) >> 31;
                if (fiber.done || (sits_out && !everybody)) continue;
                b.current = &fiber;
                resume(fiber);
            }
            bool stuck = b.alive && before == b.progress;
            if (stuck && everybody) {
                fprintf(stderr, "cushim: no thread of block %u gets on: a barrier that not all reach (%d alive)\n", x, b.alive);
                abort();
            }
            if (stuck) rounds = 0;
            everybody = stuck;
        }
    }
    block = nullptr;
}
inline Warp& warp() { return block->warps[block->current->linear / 32]; }
inline int lane() { return block->current->linear % 32; }
inline void warp_wait() { Warp& w = warp(); wait(w.barrier, w.alive); }
template <class T>
T exchange(T value, int source) {
    Warp& w = warp();
    memcpy(w.slot[lane()], &value, sizeof value);
    warp_wait();
    T result;
    memcpy(&result, w.slot[source & 31], sizeof result);
    warp_wait();
    return result;
}
inline void flush(size_t left) {
    Fiber& me = *block->current;
    while (me.groups.size() > left) {
        for (Copy& copy : me.groups.front()) {
            if (copy.from) memcpy(copy.to, copy.from, 16); else memset(copy.to, 0, 16);
        }
        me.groups.erase(me.groups.begin());
    }
}
inline void matrices(u32 (&r)[4], const void* row, bool transposed) {
    Warp& w = warp();
    memcpy(w.slot[lane()], &row, sizeof row);
    warp_wait();
    for (int m = 0; m < 4; m++) {
        u16 pair[2];
        for (int i = 0; i < 2; i++) {
            int line = transposed ? 2 * (lane() % 4) + i : lane() / 4, column = transposed ? lane() / 4 : 2 * (lane() % 4) + i;
            const u16* from;
            memcpy(&from, w.slot[8 * m + line], sizeof from);
            pair[i] = from[column];
        }
        r[m] = pair[0] | (u32)pair[1] << 16;
    }
    warp_wait();
}
}  // namespace cushim

#define threadIdx (cushim::block->current->thread)
#define blockIdx (cushim::block->index)
#define blockDim (cushim::block->threads)
#define gridDim (cushim::block->grid)
inline void __syncthreads() { cushim::wait(cushim::block->barrier, cushim::block->alive); }
inline void __syncwarp(u32 = ~0u) { cushim::warp_wait(); }
template <class T>
T __shfl_xor_sync(u32, T value, int offset) { return cushim::exchange(value, cushim::lane() ^ offset); }
template <class T>
T __shfl_sync(u32, T value, int source) { return cushim::exchange(value, source); }
inline void copy_async16(void* to, const void* from) { cushim::block->current->open.push_back({to, from}); }
inline void copy_async16_or_zero(void* to, const void* from, bool there) { copy_async16(to, there ? from : nullptr); }
inline void copy_async_commit() {
    cushim::Fiber& me = *cushim::block->current;
    me.groups.push_back(std::move(me.open));
    me.open.clear();
}
template <int LEFT>
void copy_async_wait() { cushim::flush(LEFT); }
inline void load_matrices(u32 (&r)[4], const void* row) { cushim::matrices(r, row, false); }
inline void load_matrices_transposed(u32 (&r)[4], const void* row) { cushim::matrices(r, row, true); }
inline void multiply_16x8x16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    using namespace cushim;
    Warp& w = warp();
    int l = lane();
    u32 mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    memcpy(w.slot[l], mine, sizeof mine);
    warp_wait();
    auto element = [&](int from, int word, int half) {
        u32 pair;
        memcpy(&pair, w.slot[from] + 4 * word, 4);
        return bits_to_f32(half ? pair & 0xffff0000u : pair << 16);
    };
    float sums[4];
    for (int i = 0; i < 4; i++) {
        int row = l / 4 + (i >> 1) * 8, column = (l % 4) * 2 + (i & 1);
        float sum = c[i];
        for (int k = 0; k < 16; k++) {
            float x = element((row & 7) * 4 + ((k & 7) >> 1), (row >> 3) + 2 * (k >> 3), k & 1);
            float y = element(column * 4 + ((k & 7) >> 1), 4 + (k >> 3), k & 1);
            sum += x * y;
        }
        sums[i] = sum;
    }
    warp_wait();
    memcpy(c, sums, sizeof sums);
}

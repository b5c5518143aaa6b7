// Rotary positions: pairs of numbers turned by the angle of their position.
//
// Owns one kernel, in place or not, forward or back. Macros: X_T; INTERLEAVED (0: pairs are half a turned range apart, 1:
// neighbours); VEC; INDEX, the type that holds a number of a thread.

// Heads that a thread turns with one reading of the tables. Two of them, 128 threads a block and numbers of 32 bits were
// the best of ten shapes on an H100: 2.4 TB/s with 8 heads of 64, 2.3 with 32 of them, where four heads, 256 threads and
// numbers of 64 bits reach 2.1.
#define HEADS 2

// Pairs `pair` to `pair + VEC` of a head, as first and second members.
DEVICE void read_pairs(const X_T* head, u64 pairs, u64 pair, float (&first)[VEC], float (&second)[VEC]) {
#if INTERLEAVED
    float low[VEC], high[VEC];
    load(head + 2 * pair, low);
    load(head + 2 * pair + VEC, high);
#pragma unroll
    for (int lane = 0; lane < VEC; lane++) {
        int at = 2 * lane;
        first[lane] = at < VEC ? low[at % VEC] : high[at % VEC];
        second[lane] = at + 1 < VEC ? low[(at + 1) % VEC] : high[(at + 1) % VEC];
    }
#else
    load(head + pair, first);
    load(head + pairs + pair, second);
#endif
}
DEVICE void write_pairs(X_T* head, u64 pairs, u64 pair, const float (&first)[VEC], const float (&second)[VEC]) {
#if INTERLEAVED
    float low[VEC], high[VEC];
#pragma unroll
    for (int lane = 0; lane < VEC; lane++) {
        low[lane] = lane % 2 ? second[lane / 2] : first[lane / 2];
        high[lane] = (lane + VEC) % 2 ? second[(lane + VEC) / 2] : first[(lane + VEC) / 2];
    }
    store(head + 2 * pair, low);
    store(head + 2 * pair + VEC, high);
#else
    store(head + pair, first);
    store(head + pairs + pair, second);
#endif
}

// y[b, s, h] = x[b, s, h] with its first `pairs` pairs turned by the angles of position s, times `direction`, and the
// elements of `rest` groups of VEC behind them as they are (0 where y is x). x and y may be the same: a thread reads what
// it writes before it writes, and nobody else does either. Distances are in elements.
//
// A thread owns VEC pairs, or a group of the rest, of HEADS heads of a position; neighbouring threads own the groups of a
// head, then the next heads. So the tables, which are f32, are read once for HEADS heads, and each thread has the pairs
// of HEADS heads in flight. `items` threads have something to do.
KERNEL void __launch_bounds__(128) rope(const X_T* x, u64 x_batch, u64 x_seq, u64 x_head, const float* cos, u64 cos_stride, const float* sin, u64 sin_stride, X_T* y, u64 y_batch, u64 y_seq, u64 y_head, u64 seq, u64 heads, u64 pairs, u64 rest, float direction, u64 items) {
    u64 item = (u64)blockIdx.x * 128 + threadIdx.x;
    if (item >= items) return;
    u64 turned = pairs / VEC, apart = (heads + HEADS - 1) / HEADS;
    INDEX groups = (INDEX)(turned + rest), of_heads = (INDEX)item / groups, position = of_heads / (INDEX)apart;
    u64 group = (INDEX)item % groups, head = of_heads % (INDEX)apart;
    u64 s = position % (INDEX)seq, b = position / (INDEX)seq;
    const X_T* from = x + b * x_batch + s * x_seq;
    X_T* to = y + b * y_batch + s * y_seq;
    if (group >= turned) {
        u64 first = 2 * pairs + (group - turned) * VEC;
        for (u64 h = head; h < heads; h += apart) {
            float same[VEC];
            load(from + h * x_head + first, same);
            store(to + h * y_head + first, same);
        }
        return;
    }
    float first[HEADS][VEC], second[HEADS][VEC], c[VEC], d[VEC];
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        u64 h = head + i * apart;
        if (h < heads) read_pairs(from + h * x_head, pairs, group * VEC, first[i], second[i]);
    }
    load(cos + s * cos_stride + group * VEC, c);
    load(sin + s * sin_stride + group * VEC, d);
#pragma unroll
    for (int lane = 0; lane < VEC; lane++) d[lane] *= direction;
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        u64 h = head + i * apart;
        if (h >= heads) continue;
#pragma unroll
        for (int lane = 0; lane < VEC; lane++) {
            float p = first[i][lane], q = second[i][lane];
            first[i][lane] = p * c[lane] - q * d[lane];
            second[i][lane] = q * c[lane] + p * d[lane];
        }
        write_pairs(to + h * y_head, pairs, group * VEC, first[i], second[i]);
    }
}

// Sums and softmax of rows.
//
// Owns both. Macros: SUM or SOFTMAX, which there is; X_T, the element format; VEC 1|8, neighbours that are read and
// written at once; ROW_THREADS, threads of a row, 32 (a block has several rows) or all of the block; THREADS, threads of a
// block; PARTS, for the softmax, groups of VEC neighbours that a thread keeps of its row, 0 where a row is too long for
// registers.

#ifdef SUM
// x[rows, width] → y[rows]: the sum of each row, divided by `divisor`: the width for a mean, else 1. A row has a warp, or a
// block where it is long; a thread adds every so manieth group of it.
KERNEL void __launch_bounds__(THREADS) sum_of_rows(const X_T* x, u64 x_stride, float* y, u64 rows, u64 width, float divisor) {
    u64 row = row_of_thread();
    if (row >= rows) return;
    u32 lane = threadIdx.x % ROW_THREADS;
    float sum = 0.0f;
#pragma unroll 4
    for (u64 column = (u64)lane * VEC; column < width; column += ROW_THREADS * VEC) {
        float value[VEC];
        load(x + row * x_stride + column, value);
#pragma unroll
        for (int v = 0; v < VEC; v++) sum += value[v];
    }
    sum = row_sum(sum);
    if (lane == 0) y[row] = sum / divisor;
}
#endif

#ifdef SOFTMAX
DEVICE float row_max(float value) {
#if ROW_THREADS == 32
    return warp_max(value);
#else
    __shared__ float scratch[32];
    return block_max(value, scratch);
#endif
}

DEVICE float largest(const float (&x)[VEC], float most) {
#pragma unroll
    for (int v = 0; v < VEC; v++) most = larger(most, x[v]);
    return most;
}
// Elements become their exponentials; gives their sum.
DEVICE float exponentials(float (&x)[VEC], float most) {
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < VEC; v++) {
        x[v] = expf(x[v] - most);
        sum += x[v];
    }
    return sum;
}
DEVICE void scale(float (&x)[VEC], float factor) {
#pragma unroll
    for (int v = 0; v < VEC; v++) x[v] *= factor;
}

#if PARTS > 0
// x[rows, width] → y[rows, width]. A row's threads keep it in registers, so that it is read once; a short row has one
// warp, which needs no barrier.
KERNEL void __launch_bounds__(THREADS) softmax(const X_T* x, u64 x_stride, X_T* y, u64 y_stride, u64 rows, u64 width) {
    u64 row = row_of_thread(), groups = width / VEC;
    if (row >= rows) return;
    u32 lane = threadIdx.x % ROW_THREADS;
    float held[PARTS][VEC], most = bits_to_f32(0xff800000u), sum = 0.0f;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        u64 group = lane + part * ROW_THREADS;
        if (group < groups) load(x + row * x_stride + group * VEC, held[part]);
    }
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        if (lane + part * ROW_THREADS < groups) most = largest(held[part], most);
    }
    most = row_max(most);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        if (lane + part * ROW_THREADS < groups) sum += exponentials(held[part], most);
    }
    float factor = 1.0f / row_sum(sum);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        u64 group = lane + part * ROW_THREADS;
        if (group >= groups) continue;
        scale(held[part], factor);
        store(y + row * y_stride + group * VEC, held[part]);
    }
}
#else
// The same for rows of any length: a block for each row reads it three times, all but the first from cache.
KERNEL void __launch_bounds__(THREADS) softmax_of_long_rows(const X_T* x, u64 x_stride, X_T* y, u64 y_stride, u64 rows, u64 width) {
    u64 row = row_of_thread();
    if (row >= rows) return;
    const X_T* from = x + row * x_stride;
    float group[VEC], most = bits_to_f32(0xff800000u), sum = 0.0f;
    for (u64 column = (u64)threadIdx.x * VEC; column < width; column += THREADS * VEC) {
        load(from + column, group);
        most = largest(group, most);
    }
    most = row_max(most);
    for (u64 column = (u64)threadIdx.x * VEC; column < width; column += THREADS * VEC) {
        load(from + column, group);
        sum += exponentials(group, most);
    }
    float factor = 1.0f / row_sum(sum);
    for (u64 column = (u64)threadIdx.x * VEC; column < width; column += THREADS * VEC) {
        load(from + column, group);
        exponentials(group, most);
        scale(group, factor);
        store(y + row * y_stride + column, group);
    }
}
#endif
#endif

// Norms of rows: RMSNorm (arXiv 1910.07467) and layer norm (arXiv 1607.06450), and the gradient of their input.
//
// Owns the statistics of rows and what is made of a row with them; the gradients of gain and bias are sums over columns,
// which live in reduce.cu where they cannot be made on the way. Macros:
//
// - FORWARD or BACKWARD: which kernels there are;
// - LAYER 0|1: which norm; GAIN, BIAS 0|1: which vectors there are;
// - X_T, DY_T, DX_T, W_T, B_T: element formats; VEC 1|8: neighbours that are read and written at once;
// - ROW_THREADS: threads of a row, 32 (a block has several rows) or all of the block; THREADS: threads of a block;
// - PARTS: groups of VEC neighbours that a thread keeps of its row; 0 where a row is too long for registers;
// - RUN: rows of a block of the gradient with its sums over columns, for rows of a warp; there is this kernel with it.
//
// A program before the norm makes x, one behind the gradient makes the result of dx.

#ifdef PROGRAM_PARAMS
#define PROGRAM 1
#else
#define PROGRAM 0
#define PROGRAM_PARAMS
#define PROGRAM_ARGS
#endif

// The sum over the threads of a row, which all of them receive.
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

#ifdef FORWARD

// In f64, once for each row, so that nothing is lost beside what the sum has lost.
DEVICE float reciprocal_root(float sum, u64 width, double epsilon) {
    return (float)(1.0 / sqrt((double)sum / (double)width + epsilon));
}

// A group of x: what is stored, or what the program makes, rounded to its storage.
DEVICE void read(const X_T* x, u64 x_stride, u64 row, u64 column, float (&to)[VEC] PROGRAM_PARAMS) {
#if PROGRAM
    float none[VEC] = {}, out[OUTPUTS][VEC];
    program(row, column, none, out PROGRAM_ARGS);
#pragma unroll
    for (int v = 0; v < VEC; v++) to[v] = rounded(out[0][v], x);
#else
    load(x + row * x_stride + column, to);
#endif
}

// What a norm adds up for its second statistic.
DEVICE float squares(const float (&x)[VEC], float mean) {
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < VEC; v++) {
        float difference = LAYER ? x[v] - mean : x[v];
        sum = fmaf(difference, difference, sum);
    }
    return sum;
}

DEVICE float plain_sum(const float (&x)[VEC]) {
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < VEC; v++) sum += x[v];
    return sum;
}

// A group of y: `(x - mean) · rstd · w + b`, as far as there are such.
DEVICE void write(const float (&x)[VEC], float mean, float rstd, const W_T* w, const B_T* b, u64 column, X_T* y) {
    float out[VEC], gain[VEC], bias[VEC];
    if (GAIN) load(w + column, gain);
    if (BIAS) load(b + column, bias);
#pragma unroll
    for (int v = 0; v < VEC; v++) {
        float value = (LAYER ? x[v] - mean : x[v]) * rstd;
        if (GAIN) value *= gain[v];
        if (BIAS) value += bias[v];
        out[v] = value;
    }
    store(y, out);
}

#if PARTS > 0
// x[rows, width] → y[rows, width], rstd[rows], for a layer norm mean[rows], with a program x (`made`). A row's threads
// keep it in registers, so that it is read once, with all reads under way before the first is waited for; a short row
// has one warp, which needs no barrier. All of a row's operands are read before a result of it is written, because
// results may lie in their place.
KERNEL void __launch_bounds__(THREADS) norm_rows(const X_T* x, u64 x_stride, X_T* made, u64 made_stride, const W_T* w, const B_T* b, X_T* y, u64 y_stride, float* means, float* rstds, u64 rows, u64 width, double epsilon PROGRAM_PARAMS) {
    u64 row = row_of_thread(), groups = width / VEC;
    if (row >= rows) return;
    u32 lane = threadIdx.x % ROW_THREADS;
    float held[PARTS][VEC];
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        u64 group = lane + part * ROW_THREADS;
        if (group < groups) read(x, x_stride, row, group * VEC, held[part] PROGRAM_ARGS);
    }
    float mean = 0.0f, sum = 0.0f;
#if LAYER
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        if (lane + part * ROW_THREADS < groups) sum += plain_sum(held[part]);
    }
    mean = row_sum(sum) / (float)width;
    sum = 0.0f;
#endif
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        if (lane + part * ROW_THREADS < groups) sum += squares(held[part], mean);
    }
    float rstd = reciprocal_root(row_sum(sum), width, epsilon);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        u64 group = lane + part * ROW_THREADS;
        if (group >= groups) continue;
        if (PROGRAM) store(made + row * made_stride + group * VEC, held[part]);
        write(held[part], mean, rstd, w, b, group * VEC, y + row * y_stride + group * VEC);
    }
    if (lane == 0) {
        rstds[row] = rstd;
        if (LAYER) means[row] = mean;
    }
}
#else
// The same for rows of any length: a block for each row reads it for each statistic and for y, the later times from
// cache. What a program makes is stored first and then read in its place.
KERNEL void __launch_bounds__(THREADS) norm_of_long_rows(const X_T* x, u64 x_stride, X_T* made, u64 made_stride, const W_T* w, const B_T* b, X_T* y, u64 y_stride, float* means, float* rstds, u64 rows, u64 width, double epsilon PROGRAM_PARAMS) {
    u64 row = row_of_thread();
    if (row >= rows) return;
    const X_T* from = PROGRAM ? made + row * made_stride : x + row * x_stride;
    float mean = 0.0f, sum = 0.0f, group[VEC];
#if PROGRAM || LAYER
    for (u64 column = (u64)threadIdx.x * VEC; column < width; column += THREADS * VEC) {
        read(x, x_stride, row, column, group PROGRAM_ARGS);
        if (PROGRAM) store(made + row * made_stride + column, group);
        if (LAYER) sum += plain_sum(group);
    }
#endif
#if LAYER
    mean = row_sum(sum) / (float)width;
    sum = 0.0f;
#endif
    for (u64 column = (u64)threadIdx.x * VEC; column < width; column += THREADS * VEC) {
        load(from + column, group);
        sum += squares(group, mean);
    }
    float rstd = reciprocal_root(row_sum(sum), width, epsilon);
    for (u64 column = (u64)threadIdx.x * VEC; column < width; column += THREADS * VEC) {
        load(from + column, group);
        write(group, mean, rstd, w, b, column, y + row * y_stride + column);
    }
    if (threadIdx.x == 0) {
        rstds[row] = rstd;
        if (LAYER) means[row] = mean;
    }
}
#endif
#endif

#ifdef BACKWARD

// A group of `g = dy · w` and of x, for a layer norm less the mean.
DEVICE void read(const DY_T* dy, const X_T* x, const W_T* w, u64 column, float mean, float (&g)[VEC], float (&centred)[VEC]) {
    load(dy + column, g);
    load(x + column, centred);
    float gain[VEC];
    if (GAIN) load(w + column, gain);
#pragma unroll
    for (int v = 0; v < VEC; v++) {
        if (GAIN) g[v] *= gain[v];
        if (LAYER) centred[v] -= mean;
    }
}

// The numbers of a row that the gradient of each of its elements needs: the mean of g (0 for an RMSNorm) and the factor
// of x.
struct RowFactors {
    float rstd, mean_g, factor;
};
DEVICE RowFactors row_factors(float sum_g, float sum_gx, float rstd, u64 width) {
    RowFactors factors;
    factors.rstd = rstd;
    factors.mean_g = LAYER ? row_sum(sum_g) / (float)width : 0.0f;
    factors.factor = (LAYER ? rstd * rstd : rstd * rstd * rstd) * (row_sum(sum_gx) / (float)width);
    return factors;
}
DEVICE void add_products(const float (&g)[VEC], const float (&centred)[VEC], float& sum_g, float& sum_gx) {
#pragma unroll
    for (int v = 0; v < VEC; v++) {
        if (LAYER) sum_g += g[v];
        sum_gx = fmaf(g[v], centred[v], sum_gx);
    }
}
// A group of dx, or of what the program makes of it, rounded to its storage.
DEVICE void write(const float (&g)[VEC], const float (&centred)[VEC], RowFactors f, u64 row, u64 column, DX_T* dx PROGRAM_PARAMS) {
    float given[VEC];
#pragma unroll
    for (int v = 0; v < VEC; v++) {
        given[v] = LAYER ? f.rstd * fmaf(-f.factor, centred[v], g[v] - f.mean_g) : fmaf(-f.factor, centred[v], f.rstd * g[v]);
    }
#if PROGRAM
    float out[OUTPUTS][VEC];
#pragma unroll
    for (int v = 0; v < VEC; v++) given[v] = rounded(given[v], dx);
    program(row, column, given, out PROGRAM_ARGS);
    store(dx, out[0]);
#else
    store(dx, given);
#endif
}

#if PARTS > 0
// The threads of a block, and for a layer norm with sixteen numbers a thread how many blocks a multiprocessor has at least:
// that leaves each thread 64 registers. By itself the assembler for sm_80 aims at fewer, and spills.
#if LAYER && PARTS * VEC == 16
#define BOUNDS THREADS, 1024 / THREADS
#else
#define BOUNDS THREADS
#endif

// dy[rows, width], x[rows, width], w[width], mean[rows], rstd[rows] → dx[rows, width]. Threads as in `norm_rows`. The last row
// comes first: the gradients of gain and bias have read the same rows from the first on just before, and what they
// read last is still in cache.
KERNEL void __launch_bounds__(BOUNDS) norm_backward(const DY_T* dy, u64 dy_stride, const X_T* x, u64 x_stride, const W_T* w, const float* means, const float* rstds, DX_T* dx, u64 dx_stride, u64 rows, u64 width PROGRAM_PARAMS) {
    u64 row = row_of_thread(), groups = width / VEC;
    if (row >= rows) return;
    row = rows - 1 - row;
    u32 lane = threadIdx.x % ROW_THREADS;
    float rstd = rstds[row], mean = LAYER ? means[row] : 0.0f;
    float g[PARTS][VEC], centred[PARTS][VEC];
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        u64 group = lane + part * ROW_THREADS;
        if (group < groups) read(dy + row * dy_stride, x + row * x_stride, w, group * VEC, mean, g[part], centred[part]);
    }
    float sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        if (lane + part * ROW_THREADS < groups) add_products(g[part], centred[part], sum_g, sum_gx);
    }
    RowFactors factors = row_factors(sum_g, sum_gx, rstd, width);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        u64 group = lane + part * ROW_THREADS;
        if (group < groups) write(g[part], centred[part], factors, row, group * VEC, dx + row * dx_stride + group * VEC PROGRAM_ARGS);
    }
}
#else
// The same for rows of any length: a block for each row reads it twice, the second time from cache.
KERNEL void __launch_bounds__(THREADS) norm_backward_of_long_rows(const DY_T* dy, u64 dy_stride, const X_T* x, u64 x_stride, const W_T* w, const float* means, const float* rstds, DX_T* dx, u64 dx_stride, u64 rows, u64 width PROGRAM_PARAMS) {
    u64 row = row_of_thread();
    if (row >= rows) return;
    row = rows - 1 - row;
    float rstd = rstds[row], mean = LAYER ? means[row] : 0.0f;
    float g[VEC], centred[VEC], sum_g = 0.0f, sum_gx = 0.0f;
    for (u64 column = (u64)threadIdx.x * VEC; column < width; column += THREADS * VEC) {
        read(dy + row * dy_stride, x + row * x_stride, w, column, mean, g, centred);
        add_products(g, centred, sum_g, sum_gx);
    }
    RowFactors factors = row_factors(sum_g, sum_gx, rstd, width);
    for (u64 column = (u64)threadIdx.x * VEC; column < width; column += THREADS * VEC) {
        read(dy + row * dy_stride, x + row * x_stride, w, column, mean, g, centred);
        write(g, centred, factors, row, column, dx + row * dx_stride + column PROGRAM_ARGS);
    }
}
#endif

#ifdef RUN
#define ROW_LANES (THREADS / 32)

// Adds what the warps of a block have for the same columns, in order, and stores it as a row.
DEVICE void store_sums(const float (&own)[PARTS][VEC], float (*scratch)[PARTS * VEC * 32], float* to, u64 width) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    __syncthreads();
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
        for (int v = 0; v < VEC; v++) scratch[warp][(part * VEC + v) * 32 + lane] = own[part][v];
    }
    __syncthreads();
    for (u32 place = threadIdx.x; place < PARTS * VEC * 32; place += THREADS) {
        float sum = scratch[0][place];
#pragma unroll
        for (int other = 1; other < ROW_LANES; other++) sum += scratch[other][place];
        u64 column = (u64)(place / 32 / VEC * 32 + place % 32) * VEC + place / 32 % VEC;
        if (column < width) to[column] = sum;
    }
}

// The same as `norm_backward`, with what `column_partials` of reduce.cu makes: products[⌈rows/RUN⌉, width] and
// sums[⌈rows/RUN⌉, width] for the gradients of gain and bias. A block for each run of rows, a warp for each row; the warp
// keeps the sums of its rows in registers. So dy and x are read once: on an H100 65536 rows of 512 take 0.075 ms where two
// kernels take 0.119 ms. Only where there are as many runs as the device has multiprocessors.
KERNEL void __launch_bounds__(THREADS) norm_backward_with_vectors(const DY_T* dy, u64 dy_stride, const X_T* x, u64 x_stride, const W_T* w, const float* means, const float* rstds, DX_T* dx, u64 dx_stride, float* products, float* sums, u64 rows, u64 width PROGRAM_PARAMS) {
    __shared__ float scratch[ROW_LANES][PARTS * VEC * 32];
    u64 begin = (u64)blockIdx.x * RUN, end = begin + RUN < rows ? begin + RUN : rows, groups = width / VEC;
    u32 lane = threadIdx.x % 32;
    float gain[PARTS][VEC], product[PARTS][VEC] = {}, sum[PARTS][VEC] = {};
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        u64 group = lane + part * 32;
        if (GAIN && group < groups) load(w + group * VEC, gain[part]);
    }
    for (u64 row = begin + threadIdx.x / 32; row < end; row += ROW_LANES) {
        float rstd = rstds[row], mean = LAYER ? means[row] : 0.0f;
        float g[PARTS][VEC], centred[PARTS][VEC];
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            u64 group = lane + part * 32;
            if (group >= groups) continue;
            load(dy + row * dy_stride + group * VEC, g[part]);
            load(x + row * x_stride + group * VEC, centred[part]);
        }
        float sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            if (lane + part * 32 >= groups) continue;
#pragma unroll
            for (int v = 0; v < VEC; v++) {
                if (LAYER) centred[part][v] -= mean;
                if (GAIN) product[part][v] = fmaf(g[part][v] * rstd, centred[part][v], product[part][v]);
                if (BIAS) sum[part][v] += g[part][v];
                if (GAIN) g[part][v] *= gain[part][v];
            }
            add_products(g[part], centred[part], sum_g, sum_gx);
        }
        RowFactors factors = row_factors(sum_g, sum_gx, rstd, width);
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            u64 group = lane + part * 32;
            if (group < groups) write(g[part], centred[part], factors, row, group * VEC, dx + row * dx_stride + group * VEC PROGRAM_ARGS);
        }
    }
    if (GAIN) store_sums(product, scratch, products + (u64)blockIdx.x * width, width);
    if (BIAS) store_sums(sum, scratch, sums + (u64)blockIdx.x * width, width);
}
#endif
#endif

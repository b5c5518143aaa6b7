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
// - RUN: rows of a block of the gradient with its sums over columns; it is the only kernel then. Its rows have a warp
//   each (BY_WARPS), or ROW_THREADS of the block's threads.
//
// A program before the norm makes x, one behind the gradient makes the result of dx.

#ifdef PROGRAM_PARAMS
#define PROGRAM 1
#else
#define PROGRAM 0
#define PROGRAM_PARAMS
#define PROGRAM_ARGS
#endif

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
// From the sums over the whole row.
DEVICE RowFactors row_factors(float sum_g, float sum_gx, float rstd, u64 width) {
    RowFactors factors;
    factors.rstd = rstd;
    factors.mean_g = LAYER ? sum_g / (float)width : 0.0f;
    factors.factor = (LAYER ? rstd * rstd : rstd * rstd * rstd) * (sum_gx / (float)width);
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

#if PARTS > 0 && !defined(RUN)
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
    RowFactors factors = row_factors(LAYER ? row_sum(sum_g) : 0.0f, row_sum(sum_gx), rstd, width);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        u64 group = lane + part * ROW_THREADS;
        if (group < groups) write(g[part], centred[part], factors, row, group * VEC, dx + row * dx_stride + group * VEC PROGRAM_ARGS);
    }
}
#elif !defined(RUN)
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
    RowFactors factors = row_factors(LAYER ? row_sum(sum_g) : 0.0f, row_sum(sum_gx), rstd, width);
    for (u64 column = (u64)threadIdx.x * VEC; column < width; column += THREADS * VEC) {
        read(dy + row * dy_stride, x + row * x_stride, w, column, mean, g, centred);
        write(g, centred, factors, row, column, dx + row * dx_stride + column PROGRAM_ARGS);
    }
}
#endif

#ifdef RUN
#define ROWS_AT_ONCE (THREADS / ROW_THREADS)

// Adds what the rows of a block have for the same columns, in order, and stores it as a row.
DEVICE void store_sums(const float (&own)[PARTS][VEC], float (*scratch)[PARTS * VEC * ROW_THREADS], float* to, u64 width) {
    u32 lane = threadIdx.x % ROW_THREADS, row = threadIdx.x / ROW_THREADS;
    __syncthreads();
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
        for (int v = 0; v < VEC; v++) scratch[row][(part * VEC + v) * ROW_THREADS + lane] = own[part][v];
    }
    __syncthreads();
    for (u32 place = threadIdx.x; place < PARTS * VEC * ROW_THREADS; place += THREADS) {
        float sum = scratch[0][place];
#pragma unroll
        for (int other = 1; other < ROWS_AT_ONCE; other++) sum += scratch[other][place];
        u64 group = place / ROW_THREADS / VEC * ROW_THREADS + place % ROW_THREADS;
        u64 column = group * VEC + place / ROW_THREADS % VEC;
        if (column < width) to[column] = sum;
    }
}

#ifdef BY_WARPS
// The same as `norm_backward`, with what `column_partials` of reduce.cu makes: products[⌈rows/RUN⌉, width] and
// sums[⌈rows/RUN⌉, width] for the gradients of gain and bias. A block for each run of rows, a warp for each row; the warp
// keeps the sums of its rows in registers. So dy and x are read once: on an H100 65536 rows of 512 take 0.075 ms where two
// kernels take 0.119 ms. Only where a multiprocessor has several such blocks: one alone has too little under way.
KERNEL void __launch_bounds__(THREADS) norm_backward_by_warps(const DY_T* dy, u64 dy_stride, const X_T* x, u64 x_stride, const W_T* w, const float* means, const float* rstds, DX_T* dx, u64 dx_stride, float* products, float* sums, u64 rows, u64 width PROGRAM_PARAMS) {
    __shared__ float scratch[ROWS_AT_ONCE][PARTS * VEC * ROW_THREADS];
    u64 begin = (u64)blockIdx.x * RUN, end = begin + RUN < rows ? begin + RUN : rows, groups = width / VEC;
    u32 lane = threadIdx.x % 32;
    float gain[PARTS][VEC], product[PARTS][VEC] = {}, sum[PARTS][VEC] = {};
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        u64 group = lane + part * 32;
        if (GAIN && group < groups) load(w + group * VEC, gain[part]);
    }
    for (u64 row = begin + threadIdx.x / 32; row < end; row += ROWS_AT_ONCE) {
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
        RowFactors factors = row_factors(LAYER ? row_sum(sum_g) : 0.0f, row_sum(sum_gx), rstd, width);
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            u64 group = lane + part * 32;
            if (group < groups) write(g[part], centred[part], factors, row, group * VEC, dx + row * dx_stride + group * VEC PROGRAM_ARGS);
        }
    }
    if (GAIN) store_sums(product, scratch, products + (u64)blockIdx.x * width, width);
    if (BIAS) store_sums(sum, scratch, sums + (u64)blockIdx.x * width, width);
}
#else
// Eight neighbours as they are stored: they can be under way while arithmetic has the registers that they unfold to.
template <class T>
struct Stored {
    Pack pack[sizeof(T) / 2];
};
template <class T>
DEVICE void fetch(const T* from, Stored<T>& to) {
#pragma unroll
    for (int i = 0; i < (int)sizeof(T) / 2; i++) to.pack[i] = ((const Pack*)from)[i];
}
template <class T>
DEVICE void unfold(const Stored<T>& from, float (&to)[VEC]) { load((const T*)from.pack, to); }

// Sums over the rows that a block has at once, each of ROW_THREADS threads: `found` has a place for each warp. One barrier
// is enough where calls take turns in two such places.
DEVICE void sums_of_rows(float& sum_g, float& sum_gx, float (&found)[2][THREADS / 32]) {
    if (LAYER) sum_g = warp_sum(sum_g);
    sum_gx = warp_sum(sum_gx);
#if ROW_THREADS > 32
    if (threadIdx.x % 32 == 0) {
        found[0][threadIdx.x / 32] = sum_g;
        found[1][threadIdx.x / 32] = sum_gx;
    }
    __syncthreads();
    u32 first = threadIdx.x / ROW_THREADS * (ROW_THREADS / 32);
    sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll
    for (int warp = 0; warp < ROW_THREADS / 32; warp++) {
        if (LAYER) sum_g += found[0][first + warp];
        sum_gx += found[1][first + warp];
    }
#endif
}

// The same with a large block for each run: a thread has the same eight columns of every row, and a row as many warps as
// that takes. dy and x are read once, where `column_partials` and `norm_backward` read them twice: with a program that
// reads another such tensor four of them pass through memory and not six.
//
// A block has a multiprocessor to itself, so what is under way is what it asks for. An H100 moves 3.3 TB/s; at a latency
// of about 0.8 µs this is 2.6 MB under way, 20 KB on each of 132 multiprocessors, and 40 KB where a micro-batch of 16384
// rows has 64 runs and as many are at work. 1024 threads with 16 bytes each of dy and x are 32 KB: the next rows are asked
// for before the sums over the present ones are waited for, and the program's operand adds its 16 KB. A block of 512
// threads has as much in f32.
KERNEL void __launch_bounds__(THREADS, 1) norm_backward_of_runs(const DY_T* dy, u64 dy_stride, const X_T* x, u64 x_stride, const W_T* w, const float* means, const float* rstds, DX_T* dx, u64 dx_stride, float* products, float* sums, u64 rows, u64 width PROGRAM_PARAMS) {
    __shared__ float scratch[ROWS_AT_ONCE][VEC * ROW_THREADS];
    __shared__ float found[2][2][THREADS / 32];
    u64 begin = (u64)blockIdx.x * RUN, end = begin + RUN < rows ? begin + RUN : rows;
    u64 row = begin + threadIdx.x / ROW_THREADS, column = (u64)(threadIdx.x % ROW_THREADS) * VEC;
    bool inside = column < width;
    float gain[VEC] = {}, product[1][VEC] = {}, sum[1][VEC] = {};
    if (GAIN && inside) load(w + column, gain);
    Stored<DY_T> next_dy = {};
    Stored<X_T> next_x = {};
    float next_rstd = 0.0f, next_mean = 0.0f;
    auto ask = [&](u64 row) {
        if (!inside || row >= end) return;
        fetch(dy + row * dy_stride + column, next_dy);
        fetch(x + row * x_stride + column, next_x);
        next_rstd = rstds[row];
        if (LAYER) next_mean = means[row];
    };
    ask(row);
    for (u32 turn = 0; begin < end; begin += ROWS_AT_ONCE, row += ROWS_AT_ONCE, turn ^= 1) {
        bool there = inside && row < end;
        float g[VEC], centred[VEC], rstd = next_rstd, mean = next_mean, sum_g = 0.0f, sum_gx = 0.0f;
        unfold(next_dy, g);
        unfold(next_x, centred);
        ask(row + ROWS_AT_ONCE);
        if (there) {
#pragma unroll
            for (int v = 0; v < VEC; v++) {
                if (LAYER) centred[v] -= mean;
                if (GAIN) product[0][v] = fmaf(g[v] * rstd, centred[v], product[0][v]);
                if (BIAS) sum[0][v] += g[v];
                if (GAIN) g[v] *= gain[v];
            }
            add_products(g, centred, sum_g, sum_gx);
        }
        sums_of_rows(sum_g, sum_gx, found[turn]);
        if (there) write(g, centred, row_factors(sum_g, sum_gx, rstd, width), row, column, dx + row * dx_stride + column PROGRAM_ARGS);
    }
    if (GAIN) store_sums(product, scratch, products + (u64)blockIdx.x * width, width);
    if (BIAS) store_sums(sum, scratch, sums + (u64)blockIdx.x * width, width);
}
#endif
#endif
#endif

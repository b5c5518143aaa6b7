// Sums over many elements: columns of a matrix, everything, the norm of the gradient.
//
// Owns the order of addition: partial sums over fixed ranges in the workspace, then the partial sums. A second kernel
// adds those because nothing orders the blocks of one. Macros:
//
// - DY_T (with X_T, PRODUCTS, SUMS, CENTRED, VEC): there is `column_partials`;
// - BLOCK_T (with VEC): the element format of what is summed as a whole; there are `sum_blocks` and `square_blocks`;
// - TARGET_T (with VEC): the element format of a result with a write mode.

#ifdef DY_T
// Rows of a partial sum, as the plan's workspace is sized for them.
#define REDUCTION_ROWS 256
// Columns of a block, groups of them, and rows that a block reads at once.
#define COLUMNS 128
#define GROUPS (COLUMNS / VEC)
#define ROW_LANES (256 / GROUPS)

// Adds what the threads of a block have for the same columns and stores it.
DEVICE void store_columns(const float (&mine)[VEC], float* to, u64 first, u64 width) {
    __shared__ float parts[ROW_LANES][COLUMNS];
    __syncthreads();
#pragma unroll
    for (int v = 0; v < VEC; v++) parts[threadIdx.x / GROUPS][threadIdx.x % GROUPS * VEC + v] = mine[v];
    __syncthreads();
    if (threadIdx.x < COLUMNS && first + threadIdx.x < width) {
        float sum = parts[0][threadIdx.x];
        for (int lane = 1; lane < ROW_LANES; lane++) sum += parts[lane][threadIdx.x];
        to[first + threadIdx.x] = sum;
    }
}

// dy[rows, width] → sums[⌈rows/256⌉, width] over runs of 256 rows, where there are SUMS; and, where there are PRODUCTS,
// products[⌈rows/256⌉, width] of `dy · x · rstd`, with CENTRED `dy · (x - mean) · rstd`: the gradients of a norm's
// vectors. A block for each run and each 128 columns: more blocks than a run for each would be, and every access is still
// of 256 neighbouring bytes in bf16. Its threads take their columns of every 16th row (of every second one with narrow
// accesses), so that several rows are under way at once.
KERNEL void __launch_bounds__(256) column_partials(const DY_T* dy, u64 dy_stride, const X_T* x, u64 x_stride, const float* means, const float* rstds, float* products, float* sums, u64 rows, u64 width) {
    u64 tiles = (width + COLUMNS - 1) / COLUMNS;
    u64 run = blockIdx.x / tiles, first = blockIdx.x % tiles * COLUMNS;
    u64 column = first + threadIdx.x % GROUPS * VEC;
    u64 begin = run * REDUCTION_ROWS, end = begin + REDUCTION_ROWS < rows ? begin + REDUCTION_ROWS : rows;
    float product[VEC] = {}, sum[VEC] = {};
    if (column < width) {
#pragma unroll 4
        for (u64 row = begin + threadIdx.x / GROUPS; row < end; row += ROW_LANES) {
            float gradient[VEC];
            load(dy + row * dy_stride + column, gradient);
#if PRODUCTS
            float value[VEC];
            load(x + row * x_stride + column, value);
            float rstd = rstds[row], mean = CENTRED ? means[row] : 0.0f;
#pragma unroll
            for (int v = 0; v < VEC; v++) product[v] = fmaf(gradient[v] * rstd, CENTRED ? value[v] - mean : value[v], product[v]);
#endif
            if (SUMS) {
#pragma unroll
                for (int v = 0; v < VEC; v++) sum[v] += gradient[v];
            }
        }
    }
    if (PRODUCTS) store_columns(product, products + run * width, first, width);
    if (SUMS) store_columns(sum, sums + run * width, first, width);
}
#endif

#ifdef TARGET_T
// partials[count, width] → target[width]: the sum of the rows, or added to what is there. A block for each 32 columns,
// each of its warps takes every 32nd row: few blocks, so that what counts is how many reads follow one another.
KERNEL void __launch_bounds__(1024) sum_partials(const float* partials, u64 count, TARGET_T* target, u64 width, u32 mode, const float* condition) {
    __shared__ float parts[32][32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 column = (u64)blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 8
        for (u64 row = warp; row < count; row += 32) sum += partials[row * width + column];
    }
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < width) {
        for (int other = 1; other < 32; other++) sum += parts[other][lane];
        if (adds(mode, condition)) sum += to_f32(target[column]);
        set(&target[column], sum);
    }
}

// sums[rows, width] without gaps → target[rows, width]: rounded once, or added to what is there. A thread for each group
// of neighbours; a block for 1024 groups.
KERNEL void __launch_bounds__(256) store_sums(const float* sums, TARGET_T* target, u64 target_stride, u64 rows, u64 width, u32 mode, const float* condition) {
    u64 across = width / VEC;
    bool add = adds(mode, condition);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u64 group = (u64)blockIdx.x * 1024 + i * 256 + threadIdx.x;
        if (group >= rows * across) continue;
        TARGET_T* place = target + group / across * target_stride + group % across * VEC;
        float value[VEC], old[VEC];
        load(sums + group * VEC, value);
        if (add) {
            load(place, old);
#pragma unroll
            for (int v = 0; v < VEC; v++) value[v] += old[v];
        }
        store(place, value);
    }
}

// partials[count] → y[1]: their sum, or added to what is there. One block.
KERNEL void __launch_bounds__(256) finish_sum(const double* partials, u64 count, TARGET_T* y, u32 mode, const float* condition) {
    __shared__ double scratch[32];
    double sum = 0.0;
    for (u64 i = threadIdx.x; i < count; i += 256) sum += partials[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        if (adds(mode, condition)) sum += (double)to_f32(*y);
        set(y, (float)sum);
    }
}
#endif

#ifdef BLOCK_T
// x[rows, width] → partials[⌈rows/each⌉]: the sum in f64 of each run of `each` rows, about 2¹⁶ elements, or of one row where
// rows are longer. A block for each run.
KERNEL void __launch_bounds__(256) sum_blocks(const BLOCK_T* x, u64 x_stride, u64 rows, u64 width, u64 each, double* partials) {
    __shared__ double scratch[32];
    u64 begin = blockIdx.x * each, count = begin + each < rows ? each : rows - begin;
    u64 across = width / VEC;
    double sum = 0.0;
#pragma unroll 4
    for (u64 group = threadIdx.x; group < count * across; group += 256) {
        // A run of more rows than one has too few elements for a division of 64 bits to be needed.
        u64 row = count == 1 ? 0 : (u32)group / (u32)across;
        float value[VEC];
        load(x + (begin + row) * x_stride + (group - row * across) * VEC, value);
#pragma unroll
        for (int v = 0; v < VEC; v++) sum += (double)value[v];
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// x[length] → partials[⌈length/2¹⁶⌉, 2]: of each run of 2¹⁶ elements the sum of squares in f64, and 1 where all are finite,
// else 0. Squares of f32 do not overflow an f64, so the sum is finite exactly when every element is. A block for each
// run; four chains of additions for each thread, because those in f64 are slow.
KERNEL void __launch_bounds__(256) square_blocks(const BLOCK_T* x, u64 length, double* partials) {
    __shared__ double scratch[32];
    u64 begin = (u64)blockIdx.x << 16, end = begin + (1 << 16) < length ? begin + (1 << 16) : length;
    double sums[4] = {};
#pragma unroll 4
    for (u64 i = begin + threadIdx.x * VEC; i < end; i += 256 * VEC) {
        float value[VEC];
        load(x + i, value);
#pragma unroll
        for (int v = 0; v < VEC; v++) sums[v % 4] = fma((double)value[v], (double)value[v], sums[v % 4]);
    }
    double sum = block_sum((sums[0] + sums[1]) + (sums[2] + sums[3]), scratch);
    if (threadIdx.x == 0) {
        partials[2 * blockIdx.x] = sum;
        partials[2 * blockIdx.x + 1] = sum - sum == 0.0 ? 1.0 : 0.0;
    }
}

// partials[count, 2] → norm[1], finite[1]: the root of the sums' sum, and 1 where all flags are. One block.
KERNEL void __launch_bounds__(1024) finish_norm(const double* partials, u64 count, float* norm, float* finite) {
    __shared__ double scratch[32];
    double sum = 0.0, missing = 0.0;
    for (u64 i = threadIdx.x; i < count; i += 1024) {
        sum += partials[2 * i];
        missing += 1.0 - partials[2 * i + 1];
    }
    sum = block_sum(sum, scratch);
    missing = block_sum(missing, scratch);
    if (threadIdx.x == 0) {
        *norm = (float)sqrt(sum);
        *finite = missing == 0.0 ? 1.0f : 0.0f;
    }
}
#endif

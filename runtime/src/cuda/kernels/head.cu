// The loss of the language-model head, one chunk of positions at a time, between the products that make logits and those
// that read their gradient.
//
// Owns what is done to a chunk of logits, and the sums over its columns and positions.
// Macros: for `loss_rows` none; for `positions` B_T and BIAS (0, 1), TRANSFORM (0, 1: the generated functions `transform`
// and, with a gradient, `derivative`), GRADIENT (0, 1) and G_T, the gradient's format, and VEC; for `column_sums` SUMMED_T
// and VEC.

#ifdef GRADIENT
#define GROUPS (VEC == 8 ? 2 : 8)  // Groups of VEC neighbours that a thread has in flight.
#define POSITION_THREADS 512  // As the launch has them.

// The product of a position and a token with the bias, for the groups of a step; negative infinity beyond the end.
DEVICE void read_step(const float* row, const B_T* bias, u64 first, u64 width, float (&z)[GROUPS][VEC]) {
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        u64 column = first + (u64)group * POSITION_THREADS * VEC;
#pragma unroll
        for (int lane = 0; lane < VEC; lane++) z[group][lane] = bits_to_f32(0xff800000u);
        if (column < width) load(row + column, z[group]);
    }
#if BIAS
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        u64 column = first + (u64)group * POSITION_THREADS * VEC;
        if (column < width) {
            float b[VEC];
            load(bias + column, b);
#pragma unroll
            for (int lane = 0; lane < VEC; lane++) z[group][lane] += b[lane];
        }
    }
#endif
}

// What the gradient of a position without a label inside the row is made of: 0 where it is to be ignored.
DEVICE void fill_of(i32 label, float (&fill)[VEC]) {
#pragma unroll
    for (int lane = 0; lane < VEC; lane++) fill[lane] = bits_to_f32(label == -100 ? 0u : 0x7fffffffu);
}

// What the gradient at the label is less by: not a number where its logit, and so the loss, is not finite.
DEVICE float of_label(float factor, float logit) {
    return logit - logit == 0.0f ? factor : bits_to_f32(0x7fffffffu);
}

DEVICE float logit(float z) {
#if TRANSFORM
    return transform(z);
#else
    return z;
#endif
}

// losses[p] = logsumexp(f(z)) - f(z)[label] with z = logits[p] + bias; with a gradient row p of the logits becomes
// scale · (softmax(f(z)) - onehot(label)) · f'(z). A label of -100 makes 0 of both, any other outside the row NaN of both,
// and where the loss is not finite the gradient at the label is NaN, too. A block for each position: one pass for maximum
// and sum, and one that finds the row, 128 KiB for 32000 tokens, in the cache again.
//
// A gradient in bf16 fills the first half of its row's bytes. In a step the block reads `step` numbers of 4 bytes from
// element i · step on and after the barrier writes as many of 2 bytes: up to byte 2 · (i + 1) · step, while what is unread
// begins at byte 4 · (i + 1) · step.
KERNEL void __launch_bounds__(512) positions(float* logits, u64 width, const i32* labels, const B_T* bias, const float* scale, double* losses) {
    __shared__ float scratch[32];
    float* row = logits + (u64)blockIdx.x * width;
    i32 label = labels[blockIdx.x];
    bool valid = label >= 0 && (u64)label < width;
    const u64 step = (u64)POSITION_THREADS * VEC * GROUPS;
    u64 own = (u64)threadIdx.x * VEC;
    if (!valid) {
        if (threadIdx.x == 0) losses[blockIdx.x] = bits_to_f32(label == -100 ? 0u : 0x7fffffffu);
#if GRADIENT
        float fill[VEC];
        fill_of(label, fill);
        for (u64 column = own; column < width; column += (u64)POSITION_THREADS * VEC) store((G_T*)row + column, fill);
#endif
        return;
    }
    __shared__ float target;
    if (threadIdx.x == 0) {
        float z = row[label];
#if BIAS
        z += to_f32(bias[label]);
#endif
        target = logit(z);
    }
    // The least number, so that what is beyond the end counts as 0 and differences are never those of infinities.
    float most = bits_to_f32(0xff7fffffu), sum = 0.0f;
    for (u64 first = own; first < width; first += step) {
        float z[GROUPS][VEC];
        read_step(row, bias, first, width, z);
        float here = most;
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            // What is beyond the end stays negative infinity, which no function is asked about.
            bool there = first + (u64)group * POSITION_THREADS * VEC < width;
#pragma unroll
            for (int lane = 0; lane < VEC; lane++) {
                if (there) z[group][lane] = logit(z[group][lane]);
                here = larger(here, z[group][lane]);
            }
        }
        if (here > most) {
            sum *= expf(most - here);
            most = here;
        }
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            float part = 0.0f;
#pragma unroll
            for (int lane = 0; lane < VEC; lane++) part += expf(z[group][lane] - most);
            sum += part;
        }
    }
    float own_most = most;
    most = block_max(most, scratch);
    sum = block_sum(sum * expf(own_most - most), scratch);
    if (threadIdx.x == 0) losses[blockIdx.x] = (double)most + log((double)sum) - (double)target;
#if GRADIENT
    float factor = *scale, share = factor / sum, at_label = of_label(factor, target);
    // All threads take the same number of steps, because all meet in each.
    for (u64 first = 0; first < width; first += step) {
        float z[GROUPS][VEC];
        read_step(row, bias, first + own, width, z);
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            u64 column = first + own + (u64)group * POSITION_THREADS * VEC;
#pragma unroll
            for (int lane = 0; lane < VEC; lane++) {
                float gradient = expf(logit(z[group][lane]) - most) * share;
                if (column + lane == (u64)label) gradient -= at_label;
#if TRANSFORM
                gradient = derivative(z[group][lane], gradient);
#endif
                z[group][lane] = gradient;
            }
        }
        __syncthreads();
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            u64 column = first + own + (u64)group * POSITION_THREADS * VEC;
            if (column < width) store((G_T*)row + column, z[group]);
        }
    }
#endif
}

#ifdef PARTS
#define HELD_THREADS 1024  // As the launch has them.

// The same for a row of at most 8192 · PARTS numbers that has a gradient and no transform: the block keeps all of it in
// registers, so that memory is read once and every exponential computed once. `positions` has three blocks on each
// multiprocessor, whose rows are more than the second cache holds: on an H100 2048 rows of 32000 take it 0.218 ms, this
// 0.150 ms, 2.6 TB/s.
KERNEL void __launch_bounds__(1024) positions_held(float* logits, u64 width, const i32* labels, const B_T* bias, const float* scale, double* losses) {
    __shared__ float scratch[32];
    float* row = logits + (u64)blockIdx.x * width;
    i32 label = labels[blockIdx.x];
    u32 columns = (u32)width, own = threadIdx.x * VEC;
    if (label < 0 || (u32)label >= columns) {
        if (threadIdx.x == 0) losses[blockIdx.x] = bits_to_f32(label == -100 ? 0u : 0x7fffffffu);
        float fill[VEC];
        fill_of(label, fill);
        for (u32 column = own; column < columns; column += HELD_THREADS * VEC) store((G_T*)row + column, fill);
        return;
    }
    __shared__ float target;
    if (threadIdx.x == 0) {
        float z = row[label];
#if BIAS
        z += to_f32(bias[label]);
#endif
        target = z;
    }
    float z[PARTS][VEC];
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) {
        u32 column = part * HELD_THREADS * VEC + own;
#pragma unroll
        for (int lane = 0; lane < VEC; lane++) z[part][lane] = bits_to_f32(0xff800000u);
        if (column < columns) load(row + column, z[part]);
    }
    // The least number, as in `positions`.
    float most = bits_to_f32(0xff7fffffu), sum = 0.0f;
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) {
#if BIAS
        u32 column = part * HELD_THREADS * VEC + own;
        if (column < columns) {
            float b[VEC];
            load(bias + column, b);
#pragma unroll
            for (int lane = 0; lane < VEC; lane++) z[part][lane] += b[lane];
        }
#endif
#pragma unroll
        for (int lane = 0; lane < VEC; lane++) most = larger(most, z[part][lane]);
    }
    most = block_max(most, scratch);
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) {
        float of_part = 0.0f;
#pragma unroll
        for (int lane = 0; lane < VEC; lane++) {
            z[part][lane] = expf(z[part][lane] - most);
            of_part += z[part][lane];
        }
        sum += of_part;
    }
    // All have read their part of the row, so that it may be written.
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) losses[blockIdx.x] = (double)most + log((double)sum) - (double)target;
    float factor = *scale, share = factor / sum, at_label = of_label(factor, target);
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) {
        u32 column = part * HELD_THREADS * VEC + own, at = (u32)label - column;
#pragma unroll
        for (int lane = 0; lane < VEC; lane++) {
            z[part][lane] *= share;
            if (at == lane) z[part][lane] -= at_label;
        }
        if (column < columns) store((G_T*)row + column, z[part]);
    }
}
#endif
#endif

// loss[b] = the sum of its positions' losses; positions `first` to `first + count` are in `losses`. A row that begins
// before is added to. A block for each row that has positions in the chunk: from row `first / seq` on.
KERNEL void __launch_bounds__(256) loss_rows(const double* losses, u64 first, u64 count, u64 seq, float* loss) {
    __shared__ double scratch[32];
    u64 row = first / seq + blockIdx.x;
    u64 begin = row * seq, end = begin + seq;
    bool begins = begin >= first;
    if (!begins) begin = first;
    if (end > first + count) end = first + count;
    double sum = 0.0;
    for (u64 position = begin + threadIdx.x; position < end; position += 256) sum += losses[position - first];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) loss[row] = (float)(begins ? sum : (double)loss[row] + sum);
}

#ifdef SUMMED_T
// y[n] = Σ x[rows, n], or added to what is there. A block for 32 · VEC columns; each of its eight warps sums every eighth
// row, and the eight sums are added in order.
KERNEL void __launch_bounds__(256) column_sums(const SUMMED_T* x, u64 x_stride, u64 rows, u64 width, float* y, u32 mode, const float* condition) {
    __shared__ float parts[8][32 * VEC];
    u32 warp = threadIdx.x / 32, own = threadIdx.x % 32 * VEC;
    u64 first = (u64)blockIdx.x * 32 * VEC, column = first + own;
    float sums[VEC] = {};
    if (column < width) {
#pragma unroll 4
        for (u64 row = warp; row < rows; row += 8) {
            float part[VEC];
            load(x + row * x_stride + column, part);
#pragma unroll
            for (int lane = 0; lane < VEC; lane++) sums[lane] += part[lane];
        }
    }
#pragma unroll
    for (int lane = 0; lane < VEC; lane++) parts[warp][own + lane] = sums[lane];
    __syncthreads();
    u64 mine = first + threadIdx.x;
    if (threadIdx.x >= 32 * VEC || mine >= width) return;
    float sum = parts[0][threadIdx.x];
#pragma unroll
    for (int part = 1; part < 8; part++) sum += parts[part][threadIdx.x];
    y[mine] = adds(mode, condition) ? y[mine] + sum : sum;
}
#endif

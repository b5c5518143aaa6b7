// Attention and its derivative for every width, stride and way of making scores, in f32.
//
// Owns what attention_tiles.cu does not take: f32, odd widths, places that are no multiples of 16 bytes. All arithmetic is
// f32 and every product is added in a fixed order. Macros: X_T, the format of all tensors but lse; KEY_SPANS and
// VALUE_SPANS, how many spans of 32 columns of q and k, and of v and out, a block makes; ALIBI where the generated text has
// alibi_slope(head). Blocks make more columns than that as several chunks, each of which rebuilds the scores.
//
// A tile is 32 × 32 pairs for a block of 8 warps. The rows of one side lie across a warp's lanes, the rows of the other
// along the warps, four for each. So a lane holds four scores, a step of a product costs five numbers from shared memory
// for four multiply-adds, and a softmax takes one maximum of a warp for 32 keys.

// What a block keeps of both sides while it multiplies: 32 columns of 32 rows. Rows across are padded against bank
// conflicts, the four rows of a warp are neighbours.
struct Sides {
    float across[32][33];
    Pack along[8][32];
};

// sums[r] = Σ across[lane] · along[4 warp + r] over `width` columns; rows from `across_rows` and `along_rows` on are zero.
DEVICE void multiply_rows(float (&sums)[4], const X_T* across, u64 across_stride, u64 across_rows, const X_T* along, u64 along_stride,
                          u64 along_rows, u64 width, Sides& sides) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 4; r++) sums[r] = 0.0f;
    for (u64 first = 0; first < width; first += 32) {
        u64 column = first + lane;
        __syncthreads();
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 row = warp + 8 * i;
            bool inside = column < width;
            sides.across[row][lane] = inside && row < across_rows ? to_f32(across[row * across_stride + column]) : 0.0f;
            float other = inside && row < along_rows ? to_f32(along[row * along_stride + column]) : 0.0f;
            sides.along[row / 4][lane].word[row % 4] = f32_to_bits(other);
        }
        __syncthreads();
        // Columns beyond the width are zeros, which change nothing.
#pragma unroll 8
        for (int d = 0; d < 32; d++) {
            float mine = sides.across[lane][d];
            Pack four = sides.along[warp][d];
#pragma unroll
            for (int r = 0; r < 4; r++) sums[r] = fmaf(mine, bits_to_f32(four.word[r]), sums[r]);
        }
    }
}

// acc[s][r] += weights[row].r · from[row][32 s + lane], where `from` begins at the chunk's first column and `columns` are left.
template <int SPANS>
DEVICE void add_weighted(float (&acc)[SPANS][4], const Pack* weights, const X_T* from, u64 stride, u64 rows, u64 columns) {
    u32 lane = threadIdx.x % 32;
    for (u64 row = 0; row < rows; row++) {
        Pack four = weights[row];
#pragma unroll
        for (int s = 0; s < SPANS; s++) {
            u32 column = 32 * s + lane;
            float value = column < columns ? to_f32(from[row * stride + column]) : 0.0f;
#pragma unroll
            for (int r = 0; r < 4; r++) acc[s][r] = fmaf(bits_to_f32(four.word[r]), value, acc[s][r]);
        }
    }
}

template <int SPANS>
DEVICE void clear(float (&acc)[SPANS][4]) {
#pragma unroll
    for (int s = 0; s < SPANS; s++)
#pragma unroll
        for (int r = 0; r < 4; r++) acc[s][r] = 0.0f;
}

template <int SPANS>
DEVICE void store_rows(X_T* to, u64 stride, u64 rows, u64 columns, const float (&acc)[SPANS][4]) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        u32 row = 4 * warp + r;
#pragma unroll
        for (int s = 0; s < SPANS; s++) {
            u32 column = 32 * s + lane;
            if (row < rows && column < columns) set(&to[row * stride + column], acc[s][r]);
        }
    }
}

DEVICE float slope_of(u64 head) {
#ifdef ALIBI
    return alibi_slope(head);
#else
    return 0.0f;
#endif
}

// A score and its derivative with respect to the scaled product.
struct Score {
    float value, derivative;
};

DEVICE Score score_of(float scaled, float cap, float slope, u64 query, u64 key) {
    Score score = {scaled, 1.0f};
    if (cap != 0.0f) {
        float t = tanhf(scaled / cap);
        score.value = cap * t;
        score.derivative = fmaf(-t, t, 1.0f);
    }
    float distance = (float)(query > key ? query - key : key - query);
    if (slope != 0.0f) score.value -= slope * distance;
    return score;
}

// Keys that a query sees: from first_key to before end_key. Without a window that is the largest number.
DEVICE u64 first_key(u64 query, u32 causal, u64 window) { return causal && query + 1 > window ? query + 1 - window : 0; }
DEVICE u64 end_key(u64 query, u64 seq, u32 causal) { return causal ? query + 1 : seq; }
DEVICE u64 smaller(u64 a, u64 b) { return a < b ? a : b; }
DEVICE float minus_infinity() { return bits_to_f32(0xff800000u); }

// q[B,S,H,D], k[B,S,G,D], v[B,S,G,E] → out[B,S,H,E], lse[B,H,S]; `sharing` is H/G. A block for each tile of 32 queries
// of a head and chunk of 32·VALUE_SPANS columns of v; late tiles, which see most keys under a causal mask, go first.
// The softmax follows the maximum in steps of 32 keys.
KERNEL void __launch_bounds__(256) attention_forward(
    const X_T* q, u64 q_batch, u64 q_seq, u64 q_head, const X_T* k, u64 k_batch, u64 k_seq, u64 k_head, const X_T* v, u64 v_batch,
    u64 v_seq, u64 v_head, X_T* out, u64 out_batch, u64 out_seq, u64 out_head, float* lse, u64 batch, u64 seq, u64 heads, u64 sharing,
    u64 dim, u64 value_dim, float scale, float cap, u32 causal, u64 window) {
    __shared__ Sides sides;
    __shared__ Pack weights[8][32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 chunks = (value_dim + 32 * VALUE_SPANS - 1) / (32 * VALUE_SPANS), rest = blockIdx.x;
    u64 column = rest % chunks * (32 * VALUE_SPANS);
    bool first_chunk = rest % chunks == 0;
    rest /= chunks;
    u64 head = rest % heads, b = rest / heads % batch, query = ((seq - 1) / 32 - rest / heads / batch) * 32;
    u64 rows = smaller(seq - query, 32), group = head / sharing;
    const X_T* q_rows = q + b * q_batch + query * q_seq + head * q_head;
    const X_T* k_rows = k + b * k_batch + group * k_head;
    const X_T* v_rows = v + b * v_batch + group * v_head + column;
    float slope = slope_of(head);
    float acc[VALUE_SPANS][4], most[4], sum[4];
    clear(acc);
#pragma unroll
    for (int r = 0; r < 4; r++) most[r] = minus_infinity(), sum[r] = 0.0f;
    u64 end = end_key(query + rows - 1, seq, causal);
    for (u64 tile = first_key(query, causal, window); tile < end; tile += 32) {
        u64 keys = smaller(end - tile, 32);
        float scores[4];
        multiply_rows(scores, k_rows + tile * k_seq, k_seq, keys, q_rows, q_seq, rows, dim, sides);
        Pack four;
#pragma unroll
        for (int r = 0; r < 4; r++) {
            u64 mine = query + 4 * warp + r, key = tile + lane;
            bool seen = lane < keys && key >= first_key(mine, causal, window) && key < end_key(mine, seq, causal);
            float score = seen ? score_of(scale * scores[r], cap, slope, mine, key).value : minus_infinity();
            float now = larger(most[r], warp_max(score));
            // A row that has seen no key yet has no maximum.
            float factor = now == most[r] ? 1.0f : expf(most[r] - now);
            float p = seen ? expf(score - now) : 0.0f;
            sum[r] = sum[r] * factor + p;
#pragma unroll
            for (int s = 0; s < VALUE_SPANS; s++) acc[s][r] *= factor;
            most[r] = now;
            four.word[r] = f32_to_bits(p);
        }
        weights[warp][lane] = four;
        __syncwarp();
        add_weighted(acc, weights[warp], v_rows + tile * v_seq, v_seq, keys, value_dim - column);
        __syncwarp();
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float total = warp_sum(sum[r]);
        float factor = 1.0f / total;
#pragma unroll
        for (int s = 0; s < VALUE_SPANS; s++) acc[s][r] *= factor;
        u64 row = 4 * warp + r;
        if (first_chunk && lane == 0 && row < rows) lse[(b * heads + head) * seq + query + row] = most[r] + logf(total);
    }
    store_rows(out + b * out_batch + query * out_seq + head * out_head + column, out_seq, rows, value_dim - column, acc);
}

// sums[B,H,S] = Σ dout · out of each query and head. A warp for each, eight a block.
KERNEL void __launch_bounds__(256) attention_row_sums(
    const X_T* dout, u64 dout_batch, u64 dout_seq, u64 dout_head, const X_T* out, u64 out_batch, u64 out_seq, u64 out_head,
    float* sums, u64 batch, u64 seq, u64 heads, u64 value_dim) {
    u64 place = (u64)blockIdx.x * 8 + threadIdx.x / 32;
    if (place >= batch * heads * seq) return;
    // Heads of a position are neighbours in memory, so neighbouring warps take them.
    u64 head = place % heads, position = place / heads % seq, b = place / heads / seq;
    const X_T* left = dout + b * dout_batch + position * dout_seq + head * dout_head;
    const X_T* right = out + b * out_batch + position * out_seq + head * out_head;
    float sum = 0.0f;
    for (u64 d = threadIdx.x % 32; d < value_dim; d += 32) sum = fmaf(to_f32(left[d]), to_f32(right[d]), sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[(b * heads + head) * seq + position] = sum;
}

// Blocks of the derivatives' kernels that a multiprocessor has at a time at least, so that the assembler gives a thread the
// registers that its sums need: by itself it aims at few for sm_80, and spills.
#define RESIDENT (KEY_SPANS + VALUE_SPANS <= 4 ? 4 : KEY_SPANS + VALUE_SPANS <= 8 ? 2 : 1)

// dq[B,S,H,D]. A block for each tile of 32 queries of a head and chunk of 32·KEY_SPANS columns of q.
KERNEL void __launch_bounds__(256, RESIDENT) attention_backward_queries(
    const X_T* dout, u64 dout_batch, u64 dout_seq, u64 dout_head, const X_T* q, u64 q_batch, u64 q_seq, u64 q_head, const X_T* k,
    u64 k_batch, u64 k_seq, u64 k_head, const X_T* v, u64 v_batch, u64 v_seq, u64 v_head, const float* lse, const float* sums, X_T* dq,
    u64 dq_batch, u64 dq_seq, u64 dq_head, u64 batch, u64 seq, u64 heads, u64 sharing, u64 dim, u64 value_dim, float scale, float cap,
    u32 causal, u64 window) {
    __shared__ Sides sides;
    __shared__ Pack weights[8][32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 chunks = (dim + 32 * KEY_SPANS - 1) / (32 * KEY_SPANS), rest = blockIdx.x;
    u64 column = rest % chunks * (32 * KEY_SPANS);
    rest /= chunks;
    u64 head = rest % heads, b = rest / heads % batch, query = ((seq - 1) / 32 - rest / heads / batch) * 32;
    u64 rows = smaller(seq - query, 32), group = head / sharing;
    const X_T* q_rows = q + b * q_batch + query * q_seq + head * q_head;
    const X_T* dout_rows = dout + b * dout_batch + query * dout_seq + head * dout_head;
    const X_T* k_rows = k + b * k_batch + group * k_head;
    const X_T* v_rows = v + b * v_batch + group * v_head;
    float slope = slope_of(head);
    float acc[KEY_SPANS][4], logarithm[4], row_sum[4];
    clear(acc);
#pragma unroll
    for (int r = 0; r < 4; r++) {
        u64 row = 4 * warp + r, place = (b * heads + head) * seq + query + row;
        logarithm[r] = row < rows ? lse[place] : 0.0f;
        row_sum[r] = row < rows ? sums[place] : 0.0f;
    }
    u64 end = end_key(query + rows - 1, seq, causal);
    for (u64 tile = first_key(query, causal, window); tile < end; tile += 32) {
        u64 keys = smaller(end - tile, 32);
        float scores[4], gradients[4];
        multiply_rows(scores, k_rows + tile * k_seq, k_seq, keys, q_rows, q_seq, rows, dim, sides);
        multiply_rows(gradients, v_rows + tile * v_seq, v_seq, keys, dout_rows, dout_seq, rows, value_dim, sides);
        Pack four;
#pragma unroll
        for (int r = 0; r < 4; r++) {
            u64 row = 4 * warp + r, mine = query + row, key = tile + lane;
            bool seen = row < rows && lane < keys && key >= first_key(mine, causal, window) && key < end_key(mine, seq, causal);
            Score score = score_of(scale * scores[r], cap, slope, mine, key);
            float p = seen ? expf(score.value - logarithm[r]) : 0.0f;
            four.word[r] = f32_to_bits(seen ? scale * score.derivative * p * (gradients[r] - row_sum[r]) : 0.0f);
        }
        weights[warp][lane] = four;
        __syncwarp();
        add_weighted(acc, weights[warp], k_rows + tile * k_seq + column, k_seq, keys, dim - column);
        __syncwarp();
    }
    store_rows(dq + b * dq_batch + query * dq_seq + head * dq_head + column, dq_seq, rows, dim - column, acc);
}

// dk[B,S,G,D], dv[B,S,G,E]: sums over the heads of a group and the queries that see a key, in this order. A block for each
// tile of 32 keys of a group and chunk, which is the same chunk of dk and of dv where both have one.
KERNEL void __launch_bounds__(256, RESIDENT) attention_backward_keys(
    const X_T* dout, u64 dout_batch, u64 dout_seq, u64 dout_head, const X_T* q, u64 q_batch, u64 q_seq, u64 q_head, const X_T* k,
    u64 k_batch, u64 k_seq, u64 k_head, const X_T* v, u64 v_batch, u64 v_seq, u64 v_head, const float* lse, const float* sums, X_T* dk,
    u64 dk_batch, u64 dk_seq, u64 dk_head, X_T* dv, u64 dv_batch, u64 dv_seq, u64 dv_head, u64 batch, u64 seq, u64 heads, u64 sharing,
    u64 dim, u64 value_dim, float scale, float cap, u32 causal, u64 window) {
    __shared__ Sides sides;
    __shared__ Pack probabilities[8][32];
    __shared__ Pack weights[8][32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 key_chunks = (dim + 32 * KEY_SPANS - 1) / (32 * KEY_SPANS);
    u64 value_chunks = (value_dim + 32 * VALUE_SPANS - 1) / (32 * VALUE_SPANS);
    u64 chunks = key_chunks > value_chunks ? key_chunks : value_chunks, groups = heads / sharing, rest = blockIdx.x;
    u64 chunk = rest % chunks, column = chunk * (32 * KEY_SPANS), value_column = chunk * (32 * VALUE_SPANS);
    rest /= chunks;
    // Early tiles are seen by most queries under a causal mask and go first.
    u64 group = rest % groups, b = rest / groups % batch, key = rest / groups / batch * 32;
    u64 keys = smaller(seq - key, 32);
    const X_T* k_rows = k + b * k_batch + key * k_seq + group * k_head;
    const X_T* v_rows = v + b * v_batch + key * v_seq + group * v_head;
    float dk_acc[KEY_SPANS][4], dv_acc[VALUE_SPANS][4];
    clear(dk_acc);
    clear(dv_acc);
    // The last query that sees a key of the tile stands less than a window behind the tile's last key.
    u64 last = key + keys - 1, end = causal && window < seq - last ? last + window : seq;
    for (u64 head = group * sharing; head < (group + 1) * sharing; head++) {
        const X_T* q_rows = q + b * q_batch + head * q_head;
        const X_T* dout_rows = dout + b * dout_batch + head * dout_head;
        float slope = slope_of(head);
        for (u64 tile = causal ? key : 0; tile < end; tile += 32) {
            u64 rows = smaller(end - tile, 32), place = (b * heads + head) * seq + tile + lane;
            float scores[4], gradients[4];
            multiply_rows(scores, q_rows + tile * q_seq, q_seq, rows, k_rows, k_seq, keys, dim, sides);
            multiply_rows(gradients, dout_rows + tile * dout_seq, dout_seq, rows, v_rows, v_seq, keys, value_dim, sides);
            float logarithm = lane < rows ? lse[place] : 0.0f, row_sum = lane < rows ? sums[place] : 0.0f;
            Pack p4, ds4;
#pragma unroll
            for (int r = 0; r < 4; r++) {
                u64 row = 4 * warp + r, mine = key + row, query = tile + lane;
                bool seen = row < keys && lane < rows && mine >= first_key(query, causal, window) && mine < end_key(query, seq, causal);
                Score score = score_of(scale * scores[r], cap, slope, query, mine);
                float p = seen ? expf(score.value - logarithm) : 0.0f;
                p4.word[r] = f32_to_bits(p);
                ds4.word[r] = f32_to_bits(seen ? scale * score.derivative * p * (gradients[r] - row_sum) : 0.0f);
            }
            probabilities[warp][lane] = p4;
            weights[warp][lane] = ds4;
            __syncwarp();
            if (column < dim) add_weighted(dk_acc, weights[warp], q_rows + tile * q_seq + column, q_seq, rows, dim - column);
            if (value_column < value_dim) {
                add_weighted(dv_acc, probabilities[warp], dout_rows + tile * dout_seq + value_column, dout_seq, rows, value_dim - value_column);
            }
            __syncwarp();
        }
    }
    if (column < dim) {
        store_rows(dk + b * dk_batch + key * dk_seq + group * dk_head + column, dk_seq, keys, dim - column, dk_acc);
    }
    if (value_column < value_dim) {
        store_rows(dv + b * dv_batch + key * dv_seq + group * dv_head + value_column, dv_seq, keys, value_dim - value_column, dv_acc);
    }
}

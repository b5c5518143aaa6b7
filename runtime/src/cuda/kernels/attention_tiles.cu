// Attention on tensor cores: bf16 at multiples of 16 bytes, queries, keys and values of one HEAD_DIM (32, 64, 96, 128).
//
// After FlashAttention-2 (arXiv 2307.08691): scores stay in registers and are never stored. Macros: HEAD_DIM; MASK, 0 for
// all keys, 1 causal, 2 the last `window` of these; CAP where scores are capped; ALIBI where the generated text has
// alibi_slope(head). Where gradients are turned back: PAIRS, a multiple of 8, how many pairs of a head; INTERLEAVED (0: pairs
// are PAIRS apart, 1: neighbours); TURN_QUERIES and TURN_KEYS, which gradients; TABLE_PARAMS. A positive scale is assumed, so that the largest product is the largest score.
//
// Tiles lie in shared memory as rows of 16-byte chunks. A chunk's place is its number xor some bits of the row, so that
// eight rows of one chunk, which a matrix instruction reads, and eight chunks of one row, which a copy writes, lie in
// different banks. Rows beyond the sequence are zeros.
//
// What is rounded inside. Products take bf16, so probabilities and gradients of scores are rounded to bf16 before they
// are multiplied: each is off by another w = 2^-9 of itself (2^-8 where a bound counts a whole unit), everything else is
// f32 as in attention.cu. To what f32 arithmetic leaves, with p the probabilities, a row's terms over its keys, a key's
// over its queries and heads, and ds = scale · derivative · p · (dout·v - dout·out), this adds no more than
//
//     out: w Σ p |v|      dv: w Σ p |dout|      dq: w Σ |ds| |k|      dk: w Σ |ds| |q|
//
// and nothing to lse, as the sum of a softmax is of what is not rounded. Where ds is itself off by e, the sums have
// |ds| + e for |ds|. A probability is 2^(s·c - m·c), by one fmaf and ex2.approx, with c = scale · log2 e, or log2 e where
// scores are shaped, and m the maximum or lse. Roundings of c, log2 e, m·c and the exponent make it off by no more than
// 2^-24 (3|s| + 3|m|) of itself, the instruction by 2^-22. Results below 2^-126 may be zeros.
//
// Sums of a tensor core are of 16 products at a time, in f32, whose low bits it may cut off instead of rounding them: count
// two units for each of the roundings of such a sum.

constexpr u32 CHUNKS = HEAD_DIM / 8;
constexpr u32 STEPS = HEAD_DIM / 16;
constexpr u32 THREADS = 128;
// Keys of a tile in the forward pass, and blocks of 16 queries that a warp of it owns. Sizes here and below are the best of
// some twenty on an H100, causal. One block of queries: more warps on a multiprocessor are worth more than fragments that
// serve two blocks. Heads of 64 go from 115 to 139 TFLOP/s at 256 positions and from 230 to 244 at 2048, heads of 128 from
// 258 to 275.
constexpr u32 KEYS = 64;
constexpr u32 BLOCKS = 1;
constexpr u32 QUERIES = 64 * BLOCKS;
// The natural logarithm counts in e, the instruction in 2.
#define LOG2_E 1.4426950408889634f

DEVICE u32 slot(u32 row, u32 chunk) {
    return row * CHUNKS + (CHUNKS % 8 == 0 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3));
}
DEVICE float minus_infinity() { return bits_to_f32(0xff800000u); }
DEVICE u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

// Starts copying rows `first`.. into a tile; the caller closes the group.
template <u32 ROWS>
DEVICE void copy_tile(Pack* tile, const bf16* from, u64 stride, u32 first, u32 seq) {
    static_assert(ROWS * CHUNKS % THREADS == 0, "every thread copies as many chunks");
#if HEAD_DIM == 96
#pragma unroll 1
    for (u32 i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        u32 row = i / CHUNKS, chunk = i % CHUNKS;
        copy_async16_or_zero(&tile[slot(row, chunk)], from + (u64)(first + row) * stride + 8 * chunk, first + row < seq);
    }
#else
    // A thread's chunks lie in one column, so many rows apart, which the bits of a place do not depend on.
    constexpr u32 APART = THREADS / CHUNKS;
    u32 row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    const bf16* place = from + (u64)(first + row) * stride + 8 * chunk;
    Pack* to = &tile[slot(row, chunk)];
#pragma unroll
    for (u32 i = 0; i < ROWS / APART; i++) {
        copy_async16_or_zero(to + i * APART * CHUNKS, place, first + row + i * APART < seq);
        place += APART * stride;
    }
#endif
}

// The place that is 2 `step` chunks on, `step` being a constant: one xor, and where a row is no multiple of eight chunks
// an offset, so that a kernel keeps few addresses. Rows that fragments begin at are multiples of 16, which leave the bits
// of a place's chunk alone.
DEVICE u32 advanced(u32 place, u32 step) {
    return CHUNKS % 8 == 0 ? place ^ 2 * step : (place ^ (2 * step & 3)) + (2 * step & ~3u);
}

// The left factor's fragment: 16 rows from `row`, 16 columns from 16 `step`.
DEVICE void load_left(u32 (&a)[4], const Pack* tile, u32 row, u32 step) {
    u32 lane = threadIdx.x % 32;
    load_matrices(a, &tile[row * CHUNKS + advanced(slot(lane % 16, lane / 16), step)]);
}
// The right factor's, where the tile's rows are columns of the product: 16 rows from `row`, 16 columns from 16 `step`. The
// first two words belong to the first eight rows.
DEVICE void load_right(u32 (&b)[4], const Pack* tile, u32 row, u32 step) {
    u32 lane = threadIdx.x % 32;
    load_matrices(b, &tile[row * CHUNKS + advanced(slot(lane / 16 * 8 + lane % 8, lane / 8 % 2), step)]);
}
// The right factor's, where the tile's rows are what is summed over: 16 rows from `row`, 16 columns from 16 `step`. The
// first two words belong to the first eight columns.
DEVICE void load_right_summed(u32 (&b)[4], const Pack* tile, u32 row, u32 step) {
    u32 lane = threadIdx.x % 32;
    load_matrices_transposed(b, &tile[row * CHUNKS + advanced(slot(lane % 16, lane / 16), step)]);
}
// Two neighbouring 16 × 8 results as the left factor of the next product.
DEVICE void as_left(u32 (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = to_bf16_pair(left[0], left[1]);
    a[1] = to_bf16_pair(left[2], left[3]);
    a[2] = to_bf16_pair(right[0], right[1]);
    a[3] = to_bf16_pair(right[2], right[3]);
}

// Puts 16 rows of results, rounded, from a warp's registers into the rows of a tile from `row` on, which nobody but this
// warp may use, so that what is written to memory is whole chunks.
DEVICE void gather_rows(Pack* tile, u32 row, const float (&values)[2 * STEPS][4]) {
    u32 lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (u32 n = 0; n < 2 * STEPS; n++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 place = slot(row + 8 * half + lane / 4, n);
            tile[place].word[lane % 4] = to_bf16_pair(values[n][2 * half], values[n][2 * half + 1]);
        }
    }
    __syncwarp();
}

// Stores 16 rows of results, which go through a tile.
DEVICE void store_rows(bf16* to, u64 stride, u32 first, u32 seq, Pack* tile, u32 row, const float (&values)[2 * STEPS][4]) {
    u32 lane = threadIdx.x % 32;
    gather_rows(tile, row, values);
#pragma unroll
    for (u32 i = 0; i < 16 * CHUNKS / 32; i++) {
        u32 index = 32 * i + lane, line = index / CHUNKS, chunk = index % CHUNKS;
        if (first + line < seq) *(Pack*)(to + (u64)(first + line) * stride + 8 * chunk) = tile[slot(row + line, chunk)];
    }
}

#ifdef PAIRS
// The same, with the pairs of each row turned back by the angle of its position, as rope.cu turns what it reads: a gradient
// is rounded, turned in f32 and rounded again. A lane owns the two chunks in which eight pairs lie, or one that is not
// turned; lanes of a row read neighbours of the tables, which are f32.
DEVICE void store_rows_turned_back(bf16* to, u64 stride, u32 first, u32 seq, Pack* tile, u32 row, const float (&values)[2 * STEPS][4], const float* cos, u64 cos_stride, const float* sin, u64 sin_stride) {
    constexpr u32 TURNED = PAIRS / 8, PARTS = CHUNKS - TURNED;
    gather_rows(tile, row, values);
#pragma unroll 2
    for (u32 index = threadIdx.x % 32; index < 16 * PARTS; index += 32) {
        u32 line = index / PARTS, part = index % PARTS;
        if (first + line >= seq) continue;
        u64 position = first + line;
        bf16* place = to + position * stride;
        if (part >= TURNED) {
            u32 chunk = part + TURNED;
            *(Pack*)(place + 8 * chunk) = tile[slot(row + line, chunk)];
            continue;
        }
        u32 left = INTERLEAVED ? 2 * part : part, right = INTERLEAVED ? left + 1 : left + TURNED;
        float x[2][8], c[8], s[8];
        load((const bf16*)&tile[slot(row + line, left)], x[0]);
        load((const bf16*)&tile[slot(row + line, right)], x[1]);
        load(cos + position * cos_stride + 8 * part, c);
        load(sin + position * sin_stride + 8 * part, s);
#pragma unroll
        for (u32 pair = 0; pair < 8; pair++) {
            float& p = INTERLEAVED ? x[pair / 4][2 * pair % 8] : x[0][pair];
            float& q = INTERLEAVED ? x[pair / 4][2 * pair % 8 + 1] : x[1][pair];
            float turned = p * c[pair] + q * s[pair];
            q = q * c[pair] - p * s[pair];
            p = turned;
        }
        store(place + 8 * left, x[0]);
        store(place + 8 * right, x[1]);
    }
}
#else
#define TABLE_PARAMS
#endif

// Whether scores are products only; the scale is then left to the exponential.
#if defined(CAP) || defined(ALIBI)
#define SHAPED 1
#else
#define SHAPED 0
#endif

DEVICE float slope_of(u32 head) {
#ifdef ALIBI
    return alibi_slope(head);
#else
    return 0.0f;
#endif
}

// A score of a product, its scale left out where nothing else is done; `derivative` is with respect to the scaled product.
DEVICE float score_of(float product, float scale, float cap, float slope, u32 query, u32 key, float& derivative) {
    derivative = 1.0f;
#if SHAPED
    product *= scale;
#ifdef CAP
    float t = tanhf(product / cap);
    product = cap * t;
    derivative = fmaf(-t, t, 1.0f);
#endif
#ifdef ALIBI
    product -= slope * fabsf((float)query - (float)key);
#endif
#endif
    return product;
}

// Whether a query sees a key, both inside the sequence.
DEVICE bool sees(u32 query, u32 key, u32 seq, u32 window) {
    bool seen = key < seq && query < seq;
    if (MASK >= 1) seen = seen && key <= query;
    if (MASK == 2) seen = seen && query - key < window;
    return seen;
}
// Whether some query of a run sees some key of a run, and whether all see all. Runs are given by first and last.
DEVICE bool some_see(u32 query, u32 last_query, u32 key, u32 last_key, u32 seq, u32 window) {
    bool some = key < seq && query < seq;
    if (MASK >= 1) some = some && key <= last_query;
    if (MASK == 2) some = some && (query <= last_key || query - last_key < window);
    return some;
}
DEVICE bool all_see(u32 query, u32 last_query, u32 key, u32 last_key, u32 seq, u32 window) {
    bool all = last_key < seq && last_query < seq;
    if (MASK >= 1) all = all && last_key <= query;
    if (MASK == 2) all = all && last_query - key < window;
    return all;
}
// Keys that queries from `first` to `last` see: from the start of the first tile of `size` to before the end.
DEVICE u32 first_tile(u32 first, u32 window, u32 size) {
    return MASK == 2 && first >= window ? (first + 1 - window) / size * size : 0;
}
DEVICE u32 end_key(u32 last, u32 seq) { return MASK >= 1 ? smaller(last + 1, seq) : seq; }

// q[B,S,H,D], k[B,S,G,D], v[B,S,G,D] → out[B,S,H,D], lse[B,H,S]; `sharing` is H/G. A block for each 64 queries of a head,
// the last, which see most keys, first; tiles of a head are neighbours and find keys and values in the second cache.
// A tile's values are copied while its scores are made, the next tile's keys while its values are summed up.
KERNEL void __launch_bounds__(128) attention_tiles_forward(
    const bf16* q, u64 q_batch, u64 q_seq, u64 q_head, const bf16* k, u64 k_batch, u64 k_seq, u64 k_head, const bf16* v, u64 v_batch,
    u64 v_seq, u64 v_head, bf16* out, u64 out_batch, u64 out_seq, u64 out_head, float* lse, u32 seq, u32 heads, u32 sharing,
    float scale, float cap, u32 window) {
    DYNAMIC_SHARED(memory);
    Pack* q_tile = (Pack*)memory;
    Pack* k_tile = q_tile + QUERIES * CHUNKS;
    Pack* v_tile = k_tile + KEYS * CHUNKS;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 tiles = (seq + QUERIES - 1) / QUERIES, head = blockIdx.x / tiles % heads;
    u32 query = (tiles - 1 - blockIdx.x % tiles) * QUERIES;
    u64 b = blockIdx.x / tiles / heads;
    const bf16* k_rows = k + b * k_batch + head / sharing * k_head;
    const bf16* v_rows = v + b * v_batch + head / sharing * v_head;
    float slope = slope_of(head), factor = SHAPED ? LOG2_E : scale * LOG2_E;
    u32 own = 16 * BLOCKS * warp, first = query + own;

    float sums[BLOCKS][2 * STEPS][4], most[BLOCKS][2], total[BLOCKS][2];
#pragma unroll
    for (u32 m = 0; m < BLOCKS; m++) {
#pragma unroll
        for (u32 n = 0; n < 2 * STEPS; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) sums[m][n][i] = 0.0f;
#pragma unroll
        for (u32 half = 0; half < 2; half++) most[m][half] = minus_infinity(), total[m][half] = 0.0f;
    }
    u32 tile = first_tile(query, window, KEYS), end = end_key(query + QUERIES - 1, seq);
    copy_tile<QUERIES>(q_tile, q + b * q_batch + head * q_head, q_seq, query, seq);
    copy_tile<KEYS>(k_tile, k_rows, k_seq, tile, seq);
    copy_async_commit();
    for (; tile < end; tile += KEYS) {
        copy_async_wait<0>();
        __syncthreads();
        copy_tile<KEYS>(v_tile, v_rows, v_seq, tile, seq);
        copy_async_commit();
        bool some = some_see(first, first + 16 * BLOCKS - 1, tile, tile + KEYS - 1, seq, window);
        float scores[BLOCKS][KEYS / 8][4];
        if (some) {
#pragma unroll
            for (u32 m = 0; m < BLOCKS; m++)
#pragma unroll
                for (u32 n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) scores[m][n][i] = 0.0f;
#pragma unroll
            for (u32 step = 0; step < STEPS; step++) {
                u32 left[BLOCKS][4];
#pragma unroll
                for (u32 m = 0; m < BLOCKS; m++) load_left(left[m], q_tile, own + 16 * m, step);
#pragma unroll
                for (u32 n = 0; n < KEYS / 16; n++) {
                    u32 right[4];
                    load_right(right, k_tile, 16 * n, step);
#pragma unroll
                    for (u32 m = 0; m < BLOCKS; m++) {
                        multiply_16x8x16(scores[m][2 * n], left[m], right[0], right[1]);
                        multiply_16x8x16(scores[m][2 * n + 1], left[m], right[2], right[3]);
                    }
                }
            }
        }
        copy_async_wait<0>();
        __syncthreads();
        if (tile + KEYS < end) copy_tile<KEYS>(k_tile, k_rows, k_seq, tile + KEYS, seq);
        copy_async_commit();
        if (!some) continue;
        bool all = all_see(first, first + 16 * BLOCKS - 1, tile, tile + KEYS - 1, seq, window);
        if (SHAPED || !all) {
#pragma unroll
            for (u32 m = 0; m < BLOCKS; m++)
#pragma unroll
                for (u32 n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        u32 row = first + 16 * m + 8 * (i / 2) + lane / 4, key = tile + 8 * n + 2 * (lane % 4) + i % 2;
                        float derivative;
                        float score = score_of(scores[m][n][i], scale, cap, slope, row, key, derivative);
                        scores[m][n][i] = all || sees(row, key, seq, window) ? score : minus_infinity();
                    }
        }
#pragma unroll
        for (u32 m = 0; m < BLOCKS; m++) {
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                float now = most[m][half];
#pragma unroll
                for (u32 n = 0; n < KEYS / 8; n++) {
                    now = fmaxf(now, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
                }
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 2));
                // A row that has seen nothing yet has no maximum, and whatever is taken its terms are zeros.
                float used = now == minus_infinity() ? 0.0f : now;
                float kept = fast_exp2((most[m][half] - used) * factor), taken = used * factor, sum = 0.0f;
                most[m][half] = now;
#pragma unroll
                for (u32 n = 0; n < KEYS / 8; n++) {
#pragma unroll
                    for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                        scores[m][n][i] = fast_exp2(fmaf(scores[m][n][i], factor, -taken));
                        sum += scores[m][n][i];
                    }
                }
                total[m][half] = fmaf(total[m][half], kept, sum);
#pragma unroll
                for (u32 n = 0; n < 2 * STEPS; n++) sums[m][n][2 * half] *= kept, sums[m][n][2 * half + 1] *= kept;
            }
        }
#pragma unroll
        for (u32 step = 0; step < KEYS / 16; step++) {
            u32 left[BLOCKS][4];
#pragma unroll
            for (u32 m = 0; m < BLOCKS; m++) as_left(left[m], scores[m][2 * step], scores[m][2 * step + 1]);
#pragma unroll
            for (u32 n = 0; n < STEPS; n++) {
                u32 right[4];
                load_right_summed(right, v_tile, 16 * step, n);
#pragma unroll
                for (u32 m = 0; m < BLOCKS; m++) {
                    multiply_16x8x16(sums[m][2 * n], left[m], right[0], right[1]);
                    multiply_16x8x16(sums[m][2 * n + 1], left[m], right[2], right[3]);
                }
            }
        }
    }
#pragma unroll
    for (u32 m = 0; m < BLOCKS; m++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float sum = total[m][half];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            float inverse = 1.0f / sum;
#pragma unroll
            for (u32 n = 0; n < 2 * STEPS; n++) sums[m][n][2 * half] *= inverse, sums[m][n][2 * half + 1] *= inverse;
            u32 row = first + 16 * m + 8 * half + lane / 4;
            float largest = SHAPED ? most[m][half] : most[m][half] * scale;
            if (lane % 4 == 0 && row < seq) lse[(b * heads + head) * seq + row] = largest + logf(sum);
        }
        // The queries of this warp are not needed any more.
        store_rows(out + b * out_batch + head * out_head, out_seq, first + 16 * m, seq, q_tile, own + 16 * m, sums[m]);
    }
}

// deltas[B,H,S] = Σ dout · out of each query and head. Four lanes for each, 64 of them a block; heads of a position are
// neighbours in memory and in a warp.
KERNEL void __launch_bounds__(256) attention_tiles_row_sums(
    const bf16* dout, u64 dout_batch, u64 dout_seq, u64 dout_head, const bf16* out, u64 out_batch, u64 out_seq, u64 out_head,
    float* deltas, u64 batch, u32 seq, u32 heads) {
    u64 place = (u64)blockIdx.x * 64 + threadIdx.x / 4;
    bool there = place < batch * seq * heads;
    if (!there) place = 0;
    u64 head = place % heads, position = place / heads % seq, b = place / heads / seq;
    const bf16* left = dout + b * dout_batch + position * dout_seq + head * dout_head + 8 * (threadIdx.x % 4);
    const bf16* right = out + b * out_batch + position * out_seq + head * out_head + 8 * (threadIdx.x % 4);
    float x[HEAD_DIM / 32][8], y[HEAD_DIM / 32][8], sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < HEAD_DIM / 32; i++) load(left + 32 * i, x[i]), load(right + 32 * i, y[i]);
#pragma unroll
    for (u32 i = 0; i < HEAD_DIM / 32; i++)
#pragma unroll
        for (u32 j = 0; j < 8; j++) sum = fmaf(x[i][j], y[i][j], sum);
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (there && threadIdx.x % 4 == 0) deltas[(b * heads + head) * seq + position] = sum;
}

// Blocks of 16 keys or of 16 queries that a warp of the backward pass owns, rows of the other side in a tile, and those of
// them whose scores are held at a time: what the registers hold. With heads of 64 one block and not two takes the keys'
// gradient from 133 to 162 TFLOP/s at 256 positions and from 199 to 223 at 2048, that of the queries from 133 to 168 and
// from 207 to 246; with heads of 128 nothing tried was better than what was there (246 and 230 at 2048).
constexpr u32 KEY_BLOCKS = HEAD_DIM < 64 ? 2 : 1;
constexpr u32 KEY_ROWS = 64 * KEY_BLOCKS;
constexpr u32 KEY_OTHERS = 32;
constexpr u32 KEY_PART = 32;
constexpr u32 QUERY_BLOCKS = HEAD_DIM == 64 ? 1 : 2;
constexpr u32 QUERY_ROWS = 64 * QUERY_BLOCKS;
constexpr u32 QUERY_OTHERS = HEAD_DIM == 64 ? 64 : 32;
constexpr u32 QUERY_PART = HEAD_DIM == 64 ? 64 : HEAD_DIM <= 96 ? 32 : 16;

template <u32 M, u32 N>
DEVICE void clear(float (&values)[M][N][4]) {
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
        for (u32 n = 0; n < N; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) values[m][n][i] = 0.0f;
}
// Steps of a product that are laid out one after the other: all of them would keep too many addresses.
constexpr u32 ROLLED = HEAD_DIM > 64 ? STEPS / 2 : STEPS;
// results[m] = rows own + 16 m.. of a tile times N rows from `row` of another, summed over columns.
template <u32 M, u32 N8>
DEVICE void multiply_tiles(float (&results)[M][N8][4], const Pack* own_tile, u32 own, const Pack* tile, u32 row) {
    clear(results);
#pragma unroll ROLLED
    for (u32 step = 0; step < STEPS; step++) {
        u32 left[M][4];
#pragma unroll
        for (u32 m = 0; m < M; m++) load_left(left[m], own_tile, own + 16 * m, step);
#pragma unroll
        for (u32 n = 0; n < N8 / 2; n++) {
            u32 right[4];
            load_right(right, tile, row + 16 * n, step);
#pragma unroll
            for (u32 m = 0; m < M; m++) {
                multiply_16x8x16(results[m][2 * n], left[m], right[0], right[1]);
                multiply_16x8x16(results[m][2 * n + 1], left[m], right[2], right[3]);
            }
        }
    }
}
// sums[m] += weights[m], rounded, times the rows of a tile from `row` on.
template <u32 M, u32 N8>
DEVICE void add_product(float (&sums)[M][2 * STEPS][4], const float (&weights)[M][N8][4], const Pack* tile, u32 row) {
#pragma unroll
    for (u32 step = 0; step < N8 / 2; step++) {
        u32 left[M][4];
#pragma unroll
        for (u32 m = 0; m < M; m++) as_left(left[m], weights[m][2 * step], weights[m][2 * step + 1]);
#pragma unroll
        for (u32 n = 0; n < STEPS; n++) {
            u32 right[4];
            load_right_summed(right, tile, row + 16 * step, n);
#pragma unroll
            for (u32 m = 0; m < M; m++) {
                multiply_16x8x16(sums[m][2 * n], left[m], right[0], right[1]);
                multiply_16x8x16(sums[m][2 * n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

// dk[B,S,G,D], dv[B,S,G,D]: sums over a group's heads and the queries that see a key, in this order. A block for each
// KEY_ROWS keys of a group, the first, which most queries see, first. A warp's scores have its keys as rows, so that they
// are left factors of both sums as they are. The next tile of queries is copied meanwhile into a second place.
KERNEL void __launch_bounds__(128) attention_tiles_backward_keys(
    const bf16* dout, u64 dout_batch, u64 dout_seq, u64 dout_head, const bf16* q, u64 q_batch, u64 q_seq, u64 q_head, const bf16* k,
    u64 k_batch, u64 k_seq, u64 k_head, const bf16* v, u64 v_batch, u64 v_seq, u64 v_head, const float* lse, const float* deltas,
    bf16* dk, u64 dk_batch, u64 dk_seq, u64 dk_head, bf16* dv, u64 dv_batch, u64 dv_seq, u64 dv_head, u32 seq, u32 heads, u32 sharing,
    float scale, float cap, u32 window TABLE_PARAMS) {
    DYNAMIC_SHARED(memory);
    Pack* k_tile = (Pack*)memory;
    Pack* v_tile = k_tile + KEY_ROWS * CHUNKS;
    Pack* q_tiles = v_tile + KEY_ROWS * CHUNKS;
    Pack* dout_tiles = q_tiles + 2 * KEY_OTHERS * CHUNKS;
    float* logarithms = (float*)(dout_tiles + 2 * KEY_OTHERS * CHUNKS);
    float* row_sums = logarithms + 2 * KEY_OTHERS;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 tiles = (seq + KEY_ROWS - 1) / KEY_ROWS, groups = heads / sharing, group = blockIdx.x / tiles % groups;
    u32 key = blockIdx.x % tiles * KEY_ROWS, own = 16 * KEY_BLOCKS * warp, first = key + own;
    u64 b = blockIdx.x / tiles / groups;
    float factor = SHAPED ? LOG2_E : scale * LOG2_E;

    // Queries that see some key of the block: the last stands less than a window behind the last key.
    u32 start = MASK >= 1 ? key / KEY_OTHERS * KEY_OTHERS : 0, last = smaller(key + KEY_ROWS, seq) - 1;
    u32 end = MASK == 2 && window < seq - last ? last + window : seq;

    float dk_sums[KEY_BLOCKS][2 * STEPS][4], dv_sums[KEY_BLOCKS][2 * STEPS][4];
    clear(dk_sums);
    clear(dv_sums);
    copy_tile<KEY_ROWS>(k_tile, k + b * k_batch + group * k_head, k_seq, key, seq);
    copy_tile<KEY_ROWS>(v_tile, v + b * v_batch + group * v_head, v_seq, key, seq);
    u32 last_own = first + 16 * KEY_BLOCKS - 1, place = 0, head = group * sharing, tile = start;
    // Copies the tile at hand; the two rows of numbers wait in registers, for nobody to wait for them.
    float next_logarithm = 0.0f, next_row_sum = 0.0f;
    auto start_copy = [&](u32 head, u32 tile, u32 place) {
        copy_tile<KEY_OTHERS>(q_tiles + place * CHUNKS, q + b * q_batch + head * q_head, q_seq, tile, seq);
        copy_tile<KEY_OTHERS>(dout_tiles + place * CHUNKS, dout + b * dout_batch + head * dout_head, dout_seq, tile, seq);
        copy_async_commit();
        u32 query = tile + threadIdx.x;
        bool there = threadIdx.x < KEY_OTHERS && query < seq;
        u64 row = (b * heads + head) * seq + query;
        next_logarithm = there ? lse[row] : 0.0f;
        next_row_sum = there ? deltas[row] : 0.0f;
    };
    auto keep_numbers = [&](u32 place) {
        if (threadIdx.x < KEY_OTHERS) {
            logarithms[place + threadIdx.x] = next_logarithm * LOG2_E;
            row_sums[place + threadIdx.x] = next_row_sum;
        }
    };
    start_copy(head, tile, place);
    keep_numbers(place);
    while (head < (group + 1) * sharing) {
        copy_async_wait<0>();
        __syncthreads();
        u32 next_tile = tile + KEY_OTHERS, next_head = head;
        if (next_tile >= end) next_tile = start, next_head++;
        bool more = next_head < (group + 1) * sharing;
        if (more) start_copy(next_head, next_tile, KEY_OTHERS - place);
        float slope = slope_of(head);
#pragma unroll 1
        for (u32 part = 0; part < KEY_OTHERS; part += KEY_PART) {
            u32 from = tile + part, last_from = from + KEY_PART - 1;
            if (!some_see(from, last_from, first, last_own, seq, window)) continue;
            bool all = all_see(from, last_from, first, last_own, seq, window);
            float scores[KEY_BLOCKS][KEY_PART / 8][4], gradients[KEY_BLOCKS][KEY_PART / 8][4];
            multiply_tiles(scores, k_tile, own, q_tiles, place + part);
            multiply_tiles(gradients, v_tile, own, dout_tiles, place + part);
#pragma unroll
            for (u32 n = 0; n < KEY_PART / 8; n++) {
#pragma unroll
                for (u32 pair = 0; pair < 2; pair++) {
                    u32 column = 8 * n + 2 * (lane % 4) + pair, query = from + column;
                    float logarithm = logarithms[place + part + column], row_sum = row_sums[place + part + column];
#pragma unroll
                    for (u32 m = 0; m < KEY_BLOCKS; m++) {
#pragma unroll
                        for (u32 half = 0; half < 2; half++) {
                            u32 i = 2 * half + pair, mine = first + 16 * m + 8 * half + lane / 4;
                            float derivative;
                            float score = score_of(scores[m][n][i], scale, cap, slope, query, mine, derivative);
                            float p = fast_exp2(fmaf(score, factor, -logarithm));
                            if (!all && !sees(query, mine, seq, window)) p = 0.0f;
                            scores[m][n][i] = p;
                            gradients[m][n][i] = p * (gradients[m][n][i] - row_sum) * derivative;
                        }
                    }
                }
            }
            add_product(dv_sums, scores, dout_tiles, place + part);
            add_product(dk_sums, gradients, q_tiles, place + part);
        }
        place = KEY_OTHERS - place, tile = next_tile, head = next_head;
        if (more) keep_numbers(place);
    }
#pragma unroll
    for (u32 m = 0; m < KEY_BLOCKS; m++) {
#pragma unroll
        for (u32 n = 0; n < 2 * STEPS; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) dk_sums[m][n][i] *= scale;
        // The keys and values of this warp are not needed any more.
#if defined(PAIRS) && TURN_KEYS
        store_rows_turned_back(dk + b * dk_batch + group * dk_head, dk_seq, first + 16 * m, seq, k_tile, own + 16 * m, dk_sums[m], cos, cos_stride, sin, sin_stride);
#else
        store_rows(dk + b * dk_batch + group * dk_head, dk_seq, first + 16 * m, seq, k_tile, own + 16 * m, dk_sums[m]);
#endif
        store_rows(dv + b * dv_batch + group * dv_head, dv_seq, first + 16 * m, seq, v_tile, own + 16 * m, dv_sums[m]);
    }
}

// dq[B,S,H,D]. A block for each QUERY_ROWS queries of a head, the last first. The next tile of keys and values is copied
// meanwhile into a second place.
KERNEL void __launch_bounds__(128) attention_tiles_backward_queries(
    const bf16* dout, u64 dout_batch, u64 dout_seq, u64 dout_head, const bf16* q, u64 q_batch, u64 q_seq, u64 q_head, const bf16* k,
    u64 k_batch, u64 k_seq, u64 k_head, const bf16* v, u64 v_batch, u64 v_seq, u64 v_head, const float* lse, const float* deltas,
    bf16* dq, u64 dq_batch, u64 dq_seq, u64 dq_head, u32 seq, u32 heads, u32 sharing, float scale, float cap, u32 window TABLE_PARAMS) {
    DYNAMIC_SHARED(memory);
    Pack* q_tile = (Pack*)memory;
    Pack* dout_tile = q_tile + QUERY_ROWS * CHUNKS;
    Pack* k_tiles = dout_tile + QUERY_ROWS * CHUNKS;
    Pack* v_tiles = k_tiles + 2 * QUERY_OTHERS * CHUNKS;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 tiles = (seq + QUERY_ROWS - 1) / QUERY_ROWS, head = blockIdx.x / tiles % heads;
    u32 query = (tiles - 1 - blockIdx.x % tiles) * QUERY_ROWS, own = 16 * QUERY_BLOCKS * warp, first = query + own;
    u64 b = blockIdx.x / tiles / heads;
    const bf16* k_rows = k + b * k_batch + head / sharing * k_head;
    const bf16* v_rows = v + b * v_batch + head / sharing * v_head;
    float slope = slope_of(head), factor = SHAPED ? LOG2_E : scale * LOG2_E;

    float sums[QUERY_BLOCKS][2 * STEPS][4], logarithms[QUERY_BLOCKS][2], row_sums[QUERY_BLOCKS][2];
    clear(sums);
#pragma unroll
    for (u32 m = 0; m < QUERY_BLOCKS; m++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 row = first + 16 * m + 8 * half + lane / 4;
            u64 place = (b * heads + head) * seq + row;
            logarithms[m][half] = row < seq ? lse[place] * LOG2_E : 0.0f;
            row_sums[m][half] = row < seq ? deltas[place] : 0.0f;
        }
    }
    u32 tile = first_tile(query, window, QUERY_OTHERS), end = end_key(query + QUERY_ROWS - 1, seq), place = 0;
    copy_tile<QUERY_ROWS>(q_tile, q + b * q_batch + head * q_head, q_seq, query, seq);
    copy_tile<QUERY_ROWS>(dout_tile, dout + b * dout_batch + head * dout_head, dout_seq, query, seq);
    copy_tile<QUERY_OTHERS>(k_tiles, k_rows, k_seq, tile, seq);
    copy_tile<QUERY_OTHERS>(v_tiles, v_rows, v_seq, tile, seq);
    copy_async_commit();
    for (; tile < end; tile += QUERY_OTHERS) {
        copy_async_wait<0>();
        __syncthreads();
        if (tile + QUERY_OTHERS < end) {
            copy_tile<QUERY_OTHERS>(k_tiles + (QUERY_OTHERS - place) * CHUNKS, k_rows, k_seq, tile + QUERY_OTHERS, seq);
            copy_tile<QUERY_OTHERS>(v_tiles + (QUERY_OTHERS - place) * CHUNKS, v_rows, v_seq, tile + QUERY_OTHERS, seq);
        }
        copy_async_commit();
#pragma unroll 1
        for (u32 part = 0; part < QUERY_OTHERS; part += QUERY_PART) {
            u32 from = tile + part, last_from = from + QUERY_PART - 1, last_own = first + 16 * QUERY_BLOCKS - 1;
            if (!some_see(first, last_own, from, last_from, seq, window)) continue;
            bool all = all_see(first, last_own, from, last_from, seq, window);
            float scores[QUERY_BLOCKS][QUERY_PART / 8][4], gradients[QUERY_BLOCKS][QUERY_PART / 8][4];
            multiply_tiles(scores, q_tile, own, k_tiles, place + part);
            multiply_tiles(gradients, dout_tile, own, v_tiles, place + part);
#pragma unroll
            for (u32 m = 0; m < QUERY_BLOCKS; m++)
#pragma unroll
                for (u32 n = 0; n < QUERY_PART / 8; n++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        u32 mine = first + 16 * m + 8 * (i / 2) + lane / 4, key = from + 8 * n + 2 * (lane % 4) + i % 2;
                        float derivative;
                        float score = score_of(scores[m][n][i], scale, cap, slope, mine, key, derivative);
                        float p = fast_exp2(fmaf(score, factor, -logarithms[m][i / 2]));
                        if (!all && !sees(mine, key, seq, window)) p = 0.0f;
                        gradients[m][n][i] = p * (gradients[m][n][i] - row_sums[m][i / 2]) * derivative;
                    }
            add_product(sums, gradients, k_tiles, place + part);
        }
        place = QUERY_OTHERS - place;
    }
#pragma unroll
    for (u32 m = 0; m < QUERY_BLOCKS; m++) {
#pragma unroll
        for (u32 n = 0; n < 2 * STEPS; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) sums[m][n][i] *= scale;
        // The queries of this warp are not needed any more.
#if defined(PAIRS) && TURN_QUERIES
        store_rows_turned_back(dq + b * dq_batch + head * dq_head, dq_seq, first + 16 * m, seq, q_tile, own + 16 * m, sums[m], cos, cos_stride, sin, sin_stride);
#else
        store_rows(dq + b * dq_batch + head * dq_head, dq_seq, first + 16 * m, seq, q_tile, own + 16 * m, sums[m]);
#endif
    }
}

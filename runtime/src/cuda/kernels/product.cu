// Products of matrices for what the library does not take: mixed formats, any strides, any alignment.
//
// Owns one kernel in plain arithmetic. Macros: A_T, B_T, C_T, the formats of the factors and the result.

#define TILE 64   // Rows and columns of the result that a block owns.
#define DEPTH 16  // Terms of the sums that are in shared memory at a time.

// A factor's elements [64 along the result, 16 along the sum] of one step, four for each thread, 0 outside. Neighbouring
// threads take neighbours in memory, whichever axis those lie along.
template <class T>
DEVICE void fetch(const T* from, u64 along_step, u64 sum_step, u64 along, u64 along_end, u64 sum, u64 sum_end, float (&to)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u64 row = along + (sum_step == 1 ? threadIdx.x / DEPTH + 16 * i : threadIdx.x % TILE);
        u64 term = sum + (sum_step == 1 ? threadIdx.x % DEPTH : threadIdx.x / TILE + 4 * i);
        to[i] = row < along_end && term < sum_end ? to_f32(from[row * along_step + term * sum_step]) : 0.0f;
    }
}
// Puts them where `fetch` took them from.
DEVICE void place(float (*tile)[TILE + 1], u64 sum_step, const float (&from)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (sum_step == 1) tile[threadIdx.x % DEPTH][threadIdx.x / DEPTH + 16 * i] = from[i];
        else tile[threadIdx.x / TILE + 4 * i][threadIdx.x % TILE] = from[i];
    }
}

// c[m, n] = a[m, k] b[k, n], or added to what is there. A block for each tile of 64 by 64, tiles of a row of tiles one after
// another; a thread owns every sixteenth row and column of it. Each sum is one chain in the order of its terms, whatever the
// shape; the next terms are on their way while the last are multiplied.
KERNEL void __launch_bounds__(256) product(const A_T* a, u64 a_row, u64 a_column, const B_T* b, u64 b_row, u64 b_column, C_T* c, u64 c_stride, u64 m, u64 n, u64 k, u32 mode, const float* condition) {
    __shared__ float a_tile[DEPTH][TILE + 1];
    __shared__ float b_tile[DEPTH][TILE + 1];
    u64 across = (n + TILE - 1) / TILE;
    u64 first_row = blockIdx.x / across * TILE, first_column = blockIdx.x % across * TILE;
    u32 own_row = threadIdx.x / 16, own_column = threadIdx.x % 16;
    float sums[4][4] = {};
    float a_next[4], b_next[4];
    fetch(a, a_row, a_column, first_row, m, 0, k, a_next);
    fetch(b, b_column, b_row, first_column, n, 0, k, b_next);
    for (u64 step = 0; step < k; step += DEPTH) {
        // All have read what lay here.
        __syncthreads();
        place(a_tile, a_column, a_next);
        place(b_tile, b_row, b_next);
        __syncthreads();
        fetch(a, a_row, a_column, first_row, m, step + DEPTH, k, a_next);
        fetch(b, b_column, b_row, first_column, n, step + DEPTH, k, b_next);
#pragma unroll
        for (int term = 0; term < DEPTH; term++) {
            float left[4], right[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                left[i] = a_tile[term][own_row + 16 * i];
                right[i] = b_tile[term][own_column + 16 * i];
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
            }
        }
    }
    bool add = adds(mode, condition);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u64 row = first_row + own_row + 16 * i;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u64 column = first_column + own_column + 16 * j;
            if (row >= m || column >= n) continue;
            C_T* to = c + row * c_stride + column;
            set(to, add ? to_f32(*to) + sums[i][j] : sums[i][j]);
        }
    }
}

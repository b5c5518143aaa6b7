// Rows of a table looked up by id, and the gradient of the table.
//
// Owns both kernels. Macros: for `embedding` UNIT_T (Pack, u32, u16: what rows are copied in); for `embedding_backward`
// DY_T, D_T and VEC.

#ifdef UNIT_T
DEVICE void set_ones(Pack& unit) {
#pragma unroll
    for (int i = 0; i < 4; i++) unit.word[i] = ~0u;
}
DEVICE void set_ones(u32& unit) { unit = ~0u; }
DEVICE void set_ones(u16& unit) { unit = 0xffff; }

// y[rows, width] = table[ids[rows], width]; widths and strides in units. The host checks ids; one that is not in the table
// reads nothing and gives NaN, which is what all ones are in every format. A block for each run of 1024 units.
KERNEL void __launch_bounds__(256) embedding(const i32* ids, const UNIT_T* table, u64 table_stride, u64 table_rows, UNIT_T* y, u64 y_stride, u64 rows, u64 width) {
    u64 first = (u64)blockIdx.x * 1024 + threadIdx.x;
    UNIT_T units[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u64 item = first + 256 * i;
        if (item >= rows * width) continue;
        i32 id = ids[item / width];
        if (id >= 0 && (u64)id < table_rows) units[i] = table[id * table_stride + item % width];
        else set_ones(units[i]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u64 item = first + 256 * i;
        if (item < rows * width) y[item / width * y_stride + item % width] = units[i];
    }
}
#endif

#ifdef DY_T
#define RUN_ROWS 4  // Rows that a warp has in flight.
#define WARPS 8  // Runs of a block, as the launch has them.
#define LONG_RUN 32  // Rows of a run from which on all warps of the block share them.

// Adds every `step`th row that `order[at]` to `order[end]` names, in this order, as far as the lane has a column. A warp
// reads the places of 32 rows at once.
DEVICE void add_rows(const i32* order, i32 at, i32 end, i32 step, const DY_T* dy, u64 dy_stride, bool there, float (&sum)[VEC]) {
    for (; at < end; at += 32 * step) {
        i32 own = at + (i32)(threadIdx.x % 32) * step, place = own < end ? order[own] : -1;
#pragma unroll 1
        for (i32 first = 0; first < 32 && at + first * step < end; first += RUN_ROWS) {
            float rows[RUN_ROWS][VEC];
            i32 places[RUN_ROWS];
#pragma unroll
            for (int i = 0; i < RUN_ROWS; i++) {
                places[i] = __shfl_sync(~0u, place, first + i);
                if (there && places[i] >= 0) load(dy + places[i] * dy_stride, rows[i]);
            }
#pragma unroll
            for (int i = 0; i < RUN_ROWS; i++) {
                if (places[i] < 0) continue;
#pragma unroll
                for (int lane = 0; lane < VEC; lane++) sum[lane] += rows[i][lane];
            }
        }
    }
}
// dtable[id] = Σ dy[p] over the positions p that hold the id, or added to what is there; rows that no position names are
// not touched. `order` holds, for `count` positions: all of them, sorted by id and within an id ascending [count]; where
// each run of equal ids begins [count + 1]; the id of each run [count]; the number of runs. The grid has blocks for as many
// runs as there are positions, WARPS of them a block, `across` blocks of 32 · VEC columns each, and those beyond the last
// run leave.
//
// A warp adds the rows of its run one after another in the order of the positions. In text most ids are rare and few are
// a large part of all: where a warp of its own would take LONG_RUN rows or more, all warps of the block take turns at the
// rows, and their sums are added in order.
KERNEL void __launch_bounds__(256) embedding_backward(const i32* order, u64 count, const DY_T* dy, u64 dy_stride, D_T* dtable, u64 dtable_stride, u64 table_rows, u64 width, u64 across, u32 mode, const float* condition) {
    __shared__ __align__(16) float parts[WARPS][32 * VEC];
    const i32 *starts = order + count, *ids = starts + count + 1, *runs = ids + count;
    u64 first = blockIdx.x / across * WARPS, all = (u64)*runs;
    if (first >= all) return;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 column = (blockIdx.x % across * 32 + lane) * VEC;
    bool add = adds(mode, condition);
    bool there = column < width;
    // First each warp has its own run, then all of them have the long ones in turn.
    for (int turn = -1; turn < WARPS; turn++) {
        bool shared = turn >= 0;
        u64 run = first + (shared ? turn : warp);
        if (run >= all) continue;
        i32 id = ids[run], at = starts[run], end = starts[run + 1];
        if (shared != (end - at >= LONG_RUN) || id < 0 || (u64)id >= table_rows) continue;
        float sum[VEC] = {};
        add_rows(order, shared ? at + (i32)warp : at, end, shared ? WARPS : 1, dy + column, dy_stride, there, sum);
        D_T* to = dtable + id * dtable_stride;
        if (!shared) {
            float old[VEC];
            if (there && add) load(to + column, old);
#pragma unroll
            for (int i = 0; i < VEC; i++) sum[i] = add ? sum[i] + old[i] : sum[i];
            if (there) store(to + column, sum);
            continue;
        }
        __syncthreads();
        store(&parts[warp][lane * VEC], sum);
        __syncthreads();
        u64 mine = blockIdx.x % across * 32 * VEC + threadIdx.x;
        if (threadIdx.x >= 32 * VEC || mine >= width) continue;
        float whole = parts[0][threadIdx.x];
#pragma unroll
        for (int other = 1; other < WARPS; other++) whole += parts[other][threadIdx.x];
        if (add) whole += to_f32(to[mine]);
        set(&to[mine], whole);
    }
}
#endif

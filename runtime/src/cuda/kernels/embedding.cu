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
#define RUN_ROWS 8  // Rows that are in flight at a time.

// dtable[id] = Σ dy[p] over the positions p that hold the id, or added to what is there; rows that no position names are
// not touched. `order` holds, for `count` positions: all of them, sorted by id and within an id ascending [count]; where
// each run of equal ids begins [count + 1]; the id of each run [count]; the number of runs. The grid has blocks for as many
// runs as there are positions, `across` for each, and those beyond the last run leave. A thread owns VEC columns: it
// adds the rows one after another in the order of the positions, RUN_ROWS of them in flight.
KERNEL void __launch_bounds__(256) embedding_backward(const i32* order, u64 count, const DY_T* dy, u64 dy_stride, D_T* dtable, u64 dtable_stride, u64 table_rows, u64 width, u64 across, u32 mode, const float* condition) {
    const i32 *starts = order + count, *ids = starts + count + 1, *runs = ids + count;
    u64 run = blockIdx.x / across;
    if (run >= (u64)*runs) return;
    u64 column = (blockIdx.x % across * blockDim.x + threadIdx.x) * VEC;
    i32 id = ids[run];
    if (column >= width || id < 0 || (u64)id >= table_rows) return;
    i32 at = starts[run], end = starts[run + 1];
    i32 next[RUN_ROWS];
#pragma unroll
    for (int i = 0; i < RUN_ROWS; i++) next[i] = at + i < end ? order[at + i] : -1;
    float sum[VEC] = {};
    while (at < end) {
        float rows[RUN_ROWS][VEC];
#pragma unroll
        for (int i = 0; i < RUN_ROWS; i++) {
            if (next[i] >= 0) load(dy + next[i] * dy_stride + column, rows[i]);
        }
        // Places of the next rows are on their way with these.
        i32 later[RUN_ROWS];
#pragma unroll
        for (int i = 0; i < RUN_ROWS; i++) later[i] = at + RUN_ROWS + i < end ? order[at + RUN_ROWS + i] : -1;
#pragma unroll
        for (int i = 0; i < RUN_ROWS; i++) {
            if (next[i] < 0) continue;
#pragma unroll
            for (int lane = 0; lane < VEC; lane++) sum[lane] += rows[i][lane];
        }
#pragma unroll
        for (int i = 0; i < RUN_ROWS; i++) next[i] = later[i];
        at += RUN_ROWS;
    }
    D_T* to = dtable + id * dtable_stride + column;
    if (adds(mode, condition)) {
        float old[VEC];
        load(to, old);
#pragma unroll
        for (int lane = 0; lane < VEC; lane++) sum[lane] += old[lane];
    }
    store(to, sum);
}
#endif

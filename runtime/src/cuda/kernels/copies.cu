// Rows copied, cleared and shifted, whatever their elements are.
//
// Owns three kernels over units (macro UNIT_T: Pack, u32, u16), the widest that all rows of a launch consist of; widths and
// strides are in units. Each has a block for each run of 1024 units, four of which a thread has in flight.

// y[rows, width] = x[rows, width]: slices, and the parts of a join.
KERNEL void __launch_bounds__(256) copy_rows(const UNIT_T* x, u64 x_stride, UNIT_T* y, u64 y_stride, u64 rows, u64 width) {
    u64 first = (u64)blockIdx.x * 1024 + threadIdx.x;
    UNIT_T units[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u64 item = first + 256 * i;
        if (item < rows * width) units[i] = x[item / width * x_stride + item % width];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u64 item = first + 256 * i;
        if (item < rows * width) y[item / width * y_stride + item % width] = units[i];
    }
}

// y[rows, width] = 0 unless `mode` and `condition` say that what is there counts.
KERNEL void __launch_bounds__(256) clear_rows(UNIT_T* y, u64 y_stride, u64 rows, u64 width, u32 mode, const float* condition) {
    if (adds(mode, condition)) return;
    u64 first = (u64)blockIdx.x * 1024 + threadIdx.x;
    const UNIT_T zero = {};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u64 item = first + 256 * i;
        if (item < rows * width) y[item / width * y_stride + item % width] = zero;
    }
}

// y[row] = x[row - by] for rows of the same sequence of `sequence` rows, 0 where there is no such row. `by` is not beyond
// the sequence's length in either direction.
KERNEL void __launch_bounds__(256) shift_rows(const UNIT_T* x, u64 x_stride, UNIT_T* y, u64 y_stride, u64 rows, u64 width, u64 sequence, i64 by) {
    u64 first = (u64)blockIdx.x * 1024 + threadIdx.x;
    UNIT_T units[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u64 item = first + 256 * i;
        units[i] = UNIT_T{};
        if (item >= rows * width) continue;
        u64 row = item / width;
        i64 source = (i64)(row % sequence) - by;
        if (source >= 0 && source < (i64)sequence) units[i] = x[(row - by) * x_stride + item % width];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u64 item = first + 256 * i;
        if (item < rows * width) y[item / width * y_stride + item % width] = units[i];
    }
}

// Rows set to zero where they are not added to.

// y[rows, width] = 0 unless `mode` and `condition` say that what is there counts. A block for each run of 1024 elements.
KERNEL void __launch_bounds__(256) fill_zero(Y_T* y, u64 y_stride, u64 rows, u64 width, u32 mode, const float* condition) {
    if (adds(mode, condition)) return;
    u64 first = (u64)blockIdx.x * 1024 + threadIdx.x;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u64 element = first + 256 * i;
        if (element < rows * width) set(&y[element / width * y_stride + element % width], 0.0f);
    }
}

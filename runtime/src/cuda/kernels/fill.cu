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

// Words of two bf16 numbers between -1 and 1 from a hash of their place: what products are timed on.
KERNEL void __launch_bounds__(256) fill_noise(u32* words, u64 count) {
    for (u64 i = (u64)blockIdx.x * 256 + threadIdx.x; i < count; i += (u64)gridDim.x * 256) {
        u32 x = (u32)(i * 2654435761u) ^ (u32)(i >> 32);
        x = (x ^ (x >> 16)) * 0x7feb352du;
        x = (x ^ (x >> 15)) * 0x846ca68bu;
        x ^= x >> 16;
        float a = (float)(i32)(x & 0xffff) / 32768.0f - 1.0f, b = (float)(i32)(x >> 16) / 32768.0f - 1.0f;
        words[i] = to_bf16_pair(a, b);
    }
}

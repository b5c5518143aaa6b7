// Memory filled with made-up numbers.

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

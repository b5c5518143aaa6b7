// Dropout: elements set to zero by counter-based random words.
//
// Owns one kernel, in place or not; forward and backward are the same. Macros: X_T, VEC. The words are those of
// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011).

#define ELEMENTS (VEC == 8 ? 8 : 4)  // Of a thread: whole blocks of four words.

// One block of words: a bijection of the counter, chosen by the key.
DEVICE void philox(u32 key0, u32 key1, u32 (&x)[4]) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u64 first = (u64)0xd2511f53u * x[0], second = (u64)0xcd9e8d57u * x[2];
        x[0] = (u32)(second >> 32) ^ x[1] ^ key0;
        x[1] = (u32)second;
        x[2] = (u32)(first >> 32) ^ x[3] ^ key1;
        x[3] = (u32)first;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
}

// y[rows, width]: 0 where an element's word is below `threshold`, else x · factor. x and y may be the same. The words of
// element e, counted in logical order, are those of block e / 4, whoever asks. A thread for every ELEMENTS elements in
// logical order: with VEC 8 these are neighbours of one row, else each finds its place.
KERNEL void __launch_bounds__(256) dropout(const X_T* x, u64 x_stride, const i32* draw, X_T* y, u64 y_stride, u64 rows, u64 width, u64 key, u32 threshold, float factor) {
    u64 first = ((u64)blockIdx.x * 256 + threadIdx.x) * ELEMENTS;
    if (first >= rows * width) return;
    u64 row = first / width, column = first % width;
    u32 key0 = (u32)draw[0] ^ (u32)key, key1 = (u32)draw[1] ^ (u32)(key >> 32);
    u32 draw2 = (u32)draw[2], draw3 = (u32)draw[3];
#if VEC == 8
    float values[8];
    load(x + row * x_stride + column, values);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        u64 block = first / 4 + half;
        u32 words[4] = {(u32)block, (u32)(block >> 32), draw2, draw3};
        philox(key0, key1, words);
#pragma unroll
        for (int i = 0; i < 4; i++) values[4 * half + i] = words[i] < threshold ? 0.0f : values[4 * half + i] * factor;
    }
    store(y + row * y_stride + column, values);
#else
    u64 block = first / 4;
    u32 words[4] = {(u32)block, (u32)(block >> 32), draw2, draw3};
    philox(key0, key1, words);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (first + i >= rows * width) return;
        float value = to_f32(x[row * x_stride + column]);
        set(y + row * y_stride + column, words[i] < threshold ? 0.0f : value * factor);
        column++;
        if (column == width) row++, column = 0;
    }
#endif
}

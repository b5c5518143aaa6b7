// Pointwise programs: everything between the heavy operations.
//
// The program, its operands and the storing of its results are generated (program.rs, lower/pointwise.rs).

// A thread computes VEC neighbours of one row in all outputs: it reads all that it needs before it writes, so results may
// lie on operands. `count` groups in all, `groups` in a row.
KERNEL void __launch_bounds__(256) pointwise(u64 count, u64 groups RESULT_PARAMS PROGRAM_PARAMS) {
    u64 group = (u64)blockIdx.x * 256 + threadIdx.x;
    if (group >= count) return;
#if ROWS == 1
    u64 row = 0, column = group * VEC;
#else
    u64 row = (INDEX)group / (INDEX)groups, column = (u64)((INDEX)group % (INDEX)groups) * VEC;
#endif
    float none[VEC] = {}, out[OUTPUTS][VEC];
    program(row, column, none, out PROGRAM_ARGS);
#ifdef WIDTH
    // What pads a row stays 0, so that products may read it.
    if (column + VEC > WIDTH) {
#pragma unroll
        for (int output = 0; output < OUTPUTS; output++) {
#pragma unroll
            for (int lane = 0; lane < VEC; lane++) {
                if (column + lane >= WIDTH) out[output][lane] = 0.0f;
            }
        }
    }
#endif
    store_results(row, column, out RESULT_ARGS);
}

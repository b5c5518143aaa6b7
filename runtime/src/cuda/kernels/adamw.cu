// AdamW over the flat parameter segment, in one pass that also applies the clipping factor.
//
// Owns the update and the step counter (arXiv 1711.05101, arXiv 1412.6980). Macros: G_T, the element format of gradients,
// moments and the parameters that the update reads; MASTER 0|1, whether those are masters whose copies in bf16 are
// written beside them; VEC 1|8, neighbours that are read and written at once.

// Numbers of one update, rounded once.
struct Constants {
    float clip, beta1, one_minus_beta1, beta2, one_minus_beta2;
    // 1 / sqrt(1 - β₂ᵗ)
    float root_correction;
    float epsilon;
    // 1 - lr · decay
    float keep;
    // lr / (1 - β₁ᵗ)
    float step_size;
};

// By squaring: only multiplications, so the same bits on every machine.
DEVICE double power(double base, u64 exponent) {
    double result = 1.0;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1) result *= base;
        base *= base;
    }
    return result;
}

// A counter at its largest value stays there; the corrections have long been 1.
DEVICE i32 next(i32 step) { return step == 0x7fffffff ? step : step + 1; }

DEVICE void update(float g, float& p, float& m, float& v, const Constants& c) {
    g *= c.clip;
    m = fmaf(c.beta1, m, c.one_minus_beta1 * g);
    v = fmaf(c.beta2, v, c.one_minus_beta2 * g * g);
    float denominator = fmaf(sqrtf(v), c.root_correction, c.epsilon);
    p = fmaf(p, c.keep, -(c.step_size * (m / denominator)));
}

// Elements start..start + length of the segment: gradients → parameters (or masters and their copies) and both moments in
// place, unless a gradient is not finite. The thread's unit is a group of VEC neighbours, counted from the segment's start
// so that it is aligned whatever the range; groups at the range's ends that are not all of it go element by element. A
// block has 1024 groups: its constants, in f64 and with two powers, are made once for all of them.
KERNEL void __launch_bounds__(256) adamw(const G_T* gradients, const float* norm, const float* finite, const float* learning_rate, G_T* parameters, bf16* copies, G_T* first, G_T* second, const i32* step, u64 start, u64 length, double weight_decay, double learning_rate_factor, double beta1, double beta2, double epsilon, double clip_norm) {
    if (*finite == 0.0f) return;
    __shared__ Constants shared;
    if (threadIdx.x == 0) {
        i32 count = next(*step);
        u64 t = count < 0 ? 1 : (u64)count;
        double clip = clip_norm == 0.0 ? 1.0 : clip_norm / ((double)*norm + 1e-6);
        double rate = (double)*learning_rate * learning_rate_factor;
        shared.clip = (float)(clip < 1.0 ? clip : 1.0);
        shared.beta1 = (float)beta1;
        shared.one_minus_beta1 = (float)(1.0 - beta1);
        shared.beta2 = (float)beta2;
        shared.one_minus_beta2 = (float)(1.0 - beta2);
        shared.root_correction = (float)(1.0 / sqrt(1.0 - power(beta2, t)));
        shared.epsilon = (float)epsilon;
        shared.keep = (float)(1.0 - rate * weight_decay);
        shared.step_size = (float)(rate / (1.0 - power(beta1, t)));
    }
    __syncthreads();
    Constants constants = shared;
    u64 end = start + length;
    u64 group = start / VEC + (u64)blockIdx.x * 1024 + threadIdx.x;
#pragma unroll 1
    for (int i = 0; i < 4; i++, group += 256) {
        u64 from = group * VEC, to = from + VEC;
        if (from >= end) break;
        if (from >= start && to <= end) {
            float g[VEC], p[VEC], m[VEC], v[VEC];
            load(gradients + from, g);
            load(parameters + from, p);
            load(first + from, m);
            load(second + from, v);
#pragma unroll
            for (int k = 0; k < VEC; k++) update(g[k], p[k], m[k], v[k], constants);
            store(parameters + from, p);
            store(first + from, m);
            store(second + from, v);
            if (MASTER) store(copies + from, p);
            continue;
        }
        for (u64 at = from < start ? start : from; at < to && at < end; at++) {
            float p = to_f32(parameters[at]), m = to_f32(first[at]), v = to_f32(second[at]);
            update(to_f32(gradients[at]), p, m, v, constants);
            set(&parameters[at], p);
            set(&first[at], m);
            set(&second[at], v);
            if (MASTER) set(&copies[at], p);
        }
    }
}

// Counts the update, after all ranges: they read the counter. One block.
KERNEL void __launch_bounds__(32) count_step(const float* finite, i32* step) {
    if (threadIdx.x == 0 && *finite != 0.0f) *step = next(*step);
}

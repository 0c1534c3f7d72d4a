// The AdamW update, and the sum of squares that the gradient's norm is made of.
//
// Update: a thread an element, 256 a block. Bytes an element: 28; FLOPs: about 15. Limit: memory bandwidth.
// Sum: 256 blocks of 256 threads, in f64, each thread at a fixed stride, then over the block; the host adds the blocks'
// sums. The order depends on the length alone. Bytes an element: 4; f64 FLOPs: 2. Limit: memory bandwidth (f64 units on
// consumer GPUs).

#include "common.cuh"

// g = grad_scale grad; m += (1 - beta1) (g - m); v = beta2 v + (1 - beta2) g^2;
// param = decay param - step_size m / (sqrt(v) / root + eps)
extern "C" __global__ void adamw(const float* grad, float* param, float* m, float* v, uint64_t count, float grad_scale,
                                 float rest1, float beta2, float rest2, float step_size, float root, float eps,
                                 float decay) {
    const uint64_t i = element();
    if (i >= count) return;
    const float g = grad_scale * grad[i];
    const float first = m[i] + rest1 * (g - m[i]);
    const float second = beta2 * v[i] + rest2 * g * g;
    m[i] = first;
    v[i] = second;
    param[i] = decay * param[i] - step_size * first / (sqrtf(second) / root + eps);
}

// sums[block] = sum of x^2 over the block's elements
extern "C" __global__ void sum_squares(const float* x, double* sums, uint64_t count) {
    __shared__ double shared[WARP];
    double sum = 0.0;
    for (uint64_t i = element(); i < count; i += static_cast<uint64_t>(gridDim.x) * blockDim.x) {
        const double value = x[i];
        sum += value * value;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

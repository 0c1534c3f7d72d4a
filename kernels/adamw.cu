// The AdamW update, and the sum of squares that the gradient's norm is made of.
//
// Update: a thread an element, 256 a block. Bytes an element: 28, or 16 where parameter and moments are bf16; FLOPs: about
// 15, and some 100 integer operations for the draws of bf16. Limit: memory bandwidth.
// Sum: 256 blocks of 256 threads, in f64, each thread at a fixed stride, then over the block; the host adds the blocks'
// sums. The order depends on the length alone. Bytes an element: 4; f64 FLOPs: 2. Limit: memory bandwidth (f64 units on
// consumer GPUs).

#include "common.cuh"

// Ten rounds of Philox4x32, as src/rng.rs has them: three words of the block at (element, step).
struct Noise {
    uint32_t param, m, v;

    __device__ Noise(uint64_t element, uint32_t step, uint64_t stream) {
        uint32_t a = static_cast<uint32_t>(element), b = static_cast<uint32_t>(element >> 32), c = step, d = 0;
        uint32_t key = static_cast<uint32_t>(stream), other = static_cast<uint32_t>(stream >> 32);
        for (int round = 0; round < 10; ++round) {
            const uint32_t low = 0xd2511f53u * a, high = 0xcd9e8d57u * c;
            const uint32_t next = __umulhi(0xcd9e8d57u, c) ^ b ^ key;
            c = __umulhi(0xd2511f53u, a) ^ d ^ other;
            a = next;
            b = high;
            d = low;
            key += 0x9e3779b9u;
            other += 0xbb67ae85u;
        }
        param = a;
        m = b;
        v = c;
    }
};

// bf16 results are x on average: up or down by 16 random bits. What is not finite stays as it is.
__device__ __forceinline__ void store_rounded(float* p, float x, uint32_t) { *p = x; }
__device__ __forceinline__ void store_rounded(__nv_bfloat16* p, float x, uint32_t word) {
    const uint32_t bits = __float_as_uint(x) + (word >> 16);
    *p = isfinite(x) ? __ushort_as_bfloat16(static_cast<unsigned short>(bits >> 16)) : __float2bfloat16_rn(x);
}

// g = grad_scale grad; m += (1 - beta1) (g - m); v = beta2 v + (1 - beta2) g^2;
// param = decay param - step_size m / (sqrt(v) / root + eps)
template <typename T>
__device__ void adamw(const float* grad, T* param, T* m, T* v, uint64_t count, float grad_scale, float rest1,
                      float beta2, float rest2, float step_size, float root, float eps, float decay, uint32_t step,
                      uint64_t stream) {
    const uint64_t i = element();
    if (i >= count) return;
    const float g = grad_scale * grad[i], m0 = load(m + i);
    const float first = m0 + rest1 * (g - m0);
    const float second = beta2 * load(v + i) + rest2 * g * g;
    const float next = decay * load(param + i) - step_size * first / (sqrtf(second) / root + eps);
    const Noise noise(i, step, stream);
    store_rounded(m + i, first, noise.m);
    store_rounded(v + i, second, noise.v);
    store_rounded(param + i, next, noise.param);
}

#define ADAMW(name, T)                                                                                                   \
    extern "C" __global__ void adamw_##name(const float* grad, T* param, T* m, T* v, uint64_t count, float grad_scale,   \
                                            float rest1, float beta2, float rest2, float step_size, float root,          \
                                            float eps, float decay, uint32_t step, uint64_t stream) {                    \
        adamw(grad, param, m, v, count, grad_scale, rest1, beta2, rest2, step_size, root, eps, decay, step, stream);     \
    }

FOR_EACH_ACTIVATION(ADAMW)

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

// RMSNorm and its gradients, over groups of n consecutive elements, f32 or bf16, in f32 arithmetic.
//
// Tiling: a block a group, as many threads as the group has elements, 32 to 256. The group is read twice, the second time
// from L1. Bytes an f32 element: forward 8, backward 12 to 16; FLOPs: 4 and 10. The weight's gradient is summed over parts
// of 64 groups, then over the parts, both in order: 8 bytes an element on top. Limit: memory bandwidth.

#include "common.cuh"

// y_i = x_i r (offset + w_i), r = 1 / sqrt(mean x^2 + eps)
template <typename X, typename Y>
__device__ void rms_norm(const X* x, const float* weight, float offset, float eps, Y* y, uint32_t n) {
    __shared__ float shared[WARP];
    x += static_cast<uint64_t>(blockIdx.x) * n;
    y += static_cast<uint64_t>(blockIdx.x) * n;
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) squares += load(x + i) * load(x + i);
    const float r = 1.0f / sqrtf(block_sum(squares, shared) / n + eps);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) store(y + i, load(x + i) * r * (offset + weight[i]));
}

#define RMS_NORM(name, X, Y)                                                                                             \
    extern "C" __global__ void rms_norm_##name(const X* x, const float* weight, float offset, float eps, Y* y,           \
                                               uint32_t n) {                                                             \
        rms_norm(x, weight, offset, eps, y, n);                                                                          \
    }

RMS_NORM(f32_f32, float, float)
RMS_NORM(f32_bf16, float, __nv_bfloat16)
RMS_NORM(bf16_bf16, __nv_bfloat16, __nv_bfloat16)

// With g_i = dy_i (offset + w_i): dx_i (+)= r g_i - r^3 x_i mean_j(g_j x_j). Keeps r for the weight's gradient.
template <typename T>
__device__ void rms_norm_backward(const T* x, const float* weight, float offset, float eps, const T* dy, T* dx,
                                  uint32_t accumulate, float* inverse_rms, uint32_t n) {
    __shared__ float shared[WARP];
    const uint64_t at = static_cast<uint64_t>(blockIdx.x) * n;
    x += at;
    dy += at;
    dx += at;
    float squares = 0.0f, projection = 0.0f;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        squares += load(x + i) * load(x + i);
        projection += load(dy + i) * (offset + weight[i]) * load(x + i);
    }
    const float r = 1.0f / sqrtf(block_sum(squares, shared) / n + eps);
    const float factor = r * r * r * (block_sum(projection, shared) / n);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        const float d = r * (load(dy + i) * (offset + weight[i])) - factor * load(x + i);
        store(dx + i, accumulate ? load(dx + i) + d : d);
    }
    if (threadIdx.x == 0) inverse_rms[blockIdx.x] = r;
}

// sums[p][i] = sum of dy_i x_i r over the p-th `part` groups, in order. Grid: (elements of a group, parts).
template <typename T>
__device__ void rms_norm_backward_weight(const T* x, const T* dy, const float* inverse_rms, float* sums, uint32_t groups,
                                         uint32_t n, uint32_t part) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const uint32_t start = blockIdx.y * part, end = min(groups, start + part);
    float sum = 0.0f;
    for (uint32_t g = start; g < end; ++g) {
        const uint64_t at = static_cast<uint64_t>(g) * n + i;
        sum += load(dy + at) * load(x + at) * inverse_rms[g];
    }
    sums[static_cast<uint64_t>(blockIdx.y) * n + i] = sum;
}

#define RMS_NORM_BACKWARD(name, T)                                                                                       \
    extern "C" __global__ void rms_norm_backward_##name(const T* x, const float* weight, float offset, float eps,        \
                                                        const T* dy, T* dx, uint32_t accumulate, float* inverse_rms,     \
                                                        uint32_t n) {                                                    \
        rms_norm_backward(x, weight, offset, eps, dy, dx, accumulate, inverse_rms, n);                                   \
    }                                                                                                                    \
    extern "C" __global__ void rms_norm_backward_weight_##name(const T* x, const T* dy, const float* inverse_rms,        \
                                                               float* sums, uint32_t groups, uint32_t n,                 \
                                                               uint32_t part) {                                          \
        rms_norm_backward_weight(x, dy, inverse_rms, sums, groups, n, part);                                             \
    }

FOR_EACH_ACTIVATION(RMS_NORM_BACKWARD)

// RMSNorm and its gradients, over groups of n consecutive f32 elements.
//
// Tiling: a block a group, as many threads as the group has elements, 32 to 256. The group is read twice, the second time
// from L1. Bytes an element: forward 8, backward 12 to 16; FLOPs: 4 and 10. The weight's gradient is summed over parts of
// 64 groups, then over the parts, both in order: 8 bytes an element on top. Limit: memory bandwidth.

#include "common.cuh"

// y_i = x_i r (offset + w_i), r = 1 / sqrt(mean x^2 + eps)
extern "C" __global__ void rms_norm(const float* x, const float* weight, float offset, float eps, float* y, uint32_t n) {
    __shared__ float shared[WARP];
    x += static_cast<uint64_t>(blockIdx.x) * n;
    y += static_cast<uint64_t>(blockIdx.x) * n;
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) squares += x[i] * x[i];
    const float r = 1.0f / sqrtf(block_sum(squares, shared) / n + eps);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i] * r * (offset + weight[i]);
}

// With g_i = dy_i (offset + w_i): dx_i (+)= r g_i - r^3 x_i mean_j(g_j x_j). Keeps r for the weight's gradient.
extern "C" __global__ void rms_norm_backward(const float* x, const float* weight, float offset, float eps, const float* dy,
                                             float* dx, uint32_t accumulate, float* inverse_rms, uint32_t n) {
    __shared__ float shared[WARP];
    const uint64_t at = static_cast<uint64_t>(blockIdx.x) * n;
    x += at;
    dy += at;
    dx += at;
    float squares = 0.0f, projection = 0.0f;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        squares += x[i] * x[i];
        projection += dy[i] * (offset + weight[i]) * x[i];
    }
    const float r = 1.0f / sqrtf(block_sum(squares, shared) / n + eps);
    const float factor = r * r * r * (block_sum(projection, shared) / n);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        const float d = r * (dy[i] * (offset + weight[i])) - factor * x[i];
        dx[i] = accumulate ? dx[i] + d : d;
    }
    if (threadIdx.x == 0) inverse_rms[blockIdx.x] = r;
}

// sums[p][i] = sum of dy_i x_i r over the p-th `part` groups, in order. Grid: (elements of a group, parts).
extern "C" __global__ void rms_norm_backward_weight(const float* x, const float* dy, const float* inverse_rms, float* sums,
                                                    uint32_t groups, uint32_t n, uint32_t part) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const uint32_t start = blockIdx.y * part, end = min(groups, start + part);
    float sum = 0.0f;
    for (uint32_t g = start; g < end; ++g) {
        const uint64_t at = static_cast<uint64_t>(g) * n + i;
        sum += dy[at] * x[at] * inverse_rms[g];
    }
    sums[static_cast<uint64_t>(blockIdx.y) * n + i] = sum;
}

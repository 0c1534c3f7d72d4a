// RMSNorm and its gradients, over groups of n consecutive elements, f32 or bf16, in f32 arithmetic; alone, and with the
// addition to the residual stream that stands before it.
//
// Tiling: a block a group, as many threads as the group has elements, 32 to 256. A thread reads its elements twice, the
// second time from L1; where the group is a sum that it has made, from shared memory (4 n bytes). Bytes an element of f32,
// with results of e bytes: forward 4 + e, with the addition 12 + e; backward 8 + e, where it joins the stream's gradient
// 16, and 2 for the rounded copy. FLOPs: 4, 5, 10, 11. The weight's gradient is summed over parts of 64 groups, then over
// the parts, both in order: 8 bytes an element on top. Limit: memory bandwidth.

#include "common.cuh"

// 1 / sqrt(mean x^2 + eps) from each thread's part of the sum of squares.
__device__ __forceinline__ float inverse_rms_of(float squares, float eps, uint32_t n) {
    __shared__ float shared[WARP];
    return 1.0f / sqrtf(block_sum(squares, shared) / n + eps);
}

// y_i = x_i r (offset + w_i), r = 1 / sqrt(mean x^2 + eps)
template <typename X, typename Y>
__device__ void rms_norm(const X* x, const float* weight, float offset, float eps, Y* y, uint32_t n) {
    x += static_cast<uint64_t>(blockIdx.x) * n;
    y += static_cast<uint64_t>(blockIdx.x) * n;
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) squares += load(x + i) * load(x + i);
    const float r = inverse_rms_of(squares, eps, n);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) store(y + i, load(x + i) * r * (offset + weight[i]));
}

// sum_i += x_i, then y of that sum: the bits of `add` and `rms_norm`. A thread keeps the sums that it will norm itself, so
// that no barrier stands between.
template <typename Y>
__device__ void add_rms_norm(const float* x, const float* weight, float offset, float eps, float* sum, Y* y, uint32_t n) {
    extern __shared__ float kept[];
    const uint64_t at = static_cast<uint64_t>(blockIdx.x) * n;
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        const float s = sum[at + i] + x[at + i];
        sum[at + i] = s;
        kept[i] = s;
        squares += s * s;
    }
    const float r = inverse_rms_of(squares, eps, n);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) store(y + at + i, kept[i] * r * (offset + weight[i]));
}

#define RMS_NORM(name, X, Y)                                                                                             \
    extern "C" __global__ void rms_norm_##name(const X* x, const float* weight, float offset, float eps, Y* y,           \
                                               uint32_t n) {                                                             \
        rms_norm(x, weight, offset, eps, y, n);                                                                          \
    }

RMS_NORM(f32_f32, float, float)
RMS_NORM(f32_bf16, float, __nv_bfloat16)
RMS_NORM(bf16_bf16, __nv_bfloat16, __nv_bfloat16)

#define ADD_RMS_NORM(name, Y)                                                                                            \
    extern "C" __global__ void add_rms_norm_##name(const float* x, const float* weight, float offset, float eps,         \
                                                   float* sum, Y* y, uint32_t n) {                                       \
        add_rms_norm(x, weight, offset, eps, sum, y, n);                                                                 \
    }

FOR_EACH_ACTIVATION(ADD_RMS_NORM)

// With g_i = dy_i (offset + w_i): puts d_i = r g_i - r^3 x_i mean_j(g_j x_j). Keeps r for the weight's gradient.
template <typename T, typename Put>
__device__ void rms_norm_backward(const T* x, const float* weight, float offset, float eps, const T* dy,
                                  float* inverse_rms, uint32_t n, Put put) {
    __shared__ float shared[WARP];
    const uint64_t at = static_cast<uint64_t>(blockIdx.x) * n;
    x += at;
    dy += at;
    float squares = 0.0f, projection = 0.0f;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        squares += load(x + i) * load(x + i);
        projection += load(dy + i) * (offset + weight[i]) * load(x + i);
    }
    const float r = inverse_rms_of(squares, eps, n);
    const float factor = r * r * r * (block_sum(projection, shared) / n);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        put(at + i, r * (load(dy + i) * (offset + weight[i])) - factor * load(x + i));
    if (threadIdx.x == 0) inverse_rms[blockIdx.x] = r;
}

#define RMS_NORM_BACKWARD(name, T, D)                                                                                    \
    extern "C" __global__ void rms_norm_backward_##name(const T* x, const float* weight, float offset, float eps,        \
                                                        const T* dy, D* dx, float* inverse_rms, uint32_t n) {            \
        rms_norm_backward(x, weight, offset, eps, dy, inverse_rms, n, [=](uint64_t i, float d) { store(dx + i, d); });   \
    }

RMS_NORM_BACKWARD(f32_f32, float, float)
RMS_NORM_BACKWARD(f32_bf16, float, __nv_bfloat16)
RMS_NORM_BACKWARD(bf16_bf16, __nv_bfloat16, __nv_bfloat16)

// dx_i += d_i: the gradient of the normed rows joins that of the stream, which `rounded`, where there is one, receives too.
extern "C" __global__ void add_rms_norm_backward(const float* x, const float* weight, float offset, float eps,
                                                 const float* dy, float* dx, __nv_bfloat16* rounded, float* inverse_rms,
                                                 uint32_t n) {
    rms_norm_backward(x, weight, offset, eps, dy, inverse_rms, n, [=](uint64_t i, float d) {
        const float sum = dx[i] + d;
        dx[i] = sum;
        if (rounded) store(rounded + i, sum);
    });
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

#define RMS_NORM_BACKWARD_WEIGHT(name, T)                                                                                \
    extern "C" __global__ void rms_norm_backward_weight_##name(const T* x, const T* dy, const float* inverse_rms,        \
                                                               float* sums, uint32_t groups, uint32_t n,                 \
                                                               uint32_t part) {                                          \
        rms_norm_backward_weight(x, dy, inverse_rms, sums, groups, n, part);                                             \
    }

FOR_EACH_ACTIVATION(RMS_NORM_BACKWARD_WEIGHT)

// Shared by all kernels: element types, and sums over warps and blocks in one fixed order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// Kernels are found by name, so each type of element has its own: FOR_EACH_TYPE(DEFINE) expands DEFINE(name, T) for all.
#define FOR_EACH_TYPE(DEFINE) \
    DEFINE(f32, float)        \
    DEFINE(bf16, __nv_bfloat16) \
    DEFINE(f16, __half)
// Those that activations have.
#define FOR_EACH_ACTIVATION(DEFINE) \
    DEFINE(f32, float)              \
    DEFINE(bf16, __nv_bfloat16)

__device__ __forceinline__ float load(const float* p) { return *p; }
__device__ __forceinline__ float load(const __nv_bfloat16* p) { return __bfloat162float(*p); }
__device__ __forceinline__ float load(const __half* p) { return __half2float(*p); }

// Round to nearest even.
__device__ __forceinline__ void store(float* p, float x) { *p = x; }
__device__ __forceinline__ void store(__nv_bfloat16* p, float x) { *p = __float2bfloat16_rn(x); }
__device__ __forceinline__ void store(__half* p, float x) { *p = __float2half_rn(x); }

// The element of this thread in a grid that covers them one each.
__device__ __forceinline__ uint64_t element() {
    return static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Sum over the lanes of a warp, the same bits in every lane.
template <typename T> __device__ __forceinline__ T warp_sum(T x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// Sum over all threads of a block of whole warps, at most 1024 threads: the same bits in every thread. `shared` has room
// for one value a warp and may be used again at once.
template <typename T> __device__ __forceinline__ T block_sum(T x, T* shared) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_sum(x);
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    const T sum = warp_sum(lane < warps ? shared[lane] : T(0));
    __syncthreads();
    return sum;
}

// Sums, scaling and the softcap, in place on f32.
//
// Tiling: a thread an element, 256 a block. Bytes an element: add 12, scale and softcap 8; FLOPs: 1, 1, about 20. Limit:
// memory bandwidth.

#include "common.cuh"

// y += x
extern "C" __global__ void add(const float* x, float* y, uint64_t count) {
    const uint64_t i = element();
    if (i < count) y[i] += x[i];
}

// y *= factor
extern "C" __global__ void scale(float factor, float* y, uint64_t count) {
    const uint64_t i = element();
    if (i < count) y[i] *= factor;
}

// y = cap tanh(y / cap)
extern "C" __global__ void softcap(float cap, float* y, uint64_t count) {
    const uint64_t i = element();
    if (i < count) y[i] = cap * tanhf(y[i] / cap);
}

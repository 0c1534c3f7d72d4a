// What cuBLASLt's products leave of a linear layer: the bias. (Its gradient is rows.cu's sums.)
//
// Tiling: a thread an element, 256 a block. Bytes an element: 8; FLOPs: 1. Limit: memory bandwidth.

#include "common.cuh"

// y[t, n] += bias[n]
#define ADD_BIAS(name, T)                                                                                                \
    extern "C" __global__ void add_bias_##name(const float* bias, T* y, uint32_t cols, uint64_t count) {                 \
        const uint64_t i = element();                                                                                    \
        if (i < count) store(y + i, load(y + i) + bias[i % cols]);                                                       \
    }

FOR_EACH_ACTIVATION(ADD_BIAS)

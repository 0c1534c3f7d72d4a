// Rotary position embedding, half-split layout.
//
// Tiling: a thread a pair, 256 a block. Bytes a pair of f32: 16, and the angles' 8 from L2; FLOPs: 6. Limit: memory bandwidth.

#include "common.cuh"

// cos[t, i] = cos(positions[t] inv_freq[i]), the angle in f32, likewise sin
extern "C" __global__ void rope_table(const uint32_t* positions, const float* inv_freq, float* cosines, float* sines,
                                      uint32_t half, uint64_t count) {
    const uint64_t at = element();
    if (at >= count) return;
    const float angle = static_cast<float>(positions[at / half]) * inv_freq[at % half];
    sincosf(angle, sines + at, cosines + at);
}

// (a, b) = (a cos - b sin, b cos + a sin) for a = x_i and b = x_{i + half} of each head; `sign` is -1 for the inverse
template <typename T>
__device__ void rope(T* x, const float* cosines, const float* sines, float sign, uint32_t heads, uint32_t half,
                     uint64_t count) {
    const uint64_t pair = element();
    if (pair >= count) return;
    const uint64_t head = pair / half;
    const uint32_t i = pair % half;
    const uint64_t angle = head / heads * half + i;
    const float c = cosines[angle], s = sign * sines[angle];
    T* at = x + head * 2 * half + i;
    const float a = load(at), b = load(at + half);
    store(at, a * c - b * s);
    store(at + half, b * c + a * s);
}

#define ROPE(name, T)                                                                                                    \
    extern "C" __global__ void rope_##name(T* x, const float* cosines, const float* sines, float sign, uint32_t heads,   \
                                           uint32_t half, uint64_t count) {                                              \
        rope(x, cosines, sines, sign, heads, half, count);                                                               \
    }

FOR_EACH_ACTIVATION(ROPE)

// SwiGLU and GeGLU: y = act(gate) up, and the gradients.
//
// Both activations are x sigmoid(z): silu has z = x; gelu_tanh has z = 2 sqrt(2/pi) (x + 0.044715 x^3), because
// 1 + tanh(u) = 2 sigmoid(2 u).
//
// Tiling: a thread an element, 256 a block. Bytes an element: forward 12, backward 20; FLOPs: about 20 and 50. Limit:
// memory bandwidth.

#include "common.cuh"

constexpr float GELU_SLOPE = 1.595769121605731f; // 2 sqrt(2/pi)
constexpr float GELU_CUBE = 0.044715f;

// The sigmoid's argument and its derivative.
struct Silu {
    static __device__ float z(float x) { return x; }
    static __device__ float slope(float) { return 1.0f; }
};

struct Gelu {
    static __device__ float z(float x) { return GELU_SLOPE * x * (1.0f + GELU_CUBE * x * x); }
    static __device__ float slope(float x) { return GELU_SLOPE * (1.0f + 3.0f * GELU_CUBE * x * x); }
};

__device__ __forceinline__ float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }

#define GLU(name, Activation)                                                                                          \
    extern "C" __global__ void glu_##name(const float* gate, const float* up, float* y, uint64_t count) {              \
        const uint64_t i = element();                                                                                  \
        if (i >= count) return;                                                                                        \
        const float x = gate[i];                                                                                       \
        y[i] = x * sigmoid(Activation::z(x)) * up[i];                                                                  \
    }                                                                                                                  \
    /* act' = s + x s (1 - s) z', with 1 - s = sigmoid(-z) free of cancellation */                                     \
    extern "C" __global__ void glu_##name##_backward(const float* gate, const float* up, const float* dy, float* dgate, \
                                                     float* dup, uint64_t count) {                                     \
        const uint64_t i = element();                                                                                  \
        if (i >= count) return;                                                                                        \
        const float x = gate[i], d = dy[i], z = Activation::z(x), s = sigmoid(z);                                      \
        dup[i] = d * x * s;                                                                                            \
        dgate[i] = d * up[i] * (s + x * s * sigmoid(-z) * Activation::slope(x));                                       \
    }

GLU(silu, Silu)
GLU(gelu, Gelu)

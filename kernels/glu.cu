// SwiGLU and GeGLU: y = act(gate) up, and the gradients.
//
// Both activations are x sigmoid(z): silu has z = x; gelu_tanh has z = 2 sqrt(2/pi) (x + 0.044715 x^3), because
// 1 + tanh(u) = 2 sigmoid(2 u).
//
// Tiling: a thread an element, 256 a block. Bytes an f32 element: forward 12, backward 20; FLOPs: about 20 and 50. Limit:
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

template <typename Activation, typename T> __device__ void glu(const T* gate, const T* up, T* y, uint64_t count) {
    const uint64_t i = element();
    if (i >= count) return;
    const float x = load(gate + i);
    store(y + i, x * sigmoid(Activation::z(x)) * load(up + i));
}

// act' = s + x s (1 - s) z', with 1 - s = sigmoid(-z) free of cancellation
template <typename Activation, typename T>
__device__ void glu_backward(const T* gate, const T* up, const T* dy, T* dgate, T* dup, uint64_t count) {
    const uint64_t i = element();
    if (i >= count) return;
    const float x = load(gate + i), d = load(dy + i), z = Activation::z(x), s = sigmoid(z);
    store(dup + i, d * x * s);
    store(dgate + i, d * load(up + i) * (s + x * s * sigmoid(-z) * Activation::slope(x)));
}

#define GLU(name, Activation, T)                                                                                         \
    extern "C" __global__ void glu_##name(const T* gate, const T* up, T* y, uint64_t count) {                            \
        glu<Activation>(gate, up, y, count);                                                                             \
    }                                                                                                                    \
    extern "C" __global__ void glu_backward_##name(const T* gate, const T* up, const T* dy, T* dgate, T* dup,            \
                                                   uint64_t count) {                                                     \
        glu_backward<Activation>(gate, up, dy, dgate, dup, count);                                                       \
    }

GLU(silu_f32, Silu, float)
GLU(silu_bf16, Silu, __nv_bfloat16)
GLU(gelu_f32, Gelu, float)
GLU(gelu_bf16, Gelu, __nv_bfloat16)

// Conversions between element types, and filling with one value.
//
// Tiling: a thread an element, 256 a block. Bytes: 2 to 8 an element; FLOPs: none. Limit: memory bandwidth.

#include "common.cuh"

template <typename From, typename To> __device__ void convert(const From* from, To* to, uint64_t count) {
    const uint64_t i = element();
    if (i < count) store(to + i, load(from + i));
}

#define CONVERT(from_name, From, to_name, To)                                                                            \
    extern "C" __global__ void convert_##from_name##_##to_name(const From* from, To* to, uint64_t count) {               \
        convert(from, to, count);                                                                                        \
    }

CONVERT(f32, float, bf16, __nv_bfloat16)
CONVERT(f32, float, f16, __half)
CONVERT(bf16, __nv_bfloat16, f32, float)
CONVERT(bf16, __nv_bfloat16, f16, __half)
CONVERT(f16, __half, f32, float)
CONVERT(f16, __half, bf16, __nv_bfloat16)

#define FILL(name, T)                                                                 \
    extern "C" __global__ void fill_##name(T* to, uint64_t count, float value) {      \
        const uint64_t i = element();                                                 \
        if (i < count) store(to + i, value);                                          \
    }

FOR_EACH_TYPE(FILL)

// What the ops that stream the vocabulary share: the online softmax, its merging, and the softcap.
#pragma once
#include "tile.cuh"

// Vocabulary entries that one block sums up before partial results are merged in order: part of the results' bits.
constexpr int VOCABULARY_SPLIT = 1024;

// z -> c tanh(z / c); c is 0 where the model has no softcap.
__device__ __forceinline__ float apply_softcap(float z, float cap) { return cap > 0.0f ? cap * tanhf(z / cap) : z; }

// Derivative of the softcap at a capped logit: 1 - (z / c)^2.
__device__ __forceinline__ float softcap_slope(float z, float cap) {
    float ratio = cap > 0.0f ? z / cap : 0.0f;
    return 1.0f - ratio * ratio;
}

// Softmax of one token over the vocabulary seen so far.
struct Online {
    float max = -INFINITY;
    // sum_v exp(z_v - max), and sum_v exp(z_v - max) z_v.
    float sum = 0.0f, weighted = 0.0f;

    // The factor for sums of terms relative to the old maximum. Before the first logit they are 0.
    __device__ __forceinline__ float raise(float candidate) {
        float higher = fmaxf(max, candidate);
        float factor = max == -INFINITY ? 0.0f : expf(max - higher);
        max = higher;
        sum *= factor;
        weighted *= factor;
        return factor;
    }

    __device__ __forceinline__ void merge(Online other) {
        if (other.max == -INFINITY) return;
        raise(other.max);
        float factor = expf(other.max - max);
        sum += other.sum * factor;
        weighted += other.weighted * factor;
    }

    __device__ __forceinline__ float lse() const { return max + logf(sum); }

    // H(p) = lse - E_p[z]
    __device__ __forceinline__ float entropy() const { return fmaxf(lse() - weighted / sum, 0.0f); }

    __device__ __forceinline__ Online shuffled(int lanes) const {
        Online other;
        other.max = __shfl_xor_sync(ALL_LANES, max, lanes);
        other.sum = __shfl_xor_sync(ALL_LANES, sum, lanes);
        other.weighted = __shfl_xor_sync(ALL_LANES, weighted, lanes);
        return other;
    }
};

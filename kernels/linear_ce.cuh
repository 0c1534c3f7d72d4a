// What both paths of linear_ce share: the state of a token, and the gradient of a logit.
#pragma once
#include "unembed.cuh"

constexpr uint32_t IGNORE = 0xffffffffu;

// One token over the vocabulary seen so far.
struct Token {
    Online online;
    // How many logits are larger than the label's; exact below 2^24.
    float larger = 0.0f;

    // Adds those of N logits that are `valid(j)`.
    template <int N, class Valid>
    __device__ __forceinline__ void absorb(const float (&z)[N], float label_logit, Valid valid) {
        float highest = -INFINITY;
#pragma unroll
        for (int j = 0; j < N; ++j)
            if (valid(j)) highest = fmaxf(highest, z[j]);
        if (highest == -INFINITY) return;
        online.raise(highest);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            if (!valid(j)) continue;
            float e = expf(z[j] - online.max);
            online.sum += e;
            online.weighted = fmaf(e, z[j], online.weighted);
            larger += z[j] > label_logit ? 1.0f : 0.0f;
        }
    }

    __device__ __forceinline__ void merge(const Token& other) {
        online.merge(other.online);
        larger += other.larger;
    }

    __device__ __forceinline__ Token shuffled(int lanes) const {
        return {online.shuffled(lanes), __shfl_xor_sync(ALL_LANES, larger, lanes)};
    }
};

// What the gradient of one token's logits needs of the token.
struct TokenGradient {
    uint32_t label;
    float lse, coefficient, softcap;

    // coefficient (p - [entry = label]), through the softcap. For the label p - 1 is made without the cancellation of
    // subtracting 1 from a rounded p.
    __device__ __forceinline__ float of(float logit, uint32_t entry) const {
        if (label == IGNORE || coefficient == 0.0f) return 0.0f;
        float p = entry == label ? expm1f(logit - lse) : expf(logit - lse);
        return coefficient * p * softcap_slope(logit, softcap);
    }
};

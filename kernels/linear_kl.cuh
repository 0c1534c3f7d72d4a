// What both paths of linear_kl share: the state of a token, its merging, and the gradient of a pair of logits.
#pragma once
#include "unembed.cuh"

// Both sides of one token over the vocabulary seen so far.
struct Pair {
    Online p, q;
    // sum_v exp(z^p_v - max^p) (z^p_v - z^q_v)
    float difference = 0.0f;
    int argmax_p = 0, argmax_q = 0;

    // The first of equal logits is the argmax.
    __device__ __forceinline__ static int first_of(float max, int argmax, float other, int other_argmax) {
        return other > max || (other == max && other_argmax < argmax) ? other_argmax : argmax;
    }

    __device__ __forceinline__ void merge(const Pair& other) {
        if (other.p.max == -INFINITY) return;
        argmax_p = first_of(p.max, argmax_p, other.p.max, other.argmax_p);
        argmax_q = first_of(q.max, argmax_q, other.q.max, other.argmax_q);
        float before = p.max;
        p.merge(other.p);
        q.merge(other.q);
        float kept = before == -INFINITY ? 0.0f : expf(before - p.max);
        difference = difference * kept + other.difference * expf(other.p.max - p.max);
    }

    __device__ __forceinline__ Pair shuffled(int lanes) const {
        Pair other;
        other.p = p.shuffled(lanes);
        other.q = q.shuffled(lanes);
        other.difference = __shfl_xor_sync(ALL_LANES, difference, lanes);
        other.argmax_p = __shfl_xor_sync(ALL_LANES, argmax_p, lanes);
        other.argmax_q = __shfl_xor_sync(ALL_LANES, argmax_q, lanes);
        return other;
    }
};

// Adds N logits of either side, of the entries column(0) < column(1) < .. below `end`.
template <int N, class Column>
__device__ __forceinline__ void absorb(
    Pair& state, const float (&zp)[N], const float (&zq)[N], int end, Column column) {
    float highest_p = -INFINITY, highest_q = -INFINITY;
#pragma unroll
    for (int j = 0; j < N; ++j) {
        if (column(j) >= end) continue;
        if (zp[j] > fmaxf(state.p.max, highest_p)) state.argmax_p = column(j);
        if (zq[j] > fmaxf(state.q.max, highest_q)) state.argmax_q = column(j);
        highest_p = fmaxf(highest_p, zp[j]);
        highest_q = fmaxf(highest_q, zq[j]);
    }
    if (highest_p == -INFINITY) return;
    state.difference *= state.p.raise(highest_p);
    state.q.raise(highest_q);
#pragma unroll
    for (int j = 0; j < N; ++j) {
        if (column(j) >= end) continue;
        float e = expf(zp[j] - state.p.max), f = expf(zq[j] - state.q.max);
        state.p.sum += e;
        state.p.weighted = fmaf(e, zp[j], state.p.weighted);
        state.q.sum += f;
        state.q.weighted = fmaf(f, zq[j], state.q.weighted);
        state.difference = fmaf(e, zp[j] - zq[j], state.difference);
    }
}

// What the gradient of one token's logits needs of the token.
struct TokenGradient {
    float kl, lse_p, lse_q, coefficient, softcap_p, softcap_q;

    // dz^p = coefficient p (log p - log q - KL) and dz^q = coefficient (q - p), through the softcaps. Equal sides give
    // exactly 0: every difference is of equal numbers.
    __device__ __forceinline__ float2 of(float zp, float zq) const {
        if (coefficient == 0.0f) return make_float2(0.0f, 0.0f);
        float log_p = zp - lse_p, log_q = zq - lse_q;
        float p = expf(log_p), q = expf(log_q);
        return make_float2(coefficient * softcap_slope(zp, softcap_p) * (p * (log_p - log_q - kl)), coefficient * softcap_slope(zq, softcap_q) * (q - p));
    }
};

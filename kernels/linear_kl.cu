// KL of two models a token (src/ops/linear_kl): the same tile of both vocabularies at a time, no logits in memory.
//
// Forward: `partial` takes 64 tokens and VOCABULARY_SPLIT entries of the vocabulary, 64 at a time: the tile of p's logits,
// the tile of q's, and each thread's online softmaxes of both on its own columns, with the sum of exp(z^p - max^p)
// (z^p - z^q) beside them; merged over the threads of a row at the end. `combine` merges a token's partial results in order:
//   KL = sum_v p_v (z^p_v - z^q_v) - lse_p + lse_q.
//
// Backward: `gradient` makes both tiles again and turns them into dz^p and dz^q of a bounded piece of tokens x vocabulary;
// linear_ce.cu's products add dz W to dhidden and dz^T hidden to dw.
//
// Tile: linear_ce's twice, 2 x (2 x 64 H) elements and 16,384 H FLOP. At H = 4096 and f32: 4 MB and 67 MFLOP a tile, bound
// by FMA and shared memory (product.cuh). Written: 36 bytes a token and split.
#include "linear_kl.cuh"
#include "product.cuh"

using namespace fma_product;

struct Side {
    const float* hidden;
    Elements w;
    int size;
    float softcap;

    // Tile of logits of tokens from `token0` and entries from `column0`, below `end`.
    __device__ __forceinline__ void logits(
        float (&z)[4][4], Shared& shared, int token0, int tokens, int column0, int end) const {
        multiply<true, true>(z, shared, size, Rows<const float*>{hidden, token0, tokens, size}, Rows<Elements>{w, column0, end, size});
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) z[i][j] = apply_softcap(z[i][j], softcap);
    }
};

// `partials` is [split, token].
extern "C" __global__ void __launch_bounds__(THREADS) linear_kl_partial(
    int tokens, int vocab, int size_p, float softcap_p, const float* hidden_p, const void* w_p, int dtype_p,
    int size_q, float softcap_q, const float* hidden_q, const void* w_q, int dtype_q, Pair* partials) {
    Side p{hidden_p, {w_p, dtype_p}, size_p, softcap_p}, q{hidden_q, {w_q, dtype_q}, size_q, softcap_q};
    __shared__ Shared shared;
    int token0 = blockIdx.x * TILE, start = blockIdx.y * VOCABULARY_SPLIT, end = min(start + VOCABULARY_SPLIT, vocab);
    Pair state[4];
    for (int column0 = start; column0 < end; column0 += TILE) {
        float zp[4][4], zq[4][4];
        p.logits(zp, shared, token0, tokens, column0, end);
        q.logits(zq, shared, token0, tokens, column0, end);
#pragma unroll
        for (int i = 0; i < 4; ++i) absorb(state[i], zp[i], zq[i], end, [&](int j) { return column0 + first_column() + j; });
    }
    merge_rows(state, partials + static_cast<size_t>(blockIdx.y) * tokens, token0, tokens);
}

// One thread a token.
extern "C" __global__ void __launch_bounds__(128) linear_kl_combine(
    int tokens, int splits, const Pair* partials, float* kl, float* entropy_p, float* entropy_q, float* argmax_p,
    float* argmax_q, float* lse_p, float* lse_q) {
    int token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token >= tokens) return;
    Pair state;
    for (int split = 0; split < splits; ++split) state.merge(partials[(size_t)split * tokens + token]);
    kl[token] = state.difference / state.p.sum - state.p.lse() + state.q.lse();
    entropy_p[token] = state.p.entropy();
    entropy_q[token] = state.q.entropy();
    argmax_p[token] = state.argmax_p;
    argmax_q[token] = state.argmax_q;
    lse_p[token] = state.p.lse();
    lse_q[token] = state.q.lse();
}

// dz of the entries [start, start + width), row-major; either may be null.
extern "C" __global__ void __launch_bounds__(THREADS) linear_kl_gradient(
    int tokens, int start, int width, int size_p, float softcap_p, const float* hidden_p, const void* w_p, int dtype_p,
    int size_q, float softcap_q, const float* hidden_q, const void* w_q, int dtype_q, const float* kl,
    const float* lse_p, const float* lse_q, const float* coefficient, float* dzp, float* dzq) {
    Side p{hidden_p, {w_p, dtype_p}, size_p, softcap_p}, q{hidden_q, {w_q, dtype_q}, size_q, softcap_q};
    __shared__ Shared shared;
    int token0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    float zp[4][4], zq[4][4];
    p.logits(zp, shared, token0, tokens, start + column0, start + width);
    q.logits(zq, shared, token0, tokens, start + column0, start + width);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        int token = token0 + first_row() + i;
        if (token >= tokens) continue;
        TokenGradient token_gradient{kl[token], lse_p[token], lse_q[token], coefficient[token], p.softcap, q.softcap};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            int column = column0 + first_column() + j;
            if (column >= width) continue;
            float2 dz = token_gradient.of(zp[i][j], zq[i][j]);
            size_t at = static_cast<size_t>(token) * width + column;
            if (dzp) dzp[at] = dz.x;
            if (dzq) dzq[at] = dz.y;
        }
    }
}

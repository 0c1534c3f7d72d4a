// Unembedding and cross-entropy in one (src/ops/linear_ce): the vocabulary streams in tiles, no logits in memory.
//
// Forward, three kernels. `label`: each token's logit of its own label, by the same product that makes the tiles, so with
// the same bits (the diagonal of a tile whose columns are the labels' rows of W); ranks compare with it. `partial`: a block
// takes 64 tokens and VOCABULARY_SPLIT entries of the vocabulary, 64 at a time; each thread keeps an online softmax of its
// own columns, merged over the threads of a row at the end. `combine`: merges a token's partial results in order.
//
// Backward, on a bounded piece of tokens x vocabulary at a time (the host's loop; 512 x 1024 here): `gradient` makes the
// tile of logits again and turns it into dz; `times_w` adds dz W to dhidden, `times_hidden` adds dz^T hidden to dw. Sums
// run in the order of the pieces: deterministic, and a token's dhidden does not depend on the other tokens.
//
// Tile of the forward pass at depth H: 2 x 64 H elements read, 8192 H FLOP. At H = 4096 and f32: 2 MB and 33.6 MFLOP a
// tile, bound by FMA and shared memory (product.cuh). Written: 16 bytes a token and split.
#include "linear_ce.cuh"
#include "product.cuh"

using namespace fma_product;

// The labels' rows of W, as columns of a tile.
struct LabelRows {
    Elements w;
    const uint32_t* labels;
    int first, tokens, depth;

    __device__ __forceinline__ float operator()(int row, int k) const {
        if (first + row >= tokens || k >= depth) return 0.0f;
        uint32_t label = labels[first + row];
        return label == IGNORE ? 0.0f : w[static_cast<size_t>(label) * depth + k];
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) linear_ce_label(
    int tokens, int size, float softcap, const float* hidden, const void* w, int dtype, const uint32_t* labels,
    float* label_logit) {
    __shared__ Shared shared;
    int token0 = blockIdx.x * TILE;
    float z[4][4];
    multiply<true, true>(z, shared, size, Rows<const float*>{hidden, token0, tokens, size}, LabelRows{{w, dtype}, labels, token0, tokens, size});
    // The thread's rows and columns start at multiples of 4: a thread on the diagonal has four entries of it.
    if (first_row() != first_column()) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        int token = token0 + first_row() + i;
        // No logit is larger than an ignored label's: its rank is 0.
        if (token < tokens) label_logit[token] = labels[token] == IGNORE ? INFINITY : apply_softcap(z[i][i], softcap);
    }
}

// `partials` is [split, token].
extern "C" __global__ void __launch_bounds__(THREADS, 3) linear_ce_partial(
    int tokens, int size, int vocab, float softcap, const float* hidden, const void* w, int dtype,
    const float* label_logit, Token* partials) {
    __shared__ Shared shared;
    int token0 = blockIdx.x * TILE, start = blockIdx.y * VOCABULARY_SPLIT, end = min(start + VOCABULARY_SPLIT, vocab);
    Token state[4];
    float own[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) own[i] = label_logit[min(token0 + first_row() + i, tokens - 1)];
    for (int column0 = start; column0 < end; column0 += TILE) {
        float z[4][4];
        multiply<true, true>(z, shared, size, Rows<const float*>{hidden, token0, tokens, size}, Rows<Elements>{{w, dtype}, column0, vocab, size});
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) z[i][j] = apply_softcap(z[i][j], softcap);
            state[i].absorb(z[i], own[i], [&](int j) { return column0 + first_column() + j < end; });
        }
    }
    merge_rows(state, partials + static_cast<size_t>(blockIdx.y) * tokens, token0, tokens);
}

// One thread a token. `entropy` and `rank` may be null.
extern "C" __global__ void __launch_bounds__(128) linear_ce_combine(
    int tokens, int splits, const Token* partials, const float* label_logit, float* lse, float* logprob,
    float* entropy, float* rank) {
    int token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token >= tokens) return;
    Token state;
    for (int split = 0; split < splits; ++split) state.merge(partials[(size_t)split * tokens + token]);
    float own = label_logit[token];
    lse[token] = state.online.lse();
    logprob[token] = own == INFINITY ? 0.0f : fminf(own - state.online.lse(), 0.0f);
    if (entropy) entropy[token] = state.online.entropy();
    if (rank) rank[token] = state.larger;
}

// dz of `tokens` tokens and the vocabulary entries [start, start + width), row-major.
extern "C" __global__ void __launch_bounds__(THREADS) linear_ce_gradient(
    int tokens, int size, int start, int width, float softcap, const float* hidden, const void* w, int dtype,
    const uint32_t* labels, const float* lse, const float* coefficient, float* dz) {
    __shared__ Shared shared;
    int token0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    float z[4][4];
    multiply<true, true>(z, shared, size, Rows<const float*>{hidden, token0, tokens, size}, Rows<Elements>{{w, dtype}, start + column0, start + width, size});
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        int token = token0 + first_row() + i;
        if (token >= tokens) continue;
        TokenGradient token_gradient{labels[token], lse[token], coefficient[token], softcap};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            int column = column0 + first_column() + j;
            if (column < width) dz[(size_t)token * width + column] = token_gradient.of(apply_softcap(z[i][j], softcap), start + column);
        }
    }
}

// out[tokens, size] (+)= dz[tokens, width] W[start.., size]; `w` points at row `start`. linear_kl uses it too.
extern "C" __global__ void __launch_bounds__(THREADS) unembed_times_w(
    int tokens, int size, int width, const float* dz, const void* w, int dtype, float* out, int add) {
    __shared__ Shared shared;
    int token0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    float sum[4][4];
    multiply<true, false>(sum, shared, width, Rows<const float*>{dz, token0, tokens, width}, Columns<Elements>{{w, dtype}, column0, size, width});
    store(sum, out, token0, tokens, column0, size, add);
}

// dw[start.., size] += dz[tokens, width]^T hidden[tokens, size]; `dw` points at row `start`. linear_kl uses it too.
extern "C" __global__ void __launch_bounds__(THREADS) unembed_times_hidden(
    int tokens, int size, int width, const float* dz, const float* hidden, float* dw) {
    __shared__ Shared shared;
    int row0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    float sum[4][4];
    multiply<false, false>(sum, shared, tokens, Columns<const float*>{dz, row0, width, tokens}, Columns<const float*>{hidden, column0, size, tokens});
    store(sum, dw, row0, width, column0, size, true);
}

// linear_ce on tensor cores, for unembeddings in bf16 (hidden states are rounded to bf16 before it) whose hidden sizes are
// multiples of 8; and the products of the backward pass, which linear_kl uses too. The same steps as linear_ce.cu, whose
// `combine` merges the partial results of both; dz is in bf16, 4096 x 4096 of it at most.
//
// A tile is 128 tokens x 128 entries (product_mma.cuh, MT = 4): 64 sums a thread, and the state of 8 rows beside them. At
// H = 4096 a tile reads 2 MB, mostly from L2, and makes 134 MFLOP: 64 FLOP a byte. Limit: mma.sync; the epilogue's
// exponential an entry is 1 in 8192 of its FLOP. Written: 16 bytes a token and 1024 entries. The products of the backward
// pass read and write f32 outputs once a piece: 8 bytes for 8192 FLOP.
#include "linear_ce.cuh"
#include "product_mma.cuh"

using namespace mma_product;

constexpr int MT = 4, TILE_ROWS = 32 * MT;
using Logits = Product<MT, true, true>;
// dz W: W lies across k, the vocabulary. dz^T hidden: both lie across k, the tokens.
using TimesW = Product<MT, true, false>;
using TimesHidden = Product<MT, false, false>;

// The labels' rows of W, as columns of a tile.
struct LabelRows {
    const __nv_bfloat16* data;
    const uint32_t* labels;
    int first, tokens, length;

    __device__ __forceinline__ const __nv_bfloat16* line(int line) const {
        uint32_t label = first + line < tokens ? labels[first + line] : IGNORE;
        return label == IGNORE ? nullptr : data + static_cast<size_t>(label) * length;
    }
};

// Each token's logit of its own label: the diagonal of a tile whose columns are the labels' rows.
extern "C" __global__ void __launch_bounds__(THREADS) linear_ce_label_mma(
    int tokens, int size, float softcap, const __nv_bfloat16* hidden, const __nv_bfloat16* w, const uint32_t* labels,
    float* label_logit) {
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    int token0 = blockIdx.x * TILE_ROWS;
    Logits::Sums z;
    Logits::multiply(z, shared, size, Rows{hidden, token0, tokens, size}, LabelRows{w, labels, token0, tokens, size});
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int row = Logits::row(i, e / 2), token = token0 + row;
                if (row != Logits::column(j) + e % 2 || token >= tokens) continue;
                // No logit is larger than an ignored label's: its rank is 0.
                label_logit[token] = labels[token] == IGNORE ? INFINITY : apply_softcap(z[i][j][e], softcap);
            }
}

// `partials` is [split, token].
extern "C" __global__ void __launch_bounds__(THREADS) linear_ce_partial_mma(
    int tokens, int size, int vocab, float softcap, const __nv_bfloat16* hidden, const __nv_bfloat16* w,
    const float* label_logit, Token* partials) {
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    int token0 = blockIdx.x * TILE_ROWS, start = blockIdx.y * VOCABULARY_SPLIT, end = min(start + VOCABULARY_SPLIT, vocab);
    Token state[MT][2];
    Logits::begin_rows(state);
    for (int column0 = start; column0 < end; column0 += COLUMNS) {
        Logits::Sums z;
        Logits::multiply(z, shared, size, Rows{hidden, token0, tokens, size}, Rows{w, column0, end, size});
#pragma unroll
        for (int i = 0; i < MT; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float row[8];
#pragma unroll
                for (int j = 0; j < 8; ++j) row[j] = apply_softcap(z[i][j / 2][2 * half + j % 2], softcap);
                float own = label_logit[min(token0 + Logits::row(i, half), tokens - 1)];
                state[i][half].absorb(row, own, [&](int j) { return column0 + Logits::column(j / 2) + j % 2 < end; });
            }
    }
    Logits::merge_rows(state, shared, partials + static_cast<size_t>(blockIdx.y) * tokens, token0, tokens);
}

// dz of the entries [start, start + width), in rows of `pitch`, a multiple of 8: zeros from `width` on.
extern "C" __global__ void __launch_bounds__(THREADS) linear_ce_gradient_mma(
    int tokens, int size, int start, int width, int pitch, float softcap, const __nv_bfloat16* hidden,
    const __nv_bfloat16* w, const uint32_t* labels, const float* lse, const float* coefficient, __nv_bfloat16* dz) {
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    int token0 = blockIdx.x * TILE_ROWS, column0 = blockIdx.y * COLUMNS;
    Logits::Sums z;
    Logits::multiply(z, shared, size, Rows{hidden, token0, tokens, size}, Rows{w, start + column0, start + width, size});
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int token = token0 + Logits::row(i, half);
            if (token >= tokens) continue;
            TokenGradient gradient{labels[token], lse[token], coefficient[token], softcap};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                int column = column0 + Logits::column(j);
                if (column >= pitch) continue;
                float pair[2];
#pragma unroll
                for (int e = 0; e < 2; ++e)
                    pair[e] = column + e < width ? gradient.of(apply_softcap(z[i][j][2 * half + e], softcap), start + column + e) : 0.0f;
                store_pair(dz + static_cast<size_t>(token) * pitch + column, pair[0], pair[1]);
            }
        }
}

// out[tokens, size] (+)= dz[tokens, width] W[start.., size]; `w` points at row `start`. dz has rows of `pitch`.
extern "C" __global__ void __launch_bounds__(THREADS) unembed_times_w_mma(
    int tokens, int size, int width, int pitch, const __nv_bfloat16* dz, const __nv_bfloat16* w, float* out, int add) {
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    int token0 = blockIdx.x * TILE_ROWS, column0 = blockIdx.y * COLUMNS;
    TimesW::Sums sums;
    TimesW::multiply(sums, shared, width, Rows{dz, token0, tokens, pitch}, Columns{w, column0, width, size, size - column0});
    TimesW::store(sums, out, token0, tokens, column0, size, add);
}

// dw[start.., size] += dz[tokens, width]^T hidden[tokens, size]; `dw` points at row `start`. dz has rows of `pitch`.
extern "C" __global__ void __launch_bounds__(THREADS) unembed_times_hidden_mma(
    int tokens, int size, int width, int pitch, const __nv_bfloat16* dz, const __nv_bfloat16* hidden, float* dw) {
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    int row0 = blockIdx.x * TILE_ROWS, column0 = blockIdx.y * COLUMNS;
    TimesHidden::Sums sums;
    TimesHidden::multiply(sums, shared, tokens, Columns{dz, row0, tokens, pitch, pitch - row0}, Columns{hidden, column0, tokens, size, size - column0});
    TimesHidden::store(sums, dw, row0, width, column0, size, true);
}

// linear_kl on tensor cores, for unembeddings in bf16 (hidden states are rounded to bf16 before it) whose hidden sizes are
// multiples of 8. The same three steps as linear_kl.cu, whose `combine` merges the partial results of both.
//
// A tile is 64 tokens x 128 entries of both sides (product_mma.cuh, MT = 2): two accumulators of 32 floats a thread, and
// the state of 4 rows beside them. At H = 4096 a tile reads 2 x 1.5 MB, mostly from L2, and makes 134 MFLOP: 43 FLOP a
// byte. Limit: mma.sync and shared memory meet (see product_mma.cuh); the epilogue's 2 exponentials an entry are 1 in 8192
// of its FLOP. Written: 36 bytes a token and 1024 entries.
#include "linear_kl.cuh"
#include "product_mma.cuh"

using namespace mma_product;

constexpr int MT = 2, TILE_ROWS = 32 * MT;
using Logits = Product<MT, true, true>;

struct Side {
    const __nv_bfloat16 *hidden, *w;
    int size;
    float softcap;

    // Tile of logits of tokens from `token0` and entries from `column0`, below `end`.
    __device__ __forceinline__ void logits(
        Logits::Sums& z, __nv_bfloat16* shared, int token0, int tokens, int column0, int end) const {
        Logits::multiply(z, shared, size, Rows{hidden, token0, tokens, size}, Rows{w, column0, end, size});
#pragma unroll
        for (int i = 0; i < MT; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) z[i][j][e] = apply_softcap(z[i][j][e], softcap);
    }
};

// The thread's 8 logits of one of its rows.
__device__ __forceinline__ void row_of(float (&row)[8], const Logits::Sums& z, int i, int half) {
#pragma unroll
    for (int j = 0; j < 8; ++j) row[j] = z[i][j / 2][2 * half + j % 2];
}

// `partials` is [split, token].
extern "C" __global__ void __launch_bounds__(THREADS) linear_kl_partial_mma(
    int tokens, int vocab, int size_p, float softcap_p, const __nv_bfloat16* hidden_p, const __nv_bfloat16* w_p,
    int size_q, float softcap_q, const __nv_bfloat16* hidden_q, const __nv_bfloat16* w_q, Pair* partials) {
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    Side p{hidden_p, w_p, size_p, softcap_p}, q{hidden_q, w_q, size_q, softcap_q};
    int token0 = blockIdx.x * TILE_ROWS, start = blockIdx.y * VOCABULARY_SPLIT, end = min(start + VOCABULARY_SPLIT, vocab);
    Pair state[MT][2];
    Logits::begin_rows(state);
    for (int column0 = start; column0 < end; column0 += COLUMNS) {
        Logits::Sums zp, zq;
        p.logits(zp, shared, token0, tokens, column0, end);
        q.logits(zq, shared, token0, tokens, column0, end);
#pragma unroll
        for (int i = 0; i < MT; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float row_p[8], row_q[8];
                row_of(row_p, zp, i, half);
                row_of(row_q, zq, i, half);
                absorb(state[i][half], row_p, row_q, end, [&](int j) { return column0 + Logits::column(j / 2) + j % 2; });
            }
    }
    Logits::merge_rows(state, shared, partials + static_cast<size_t>(blockIdx.y) * tokens, token0, tokens);
}

// dz of the entries [start, start + width), in rows of `pitch`, a multiple of 8: zeros from `width` on. Either may be null.
extern "C" __global__ void __launch_bounds__(THREADS) linear_kl_gradient_mma(
    int tokens, int start, int width, int pitch, int size_p, float softcap_p, const __nv_bfloat16* hidden_p,
    const __nv_bfloat16* w_p, int size_q, float softcap_q, const __nv_bfloat16* hidden_q, const __nv_bfloat16* w_q,
    const float* kl, const float* lse_p, const float* lse_q, const float* coefficient, __nv_bfloat16* dzp,
    __nv_bfloat16* dzq) {
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    Side p{hidden_p, w_p, size_p, softcap_p}, q{hidden_q, w_q, size_q, softcap_q};
    int token0 = blockIdx.x * TILE_ROWS, column0 = blockIdx.y * COLUMNS;
    Logits::Sums zp, zq;
    p.logits(zp, shared, token0, tokens, start + column0, start + width);
    q.logits(zq, shared, token0, tokens, start + column0, start + width);
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int token = token0 + Logits::row(i, half);
            if (token >= tokens) continue;
            TokenGradient gradient{kl[token], lse_p[token], lse_q[token], coefficient[token], softcap_p, softcap_q};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                int column = column0 + Logits::column(j);
                if (column >= pitch) continue;
                float2 dz[2];
#pragma unroll
                for (int e = 0; e < 2; ++e)
                    dz[e] = column + e < width ? gradient.of(zp[i][j][2 * half + e], zq[i][j][2 * half + e]) : make_float2(0.0f, 0.0f);
                size_t at = static_cast<size_t>(token) * pitch + column;
                if (dzp) store_pair(dzp + at, dz[0].x, dz[1].x);
                if (dzq) store_pair(dzq + at, dz[0].y, dz[1].y);
            }
        }
}

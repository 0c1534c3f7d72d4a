// linear_ce's forward pass on Hopper's tensor cores: the label's logit and the partial sums of linear_ce_mma.cu, with the
// same arguments, for the same unembeddings. `linear_ce_combine` of linear_ce.cu merges its partial results.
//
// A tile is 128 tokens x 256 entries (product_sm90.cuh): 128 sums a thread, and the state of 2 rows beside them. At H = 4096
// a tile reads 3 MB, mostly from L2, and makes 268 MFLOP: 85 FLOP a byte. Limit: L2 (see product_sm90.cuh). The next tile's
// first stages arrive during the epilogue, but nothing is multiplied then: its exponential an entry, some 20 instructions
// each, are 5,000 cycles of an SM after the product's 65,000. Written: 16 bytes a token and 1024 entries.
#include "linear_ce.cuh"
#include "product_sm90.cuh"

using namespace wgmma_product;

// The labels' rows of W, as columns of a tile.
struct LabelRows {
    const __nv_bfloat16* data;
    const uint32_t* labels;
    int first, tokens, length;

    __device__ __forceinline__ const __nv_bfloat16* line(int line) const {
        uint32_t label = line < ROWS && first + line < tokens ? labels[first + line] : IGNORE;
        return label == IGNORE ? nullptr : data + static_cast<size_t>(label) * length;
    }
};

// Each token's logit of its own label: the diagonal of a tile whose columns are the labels' rows.
extern "C" __global__ void __launch_bounds__(THREADS, 1) linear_ce_label_sm90(
    int tokens, int size, float softcap, const __nv_bfloat16* hidden, const __nv_bfloat16* w, const uint32_t* labels,
    float* label_logit) {
    extern __shared__ unsigned char shared[];
    Ring ring(shared);
    int token0 = blockIdx.x * ROWS;
    if (copies()) {
        give_registers<COPY_REGISTERS>();
        Copier copier{ring};
        copier.fill(size, Rows{hidden, token0, tokens, size}, LabelRows{w, labels, token0, tokens, size});
        copier.finish();
    } else {
        take_registers<MULTIPLY_REGISTERS>();
        Multiplier multiplier{ring};
        Sums z;
        multiplier.multiply(z, size);
#pragma unroll
        for (int i = 0; i < 128; ++i) {
            int row = Multiplier::row(i / 2 % 2), token = token0 + row;
            if (row != Multiplier::column(i / 4) + i % 2 || token >= tokens) continue;
            // No logit is larger than an ignored label's: its rank is 0.
            label_logit[token] = labels[token] == IGNORE ? INFINITY : apply_softcap(z[i], softcap);
        }
    }
}

// `partials` is [split, token].
extern "C" __global__ void __launch_bounds__(THREADS, 1) linear_ce_partial_sm90(
    int tokens, int size, int vocab, float softcap, const __nv_bfloat16* hidden, const __nv_bfloat16* w,
    const float* label_logit, Token* partials) {
    extern __shared__ unsigned char shared[];
    Ring ring(shared);
    int token0 = blockIdx.x * ROWS, start = blockIdx.y * VOCABULARY_SPLIT, end = min(start + VOCABULARY_SPLIT, vocab);
    if (copies()) {
        give_registers<COPY_REGISTERS>();
        Copier copier{ring};
        for (int column0 = start; column0 < end; column0 += COLUMNS)
            copier.fill(size, Rows{hidden, token0, tokens, size}, Rows{w, column0, end, size});
        copier.finish();
    } else {
        take_registers<MULTIPLY_REGISTERS>();
        Multiplier multiplier{ring};
        Token state[2];
        for (int column0 = start; column0 < end; column0 += COLUMNS) {
            Sums z;
            multiplier.multiply(z, size);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float row[64];
#pragma unroll
                for (int j = 0; j < 64; ++j) row[j] = apply_softcap(z[j / 2 * 4 + 2 * half + j % 2], softcap);
                float own = label_logit[min(token0 + Multiplier::row(half), tokens - 1)];
                state[half].absorb(row, own, [&](int j) { return column0 + Multiplier::column(j / 2) + j % 2 < end; });
            }
        }
        // A row is spread over 4 lanes.
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            state[half].merge(state[half].shuffled(1));
            state[half].merge(state[half].shuffled(2));
            int token = token0 + Multiplier::row(half);
            if (threadIdx.x % 4 == 0 && token < tokens) partials[static_cast<size_t>(blockIdx.y) * tokens + token] = state[half];
        }
    }
}

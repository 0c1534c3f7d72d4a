// Gradients of causal attention on tensor cores, for tensors of bf16. The same three steps as attention_backward.cu: `queries`
// has 64 (position, head) pairs and walks over blocks of 64 keys, `keys` has 64 keys and walks over 64 pairs at a time; 4
// warps of 16 rows each, scores and their gradients in registers, where they are the A operands of the sums.
//
// Shared memory holds four tiles of 64 x (D + 8) bf16: 36, 68 and 132 KB at D = 64, 128, 256: a depth of 256 needs an sm_80 or
// sm_90. One buffer a tile: the first product of a step waits for one copy while the other is under way; other blocks of
// the SM fill the gaps. At D = 256 the sums of dk and dv together would not fit the registers, so a block has one of them and
// dv's makes the scores once more.
//
// A step of `queries` at depth D: 256 D bytes from L2, 3 x 8192 D FLOP: 96 FLOP a byte; of `keys` 256 D bytes and 4 x 8192 D
// FLOP. Limit: shared memory (a fragment of 512 bytes for 2 mma, as in attention_mma.cuh) and mma.sync meet, at best.
#include "attention_mma.cuh"

using namespace attention_mma;

template <int DEPTH>
__device__ __forceinline__ void queries(
    const Layer& layer, int count, const uint32_t* offsets, const bf16* q, const bf16* k, const bf16* v,
    const float* lse, const float* delta, const bf16* dout, bf16* dq) {
    using T = Tiles<DEPTH>;
    extern __shared__ __align__(16) bf16 memory[];
    bf16 *query = memory, *dquery = memory + T::ELEMENTS, *key = memory + 2 * T::ELEMENTS, *value = memory + 3 * T::ELEMENTS;
    RowTile tile;
    if (!tile.find<TILE>(offsets, count, layer.group, blockIdx.x)) return;
    int head = blockIdx.y, rows = min(tile.length * layer.group - tile.row0, TILE), warp_row = threadIdx.x / 32 * 16;
    Place place{layer, tile.base, tile.row0, head};
    RaggedKeys<bf16> keys{k, tile.base, layer.shared_heads(), head, layer.depth};
    RaggedKeys<bf16> values{v, tile.base, layer.shared_heads(), head, layer.depth};
    T::copy(query, rows, layer.depth, q, [&](int row) { return q + place(row) * layer.depth; });
    T::copy(dquery, rows, layer.depth, q, [&](int row) { return dout + place(row) * layer.depth; });

    int position[2];
    float own_lse[2], own_delta[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = warp_row + row_of(2 * half);
        size_t at = place(min(row, rows - 1));
        position[half] = (tile.row0 + row) / layer.group;
        own_lse[half] = lse[at];
        own_delta[half] = delta[at];
    }
    float sums[DEPTH / 8][4] = {};
    int end = (tile.row0 + rows - 1) / layer.group + 1;
    int first = layer.first_key(tile.row0 / layer.group) / TILE * TILE;
    for (int key0 = first; key0 < end; key0 += TILE) {
        // Everyone is done with the block before.
        __syncthreads();
        T::copy(key, end - key0, layer.depth, q, [&](int row) { return keys(key0 + row); });
        copy_commit();
        T::copy(value, end - key0, layer.depth, q, [&](int row) { return values(key0 + row); });
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        Scores scores, dp;
        dot<DEPTH>(scores, query, warp_row, key);
        copy_wait<0>();
        __syncthreads();
        dot<DEPTH>(dp, dquery, warp_row, value);
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                bool seen = layer.sees(position[e / 2], key0 + column_of(j, e));
                scores[j][e] = ScoreGradient(layer, seen, scores[j][e], dp[j][e], own_lse[e / 2], own_delta[e / 2]).ds;
            }
        accumulate<DEPTH>(sums, scores, key);
    }
    const float one[2] = {1.0f, 1.0f};
    write<DEPTH>(sums, warp_row, rows, layer.depth, one, [&](int row) { return dq + place(row) * layer.depth; });
}

// What a block of `keys` makes.
enum Wanted { BOTH, KEYS, VALUES };

template <int DEPTH, Wanted WANTED>
__device__ __forceinline__ void keys(
    const Layer& layer, int count, const uint32_t* offsets, const bf16* q, const bf16* k, const bf16* v,
    const float* lse, const float* delta, const bf16* dout, bf16* dk, bf16* dv) {
    using T = Tiles<DEPTH>;
    extern __shared__ __align__(16) bf16 memory[];
    // Of the pairs of a step.
    __shared__ float pair_lse[TILE], pair_delta[TILE];
    bf16 *query = memory, *dquery = memory + T::ELEMENTS, *key = memory + 2 * T::ELEMENTS, *value = memory + 3 * T::ELEMENTS;
    RowTile tile;
    if (!tile.find<TILE>(offsets, count, 1, blockIdx.x)) return;
    int head = blockIdx.y, key0 = tile.row0, rows = min(tile.length - key0, TILE), warp_row = threadIdx.x / 32 * 16;
    RaggedKeys<bf16> keys{k, tile.base, layer.shared_heads(), head, layer.depth};
    RaggedKeys<bf16> values{v, tile.base, layer.shared_heads(), head, layer.depth};
    T::copy(key, rows, layer.depth, q, [&](int row) { return keys(key0 + row); });
    if (WANTED != VALUES) T::copy(value, rows, layer.depth, q, [&](int row) { return values(key0 + row); });

    float dk_sums[DEPTH / 8][4] = {}, dv_sums[DEPTH / 8][4] = {};
    // Pairs from the first key's position on; beyond the window of the last key they see none.
    int end = layer.window == 0 ? tile.length : min(tile.length, key0 + rows - 1 + layer.window);
    for (int flat0 = key0 * layer.group; flat0 < end * layer.group; flat0 += TILE) {
        Place place{layer, tile.base, flat0, head};
        int columns = end * layer.group - flat0;
        // Everyone is done with the pairs before.
        __syncthreads();
        T::copy(query, columns, layer.depth, q, [&](int row) { return q + place(row) * layer.depth; });
        copy_commit();
        T::copy(dquery, columns, layer.depth, q, [&](int row) { return dout + place(row) * layer.depth; });
        copy_commit();
        if (threadIdx.x < TILE) {
            size_t at = place(min(static_cast<int>(threadIdx.x), columns - 1));
            pair_lse[threadIdx.x] = lse[at];
            pair_delta[threadIdx.x] = delta[at];
        }
        copy_wait<1>();
        __syncthreads();
        Scores scores, dp = {};
        dot<DEPTH>(scores, key, warp_row, query);
        copy_wait<0>();
        __syncthreads();
        if (WANTED != VALUES) dot<DEPTH>(dp, value, warp_row, dquery);
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int column = column_of(j, e);
                bool seen = column < columns && layer.sees((flat0 + column) / layer.group, key0 + warp_row + row_of(e));
                ScoreGradient gradient(layer, seen, scores[j][e], dp[j][e], pair_lse[column], pair_delta[column]);
                scores[j][e] = gradient.p;
                dp[j][e] = gradient.ds;
            }
        if (WANTED != KEYS) accumulate<DEPTH>(dv_sums, scores, dquery);
        if (WANTED != VALUES) accumulate<DEPTH>(dk_sums, dp, query);
    }
    const float one[2] = {1.0f, 1.0f};
    auto place = [&](int row) { return (static_cast<size_t>(tile.base + key0 + row) * layer.shared_heads() + head) * layer.depth; };
    if (WANTED != VALUES) write<DEPTH>(dk_sums, warp_row, rows, layer.depth, one, [&](int row) { return dk + place(row); });
    if (WANTED != KEYS) write<DEPTH>(dv_sums, warp_row, rows, layer.depth, one, [&](int row) { return dv + place(row); });
}

#define ARGUMENTS \
    LAYER_PARAMETERS, int count, const uint32_t* offsets, const bf16* q, const bf16* k, const bf16* v, const float* lse, \
        const float* delta, const bf16* dout

#define QUERIES(DEPTH) \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_queries_bf16_##DEPTH(ARGUMENTS, bf16* dq) { \
        queries<DEPTH>(LAYER, count, offsets, q, k, v, lse, delta, dout, dq); \
    }

QUERIES(64)
QUERIES(128)
QUERIES(256)

#define KEYS_OF(DEPTH) \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_keys_bf16_##DEPTH( \
        ARGUMENTS, bf16* dk, bf16* dv) { \
        keys<DEPTH, BOTH>(LAYER, count, offsets, q, k, v, lse, delta, dout, dk, dv); \
    }

KEYS_OF(64)
KEYS_OF(128)

// Twice the blocks: z = 0 makes dk, z = 1 dv.
extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_keys_bf16_256(ARGUMENTS, bf16* dk, bf16* dv) {
    if (blockIdx.z == 0)
        keys<256, KEYS>(LAYER, count, offsets, q, k, v, lse, delta, dout, dk, dv);
    else
        keys<256, VALUES>(LAYER, count, offsets, q, k, v, lse, delta, dout, dk, dv);
}

// Gradients of causal attention (src/ops/attention). With P_ij = exp(s_ij - lse_i) and D_i = dout_i . out_i:
//   dv_j = sum_i P_ij dout_i,  ds_ij = P_ij (dout_i . v_j - D_i),  dq_i = scale sum_j ds_ij k_j,  dk_j = scale sum_i ds_ij q_i.
//
// Deterministic, without atomics: `delta` makes D; `queries` has a tile of rows ((position, query head) pairs, as in the
// forward pass) and walks over the keys they see; `keys` has a tile of keys and walks over the rows that see them, all
// heads that share the keys. Both make the scores again, so 7 products where a fused kernel has 5.
//
// Tiles of 32 x 32 (16 x 16 at depth 256, to stay below 99 KB of shared memory). A step of `queries` at depth D: 64 D
// elements read, 6 x 32 x 32 D FLOP; of `keys` 64 D and 8 x 32 x 32 D. In f32, bound by shared memory: at best half of
// the FP32 peak; the path of f32 tensors.
#include "attention_fma.cuh"

using namespace attention_fma;

// delta[row, head] = dout . out: a warp a (row, head).
template <class T>
__device__ __forceinline__ void delta_of(int pairs, int depth, const T* out, const T* dout, float* delta) {
    int pair = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (pair >= pairs) return;
    const size_t at = static_cast<size_t>(pair) * depth;
    float sum = 0.0f;
    for (int d = lane; d < depth; d += 32) sum = fmaf(load(out + at + d), load(dout + at + d), sum);
    sum = warp_sum(sum);
    if (lane == 0) delta[pair] = sum;
}

extern "C" __global__ void __launch_bounds__(128) attention_delta_f32(
    int pairs, int depth, const float* out, const float* dout, float* delta) {
    delta_of(pairs, depth, out, dout, delta);
}

extern "C" __global__ void __launch_bounds__(128) attention_delta_bf16(
    int pairs, int depth, const __nv_bfloat16* out, const __nv_bfloat16* dout, float* delta) {
    delta_of(pairs, depth, out, dout, delta);
}

template <int TILE, int DEPTH>
__device__ __forceinline__ void queries(
    const Layer& layer, int count, const uint32_t* offsets, const float* q, const float* k, const float* v,
    const float* lse, const float* delta, const float* dout, float* dq) {
    using T = Tiles<TILE, DEPTH>;
    using Rows = typename T::Rows;
    extern __shared__ __align__(16) unsigned char memory[];
    Rows* tiles = reinterpret_cast<Rows*>(memory);
    Rows &query = tiles[0], &dquery = tiles[1], &key = tiles[2], &value = tiles[3];
    auto& weights = *reinterpret_cast<typename T::Weights*>(tiles + 4);
    RowTile tile;
    if (!tile.find<TILE>(offsets, count, layer.group, blockIdx.x)) return;
    int head = blockIdx.y, rows = min(tile.length * layer.group - tile.row0, TILE);
    Place place{layer, tile.base, tile.row0, head};
    T::fill(query, rows, layer.depth, [&](int row) { return q + place(row) * layer.depth; });
    T::fill(dquery, rows, layer.depth, [&](int row) { return dout + place(row) * layer.depth; });
    RaggedKeys<float> keys{k, tile.base, layer.shared_heads(), head, layer.depth};
    RaggedKeys<float> values{v, tile.base, layer.shared_heads(), head, layer.depth};

    int position[T::ROWS];
    float own_lse[T::ROWS], own_delta[T::ROWS];
    typename T::Sums sums;
#pragma unroll
    for (int i = 0; i < T::ROWS; ++i) {
        size_t at = place(min(T::row(i), rows - 1));
        position[i] = (tile.row0 + T::row(i)) / layer.group;
        own_lse[i] = lse[at];
        own_delta[i] = delta[at];
#pragma unroll
        for (int c = 0; c < T::SUMS; ++c) sums[i][c] = 0.0f;
    }
    int end = (tile.row0 + rows - 1) / layer.group + 1;
    int first = layer.first_key(tile.row0 / layer.group) / TILE * TILE;
    for (int key0 = first; key0 < end; key0 += TILE) {
        // Everyone is done with the block before.
        __syncthreads();
        T::fill(key, end - key0, layer.depth, [&](int row) { return keys(key0 + row); });
        T::fill(value, end - key0, layer.depth, [&](int row) { return values(key0 + row); });
        __syncthreads();
        typename T::Scores scores, dp;
        T::dot(scores, query, key, layer.depth);
        T::dot(dp, dquery, value, layer.depth);
#pragma unroll
        for (int i = 0; i < T::ROWS; ++i)
#pragma unroll
            for (int j = 0; j < T::COLUMNS; ++j) {
                bool seen = layer.sees(position[i], key0 + T::column(j));
                scores[i][j] = ScoreGradient(layer, seen, scores[i][j], dp[i][j], own_lse[i], own_delta[i]).ds;
            }
        T::store(weights, scores);
        __syncthreads();
        T::accumulate(sums, weights, key, layer.depth);
    }
#pragma unroll
    for (int i = 0; i < T::ROWS; ++i)
        if (T::row(i) < rows) T::write(dq + place(T::row(i)) * layer.depth, sums[i], 1.0f, layer.depth);
}

template <int TILE, int DEPTH>
__device__ __forceinline__ void keys(
    const Layer& layer, int count, const uint32_t* offsets, const float* q, const float* k, const float* v,
    const float* lse, const float* delta, const float* dout, float* dk, float* dv) {
    using T = Tiles<TILE, DEPTH>;
    using Rows = typename T::Rows;
    extern __shared__ __align__(16) unsigned char memory[];
    Rows* tiles = reinterpret_cast<Rows*>(memory);
    Rows &query = tiles[0], &dquery = tiles[1], &key = tiles[2], &value = tiles[3];
    auto* both = reinterpret_cast<typename T::Weights*>(tiles + 4);
    auto &weights = both[0], &gradients = both[1];
    RowTile tile;
    if (!tile.find<TILE>(offsets, count, 1, blockIdx.x)) return;
    int head = blockIdx.y, key0 = tile.row0, rows = min(tile.length - key0, TILE);
    RaggedKeys<float> keys{k, tile.base, layer.shared_heads(), head, layer.depth};
    RaggedKeys<float> values{v, tile.base, layer.shared_heads(), head, layer.depth};
    T::fill(key, rows, layer.depth, [&](int row) { return keys(key0 + row); });
    T::fill(value, rows, layer.depth, [&](int row) { return values(key0 + row); });

    typename T::Sums dk_sums, dv_sums;
#pragma unroll
    for (int i = 0; i < T::ROWS; ++i)
#pragma unroll
        for (int c = 0; c < T::SUMS; ++c) dk_sums[i][c] = dv_sums[i][c] = 0.0f;
    // Rows from the first key's position on; beyond the window of the last key they see none.
    int end = layer.window == 0 ? tile.length : min(tile.length, key0 + rows - 1 + layer.window);
    for (int flat0 = key0 * layer.group; flat0 < end * layer.group; flat0 += TILE) {
        Place place{layer, tile.base, flat0, head};
        int columns = end * layer.group - flat0;
        // Everyone is done with the rows before.
        __syncthreads();
        T::fill(query, columns, layer.depth, [&](int row) { return q + place(row) * layer.depth; });
        T::fill(dquery, columns, layer.depth, [&](int row) { return dout + place(row) * layer.depth; });
        __syncthreads();
        typename T::Scores scores, dp;
        T::dot(scores, key, query, layer.depth);
        T::dot(dp, value, dquery, layer.depth);
#pragma unroll
        for (int j = 0; j < T::COLUMNS; ++j) {
            size_t at = place(min(T::column(j), columns - 1));
            int position = (flat0 + T::column(j)) / layer.group;
            float own_lse = lse[at], own_delta = delta[at];
#pragma unroll
            for (int i = 0; i < T::ROWS; ++i) {
                bool seen = T::column(j) < columns && layer.sees(position, key0 + T::row(i));
                ScoreGradient gradient(layer, seen, scores[i][j], dp[i][j], own_lse, own_delta);
                scores[i][j] = gradient.p;
                dp[i][j] = gradient.ds;
            }
        }
        T::store(weights, scores);
        T::store(gradients, dp);
        __syncthreads();
        T::accumulate(dv_sums, weights, dquery, layer.depth);
        T::accumulate(dk_sums, gradients, query, layer.depth);
    }
#pragma unroll
    for (int i = 0; i < T::ROWS; ++i) {
        if (T::row(i) >= rows) continue;
        size_t at = (static_cast<size_t>(tile.base + key0 + T::row(i)) * layer.shared_heads() + head) * layer.depth;
        T::write(dk + at, dk_sums[i], 1.0f, layer.depth);
        T::write(dv + at, dv_sums[i], 1.0f, layer.depth);
    }
}

#define BACKWARD(TILE, DEPTH) \
    extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_backward_queries_f32_##DEPTH( \
        LAYER_PARAMETERS, int count, const uint32_t* offsets, const float* q, const float* k, const float* v, const float* lse, \
        const float* delta, const float* dout, float* dq) { \
        queries<TILE, DEPTH>(LAYER, count, offsets, q, k, v, lse, delta, dout, dq); \
    } \
    extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_backward_keys_f32_##DEPTH( \
        LAYER_PARAMETERS, int count, const uint32_t* offsets, const float* q, const float* k, const float* v, const float* lse, \
        const float* delta, const float* dout, float* dk, float* dv) { \
        keys<TILE, DEPTH>(LAYER, count, offsets, q, k, v, lse, delta, dout, dk, dv); \
    }

BACKWARD(32, 64)
BACKWARD(32, 128)
BACKWARD(16, 256)

// Attention over a paged cache with the keys shared out (src/ops/attention): for decode steps of few rows, whose tiles alone
// would not fill the GPU.
//
// `attention_split_*` is attention_paged.cu with a third dimension of the grid: a block has the keys of one split of SPLIT
// positions, fixed from position 0, and leaves each row's maximum, total and sums in f32. `attention_merge_*` merges a row's
// splits in their order, as the kernels that walk over all keys do at every boundary: the outputs have their bits, so whether
// keys are split is a matter of speed alone, and may depend on the batch.
//
// A split at depth D reads 2 x SPLIT x D elements and writes group x (4 D + 8) bytes that the merge reads again: at group 4
// and D = 128 in bf16 262 KB and 8 KB. Bound by memory, as soon as splits x tiles x heads fill the GPU: 4 D group FLOP a key.
// The merge: a block a (row, head), 64 threads; 4 D + 8 bytes and 3 D FLOP a split, bound by the latency of its few loads.
#include "attention_fma.cuh"
#include "attention_mma.cuh"

#define SPLIT_KERNEL(PATH, T, NAME, DEPTH, ROWS, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(PATH::THREADS, BLOCKS) attention_split_##NAME##_##DEPTH( \
        LAYER_PARAMETERS, int count, const uint32_t* offsets, const uint32_t* starts, const uint32_t* pages, int max_pages, \
        const T* q, const T* cache_k, const T* cache_v, float2* states, float* parts) { \
        Layer layer = LAYER; \
        RowTile tile; \
        if (!tile.find<ROWS>(offsets, count, layer.group, blockIdx.x)) return; \
        int head = blockIdx.y; \
        const uint32_t* own = pages + (size_t)tile.sequence * max_pages; \
        PagedKeys<T> keys{cache_k, own, layer.shared_heads(), head, layer.depth}; \
        PagedKeys<T> values{cache_v, own, layer.shared_heads(), head, layer.depth}; \
        PATH::forward_split<DEPTH>( \
            layer, tile, starts[tile.sequence], head, blockIdx.z, gridDim.z, q, keys, values, states, parts); \
    }

#define SPLIT_FMA(DEPTH) SPLIT_KERNEL(attention_fma, float, f32, DEPTH, 32, attention_fma::BLOCKS<DEPTH>)
#define SPLIT_MMA(DEPTH) SPLIT_KERNEL(attention_mma, __nv_bfloat16, bf16, DEPTH, attention_mma::TILE, 1)

SPLIT_FMA(64)
SPLIT_FMA(128)
SPLIT_FMA(256)
SPLIT_MMA(64)
SPLIT_MMA(128)
SPLIT_MMA(256)

constexpr int MERGE_THREADS = 64, MERGE_DIMENSIONS = 256 / MERGE_THREADS;

template <class Exp, class T>
__device__ __forceinline__ void merge_splits(
    const Layer& layer, int count, const uint32_t* offsets, const uint32_t* starts, int splits, const float2* states,
    const float* parts, T* out) {
    RowTile tile;
    if (!tile.find<1>(offsets, count, 1, blockIdx.x)) return;
    int position = starts[tile.sequence] + tile.row0;
    size_t at = static_cast<size_t>(tile.base + tile.row0) * layer.heads + blockIdx.y;
    int first = layer.first_key(position) / SPLIT, last = position / SPLIT;
    float2 state = states[at * splits + first];
    float sums[MERGE_DIMENSIONS];
    auto part = [&](int split, int i) {
        int d = threadIdx.x + i * MERGE_THREADS;
        return d < layer.depth ? parts[(at * splits + split) * layer.depth + d] : 0.0f;
    };
#pragma unroll
    for (int i = 0; i < MERGE_DIMENSIONS; ++i) sums[i] = part(first, i);
    for (int split = first + 1; split <= last; ++split) {
        float2 next = states[at * splits + split];
        Merge<Exp> merge(state.x, next.x);
        state = make_float2(merge.maximum, merge(state.y, next.y));
#pragma unroll
        for (int i = 0; i < MERGE_DIMENSIONS; ++i) sums[i] = merge(sums[i], part(split, i));
    }
    float factor = 1.0f / state.y;
#pragma unroll
    for (int i = 0; i < MERGE_DIMENSIONS; ++i) {
        int d = threadIdx.x + i * MERGE_THREADS;
        if (d < layer.depth) store(out + at * layer.depth + d, sums[i] * factor);
    }
}

#define MERGE(PATH, NAME, T) \
    extern "C" __global__ void __launch_bounds__(MERGE_THREADS) attention_merge_##NAME( \
        LAYER_PARAMETERS, int count, const uint32_t* offsets, const uint32_t* starts, int splits, const float2* states, \
        const float* parts, T* out) { \
        merge_splits<PATH::Exp>(LAYER, count, offsets, starts, splits, states, parts, out); \
    }

MERGE(attention_fma, f32, float)
MERGE(attention_mma, bf16, __nv_bfloat16)

// Attention of new rows over a paged key/value cache, and the cache's own kernels (src/ops/attention).
//
// The attention is attention.cu's, block for block, with keys found through a page table: its outputs have the same bits.
// A decode step reads every key and value once for all heads that share them: 2 x 4 D bytes and 4 D group FLOP a key, bound
// by memory. Where its tiles would not fill the GPU, attention_split.cu shares the keys out.
#include "attention_fma.cuh"
#include "attention_mma.cuh"

#define FORWARD(DEPTH) \
    extern "C" __global__ void __launch_bounds__(attention_fma::THREADS, attention_fma::BLOCKS<DEPTH>) attention_paged_f32_##DEPTH( \
        LAYER_PARAMETERS, int count, const uint32_t* offsets, const uint32_t* starts, const uint32_t* pages, int max_pages, \
        const float* q, const float* cache_k, const float* cache_v, float* out) { \
        Layer layer = LAYER; \
        RowTile tile; \
        if (!tile.find<32>(offsets, count, layer.group, blockIdx.x)) return; \
        int head = blockIdx.y; \
        const uint32_t* own = pages + (size_t)tile.sequence * max_pages; \
        PagedKeys<float> keys{cache_k, own, layer.shared_heads(), head, layer.depth}; \
        PagedKeys<float> values{cache_v, own, layer.shared_heads(), head, layer.depth}; \
        attention_fma::forward<DEPTH>(layer, tile, starts[tile.sequence], head, q, keys, values, out, nullptr); \
    }

FORWARD(64)
FORWARD(128)
FORWARD(256)

#define FORWARD_MMA(DEPTH) \
    extern "C" __global__ void __launch_bounds__(attention_mma::THREADS) attention_paged_bf16_##DEPTH( \
        LAYER_PARAMETERS, int count, const uint32_t* offsets, const uint32_t* starts, const uint32_t* pages, int max_pages, \
        const __nv_bfloat16* q, const __nv_bfloat16* cache_k, const __nv_bfloat16* cache_v, __nv_bfloat16* out) { \
        Layer layer = LAYER; \
        RowTile tile; \
        if (!tile.find<attention_mma::TILE>(offsets, count, layer.group, blockIdx.x)) return; \
        int head = blockIdx.y; \
        const uint32_t* own = pages + (size_t)tile.sequence * max_pages; \
        PagedKeys<__nv_bfloat16> keys{cache_k, own, layer.shared_heads(), head, layer.depth}; \
        PagedKeys<__nv_bfloat16> values{cache_v, own, layer.shared_heads(), head, layer.depth}; \
        attention_mma::forward<DEPTH>(layer, tile, starts[tile.sequence], head, q, keys, values, out, nullptr); \
    }

FORWARD_MMA(64)
FORWARD_MMA(128)
FORWARD_MMA(256)

// Stores new rows in the cache: a block a row. Bound by memory: each element read and written once.
template <class T>
__device__ __forceinline__ void write_rows(
    int count, int shared_heads, int depth, const uint32_t* offsets, const uint32_t* starts, const uint32_t* pages,
    int max_pages, const T* rows, T* cache) {
    RowTile tile;
    if (!tile.find<1>(offsets, count, 1, blockIdx.x)) return;
    int position = starts[tile.sequence] + tile.row0;
    size_t page = pages[(size_t)tile.sequence * max_pages + position / PAGE];
    const T* row = rows + (size_t)(tile.base + tile.row0) * shared_heads * depth;
    for (int i = threadIdx.x; i < shared_heads * depth; i += blockDim.x) {
        int head = i / depth, d = i % depth;
        cache[((page * shared_heads + head) * PAGE + position % PAGE) * depth + d] = row[i];
    }
}

#define CACHE_WRITE(NAME, T) \
    extern "C" __global__ void __launch_bounds__(128) cache_write_##NAME( \
        int count, int shared_heads, int depth, const uint32_t* offsets, const uint32_t* starts, const uint32_t* pages, \
        int max_pages, const T* rows, T* cache) { \
        write_rows(count, shared_heads, depth, offsets, starts, pages, max_pages, rows, cache); \
    }

FOR_EACH_TYPE(CACHE_WRITE)

// Copies a page of a cache over another, 16 bytes a thread: a page is a multiple of 32 bytes.
extern "C" __global__ void __launch_bounds__(256) cache_copy_page(
    uint64_t vectors, uint64_t from, uint64_t to, uint4* cache) {
    uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < vectors) cache[to * vectors + i] = cache[from * vectors + i];
}

// Rotary position embedding, half-split layout, over queries and keys as the projections leave them; and the way of new rows
// into the paged cache.
//
// Tiling: a block has a row and some of its heads, queries' before keys' (before values'): threads lie along the pairs of a
// head, 256 at most, and across heads, so no index is divided. A thread loads the angle of its pair once, for up to
// HEADS_A_THREAD heads. Bytes a pair, of elements of e bytes: 4 e, and the angles' 8 a HEADS_A_THREAD pairs from L2; into the
// cache the same, where a rotation and then a copy take 8 e for keys. FLOPs a pair: 6. Limit: memory bandwidth.

#include "attention.cuh"
#include "common.cuh"

// Of a row (rope/cuda.rs: HEADS_A_THREAD).
constexpr uint32_t HEADS_A_THREAD = 4;

// cos[t, i] = cos(positions[t] inv_freq[i]), the angle in f32, likewise sin. Threads: (pair, row).
extern "C" __global__ void rope_table(const uint32_t* positions, const float* inv_freq, float* cosines, float* sines,
                                      uint32_t half, uint32_t rows) {
    const uint32_t row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    for (uint32_t i = threadIdx.x; i < half; i += blockDim.x) {
        const uint64_t at = static_cast<uint64_t>(row) * half + i;
        sincosf(static_cast<float>(positions[row]) * inv_freq[i], sines + at, cosines + at);
    }
}

// What one pair is turned by.
struct Turn {
    float cosine, sine;

    // to = (a cos - b sin, b cos + a sin) for a = from_0 and b = from_half.
    template <typename T>
    __device__ __forceinline__ void operator()(const T* from, T* to, uint32_t half) const {
        const float a = load(from), b = load(from + half);
        store(to, a * cosine - b * sine);
        store(to + half, b * cosine + a * sine);
    }
};

// Runs visit(pair, its turn, head) for the pairs and heads of this thread, of `total` heads; `sign` is -1 for the inverse.
template <typename Visit>
__device__ __forceinline__ void each_pair(const float* cosines, const float* sines, float sign, uint64_t row, uint32_t total,
                                          uint32_t half, Visit visit) {
    const uint32_t first = blockIdx.y * HEADS_A_THREAD * blockDim.y + threadIdx.y;
    const uint32_t end = min(total, first + HEADS_A_THREAD * blockDim.y);
    for (uint32_t i = threadIdx.x; i < half; i += blockDim.x) {
        const Turn turn{cosines[row * half + i], sign * sines[row * half + i]};
        for (uint32_t head = first; head < end; head += blockDim.y) visit(i, turn, head);
    }
}

// Turns q and k in place: (a, b) = (a cos - b sin, b cos + a sin) for a = x_i and b = x_{i + half} of each head.
template <typename T>
__device__ void rope(T* q, T* k, const float* cosines, const float* sines, float sign, uint32_t heads, uint32_t shared_heads,
                     uint32_t half) {
    const uint64_t row = blockIdx.x;
    each_pair(cosines, sines, sign, row, heads + shared_heads, half, [=](uint32_t i, Turn turn, uint32_t head) {
        T* x = head < heads ? q + (row * heads + head) * 2 * half : k + (row * shared_heads + head - heads) * 2 * half;
        turn(x + i, x + i, half);
    });
}

// Turns q in place, k on its way to its page, and copies v to its own. Blocks: as many rows and sequences as there are.
template <typename T>
__device__ void rope_to_cache(T* q, const T* k, const T* v, const float* cosines, const float* sines, T* cache_k, T* cache_v,
                              uint32_t heads, uint32_t shared_heads, uint32_t half, uint32_t count, const uint32_t* offsets,
                              const uint32_t* starts, const uint32_t* pages, uint32_t max_pages) {
    RowTile tile;
    if (!tile.find<1>(offsets, count, 1, blockIdx.x)) return;
    const uint64_t row = tile.base + tile.row0;
    const uint32_t position = starts[tile.sequence] + tile.row0;
    const uint64_t page = pages[static_cast<uint64_t>(tile.sequence) * max_pages + position / PAGE];
    const uint32_t slot = position % PAGE;
    each_pair(cosines, sines, 1.0f, row, heads + 2 * shared_heads, half, [=](uint32_t i, Turn turn, uint32_t head) {
        if (head < heads) {
            T* x = q + (row * heads + head) * 2 * half + i;
            turn(x, x, half);
            return;
        }
        const bool value = head >= heads + shared_heads;
        head -= value ? heads + shared_heads : heads;
        const uint64_t from = (row * shared_heads + head) * 2 * half + i;
        const uint64_t to = ((page * shared_heads + head) * PAGE + slot) * 2 * half + i;
        if (value) {
            cache_v[to] = v[from];
            cache_v[to + half] = v[from + half];
        } else {
            turn(k + from, cache_k + to, half);
        }
    });
}

#define ROPE(name, T)                                                                                                    \
    extern "C" __global__ void rope_##name(T* q, T* k, const float* cosines, const float* sines, float sign,             \
                                           uint32_t heads, uint32_t shared_heads, uint32_t half) {                       \
        rope(q, k, cosines, sines, sign, heads, shared_heads, half);                                                     \
    }                                                                                                                    \
    extern "C" __global__ void rope_to_cache_##name(T* q, const T* k, const T* v, const float* cosines,                  \
                                                    const float* sines, T* cache_k, T* cache_v, uint32_t heads,          \
                                                    uint32_t shared_heads, uint32_t half, uint32_t count,                \
                                                    const uint32_t* offsets, const uint32_t* starts,                     \
                                                    const uint32_t* pages, uint32_t max_pages) {                         \
        rope_to_cache(q, k, v, cosines, sines, cache_k, cache_v, heads, shared_heads, half, count, offsets, starts,      \
                      pages, max_pages);                                                                                 \
    }

FOR_EACH_ACTIVATION(ROPE)

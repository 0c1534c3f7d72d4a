// What the attention kernels share: the shape of a layer, which rows a block has, where keys lie, which keys a query sees.
#pragma once
#include "tile.cuh"

// Positions in a page of the cache (src/ops/attention: PAGE).
constexpr int PAGE = 16;

// Keys of a split, counted from position 0 (src/ops/attention/cuda.rs: SPLIT). At its end a row's softmax is closed and merged
// into that of the keys before, whoever made it: one block that walks on (attention.cu), or one of its own (attention_split.cu).
// So a row has the same bits however its keys are shared out. A multiple of every tile.
constexpr int SPLIT = 512;

// A layer. Kernels take its fields as LAYER_PARAMETERS, in this order (src/ops/attention/cuda.rs: layer).
#define LAYER_PARAMETERS int heads, int group, int depth, float scale, float softcap, int window
#define LAYER Layer{heads, group, depth, scale, softcap, window}

struct Layer {
    // Query heads, and how many of them share a key/value head.
    int heads, group;
    int depth;
    float scale;
    // 0: none.
    float softcap;
    // 0: none.
    int window;

    __device__ __forceinline__ int shared_heads() const { return heads / group; }

    __device__ __forceinline__ bool sees(int query, int key) const { return key <= query && (window == 0 || key + window > query); }

    // First key that the query sees.
    __device__ __forceinline__ int first_key(int query) const { return window == 0 ? 0 : max(query + 1 - window, 0); }
};

// A tile of `SIZE` rows of one sequence, where a position has `group` rows: adjacent query heads of one key/value head, or
// 1 for keys.
struct RowTile {
    int sequence = 0;
    // The sequence's first row in the batch, and its length.
    int base = 0, length = 0;
    // First row of the tile within the sequence.
    int row0 = 0;

    // Sequence s has the tiles from floor(offsets[s] group / SIZE) + s on: enough for each, and found by bisection. A grid
    // of floor(T group / SIZE) + count tiles has them all; some are empty, which this returns false for.
    template <int SIZE>
    __device__ __forceinline__ bool find(const uint32_t* offsets, int count, int group, int index) {
        auto start = [&](int s) { return static_cast<int>(static_cast<size_t>(offsets[s]) * group / SIZE) + s; };
        int low = 0, high = count;
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (start(middle) <= index)
                low = middle;
            else
                high = middle;
        }
        sequence = low;
        base = offsets[low];
        length = offsets[low + 1] - base;
        row0 = (index - start(low)) * SIZE;
        return row0 < length * group;
    }
};

// Keys that some row of a tile of `size` rows sees, from a multiple of `size` on.
struct KeyRange {
    int first, end;

    __device__ __forceinline__ KeyRange(const Layer& layer, const RowTile& tile, int start, int size) {
        int rows = min(tile.length * layer.group - tile.row0, size);
        first = layer.first_key(start + tile.row0 / layer.group) / size * size;
        end = start + (tile.row0 + rows - 1) / layer.group + 1;
    }

    // Those of a split; none where first >= end.
    __device__ __forceinline__ KeyRange within(int split) const {
        KeyRange part = *this;
        part.first = max(first, split * SPLIT);
        part.end = min(end, (split + 1) * SPLIT);
        return part;
    }
};

// Where a row of a tile of (position, head) pairs lies in [rows of the batch, heads].
struct Place {
    const Layer& layer;
    // The sequence's first row in the batch, and the tile's first pair in the sequence.
    int base, row0, head;

    __device__ __forceinline__ size_t operator()(int row) const {
        int flat = row0 + row;
        return static_cast<size_t>(base + flat / layer.group) * layer.heads + head * layer.group + flat % layer.group;
    }
};

// The keys (or values) of one head: rows of a batch, from the sequence's first.
template <class T>
struct RaggedKeys {
    const T* data;
    int base, shared_heads, head, depth;

    __device__ __forceinline__ const T* operator()(int position) const {
        return data + (static_cast<size_t>(base + position) * shared_heads + head) * depth;
    }
};

// The same in pages of a cache: within a page head, then slot, then dimension.
template <class T>
struct PagedKeys {
    const T* data;
    const uint32_t* pages;
    int shared_heads, head, depth;

    __device__ __forceinline__ const T* operator()(int position) const {
        size_t page = pages[position / PAGE];
        return data + ((page * shared_heads + head) * PAGE + position % PAGE) * depth;
    }
};

// Scaled and capped score. The product is rounded by itself: fused into a later subtraction it would not cancel exactly.
__device__ __forceinline__ float score_of(const Layer& layer, float dot) {
    float score = __fmul_rn(layer.scale, dot);
    return layer.softcap > 0.0f ? layer.softcap * tanhf(score / layer.softcap) : score;
}

// Merges the softmax of a later split, (m, l, o) with l = sum_j exp(s_j - m) and o = sum_j exp(s_j - m) v_j, into that of
// those before, (M, L, O): M' = max(M, m), L' = L exp(M - M') + l exp(m - M'), O' alike. Exp is the path's exponential.
//
// Rounded step by step, the same everywhere. A split that a row does not see, (-inf, 0, 0), leaves the rest as it is to the
// bit, -0 too: a block may have it because of other rows.
template <class Exp>
struct Merge {
    float maximum, before, after;

    __device__ __forceinline__ Merge(float earlier, float later) : maximum(fmaxf(earlier, later)) {
        float base = maximum == -INFINITY ? 0.0f : maximum;
        before = Exp::of(__fsub_rn(earlier, base));
        after = Exp::of(__fsub_rn(later, base));
    }

    __device__ __forceinline__ float operator()(float earlier, float later) const {
        float both = __fmaf_rn(later, after, __fmul_rn(earlier, before));
        return after == 0.0f ? earlier : before == 0.0f ? later : both;
    }
};

// P, and the gradient of q . k: scale P (dP - D), times the softcap's slope; both 0 where the key is not seen.
struct ScoreGradient {
    float p, ds;

    __device__ __forceinline__ ScoreGradient(
        const Layer& layer, bool seen, float dot, float dp, float lse, float delta) {
        float score = score_of(layer, dot);
        float ratio = layer.softcap > 0.0f ? score / layer.softcap : 0.0f;
        p = seen ? expf(score - lse) : 0.0f;
        ds = layer.scale * (p * ((dp - delta) * (1.0f - ratio * ratio)));
    }
};

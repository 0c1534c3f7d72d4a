// Attention's tile products in f32, for tensors of f32: 128 threads, TILE x TILE scores of TILE rows against TILE rows, then
// TILE x depth sums. Thread (y, x) = (tid / 16, tid % 16) has the rows y TILE / 8 ..; of a score tile the columns x + 16 j, of
// the sums the columns 4 x + 64 c .. + 3.
#pragma once
#include "attention.cuh"

namespace attention_fma {

constexpr int THREADS = 128;
// Blocks of the forward pass that an SM must have registers for: at depth 256 an sm_80's shared memory holds no more.
template <int DEPTH>
constexpr int BLOCKS = DEPTH == 256 ? 2 : 3;

template <int TILE_, int DEPTH_>
struct Tiles {
    // Rows of a tile, and the largest head that fits.
    static constexpr int TILE = TILE_, DEPTH = DEPTH_;
    static constexpr int ROWS = TILE / 8, COLUMNS = TILE / 16, SUMS = DEPTH / 16;
    // A vector apart from a power of two, so that 8 rows fall in different banks.
    static constexpr int PITCH = DEPTH + 4, WEIGHT_PITCH = TILE + 4;
    using Rows = float[TILE][PITCH];
    using Weights = float[TILE][WEIGHT_PITCH];
    using Scores = float[ROWS][COLUMNS];
    using Sums = float[ROWS][SUMS];

    __device__ __forceinline__ static int row(int i) { return threadIdx.x / 16 * ROWS + i; }
    __device__ __forceinline__ static int column(int j) { return threadIdx.x % 16 + 16 * j; }
    __device__ __forceinline__ static int dimension(int c) { return threadIdx.x % 16 * 4 + c / 4 * 64 + c % 4; }

    // A warp a row; zeros from `rows` on and up to a multiple of 4 dimensions.
    template <class Source>
    __device__ __forceinline__ static void fill(Rows& tile, int rows, int depth, Source source) {
        int padded = (depth + 3) / 4 * 4;
        for (int row = threadIdx.x / 32; row < TILE; row += THREADS / 32) {
            const float* values = source(min(row, rows - 1));
            for (int d = threadIdx.x % 32; d < padded; d += 32) tile[row][d] = row < rows && d < depth ? values[d] : 0.0f;
        }
    }

    // scores = a b^T, each a chain of FMAs in the order of dimensions.
    __device__ __forceinline__ static void dot(Scores& scores, const Rows& a, const Rows& b, int depth) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) scores[i][j] = 0.0f;
        for (int d = 0; d < depth; d += 4) {
            float4 x[ROWS], y[COLUMNS];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) x[i] = *reinterpret_cast<const float4*>(&a[row(i)][d]);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) y[j] = *reinterpret_cast<const float4*>(&b[column(j)][d]);
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) {
                    scores[i][j] = fmaf(x[i].x, y[j].x, scores[i][j]);
                    scores[i][j] = fmaf(x[i].y, y[j].y, scores[i][j]);
                    scores[i][j] = fmaf(x[i].z, y[j].z, scores[i][j]);
                    scores[i][j] = fmaf(x[i].w, y[j].w, scores[i][j]);
                }
        }
    }

    __device__ __forceinline__ static void store(Weights& weights, const Scores& scores) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) weights[row(i)][column(j)] = scores[i][j];
    }

    // sums += weights values
    __device__ __forceinline__ static void accumulate(
        Sums& sums, const Weights& weights, const Rows& values, int depth) {
        for (int j = 0; j < TILE; j += 4) {
            float w[ROWS][4];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                float4 four = *reinterpret_cast<const float4*>(&weights[row(i)][j]);
                w[i][0] = four.x, w[i][1] = four.y, w[i][2] = four.z, w[i][3] = four.w;
            }
#pragma unroll
            for (int e = 0; e < 4; ++e)
#pragma unroll
                for (int c = 0; c < SUMS; c += 4) {
                    if (dimension(c) >= depth) continue;
                    float4 v = *reinterpret_cast<const float4*>(&values[j + e][dimension(c)]);
#pragma unroll
                    for (int i = 0; i < ROWS; ++i) {
                        sums[i][c] = fmaf(w[i][e], v.x, sums[i][c]);
                        sums[i][c + 1] = fmaf(w[i][e], v.y, sums[i][c + 1]);
                        sums[i][c + 2] = fmaf(w[i][e], v.z, sums[i][c + 2]);
                        sums[i][c + 3] = fmaf(w[i][e], v.w, sums[i][c + 3]);
                    }
                }
        }
    }

    // A thread's row of sums, times `factor`.
    __device__ __forceinline__ static void write(float* target, const float (&sums)[SUMS], float factor, int depth) {
#pragma unroll
        for (int c = 0; c < SUMS; ++c)
            if (dimension(c) < depth) target[dimension(c)] = sums[c] * factor;
    }
};

// Over the 16 threads of a row.
__device__ __forceinline__ float row_max(float value) {
#pragma unroll
    for (int lanes = 8; lanes > 0; lanes /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, lanes));
    return value;
}

__device__ __forceinline__ float row_sum(float value) {
#pragma unroll
    for (int lanes = 8; lanes > 0; lanes /= 2) value += __shfl_xor_sync(ALL_LANES, value, lanes);
    return value;
}

struct Exp {
    __device__ __forceinline__ static float of(float x) { return expf(x); }
};

// The softmax of a thread's rows, and its part of their sums.
template <class T>
struct Softmax {
    float maximum[T::ROWS], total[T::ROWS];
    typename T::Sums sums;

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < T::ROWS; ++i) {
            maximum[i] = -INFINITY;
            total[i] = 0.0f;
#pragma unroll
            for (int c = 0; c < T::SUMS; ++c) sums[i][c] = 0.0f;
        }
    }
};

// What the splits before gave, in local memory, as in attention_mma.cuh.
template <class T>
struct Parked {
    volatile float sums[T::ROWS][T::SUMS];
    volatile float maximum[T::ROWS], total[T::ROWS];

    __device__ __forceinline__ void park(const Softmax<T>& own) {
#pragma unroll
        for (int i = 0; i < T::ROWS; ++i) {
            maximum[i] = own.maximum[i], total[i] = own.total[i];
#pragma unroll
            for (int c = 0; c < T::SUMS; ++c) sums[i][c] = own.sums[i][c];
        }
    }

    __device__ __forceinline__ void merge_into(Softmax<T>& own) const {
#pragma unroll
        for (int i = 0; i < T::ROWS; ++i) {
            Merge<Exp> merge(maximum[i], own.maximum[i]);
            own.maximum[i] = merge.maximum;
            own.total[i] = merge(total[i], own.total[i]);
#pragma unroll
            for (int c = 0; c < T::SUMS; ++c) own.sums[i][c] = merge(sums[i][c], own.sums[i][c]);
        }
    }
};

// Online softmax over blocks of the keys from `first` on and below `end`, of the rows of `tile`: (position, head) pairs of one
// key/value head. They are of one split unless WHOLE.
template <int DEPTH, bool WHOLE, class Keys>
__device__ __forceinline__ void attend(
    Softmax<Tiles<32, DEPTH>>& own, const Layer& layer, const RowTile& tile, int start, int head, const float* q, Keys keys,
    Keys values, int first, int end) {
    using T = Tiles<32, DEPTH>;
    extern __shared__ __align__(16) unsigned char memory[];
    auto& queries = *reinterpret_cast<typename T::Rows*>(memory);
    auto& block = *reinterpret_cast<typename T::Rows*>(memory + sizeof(typename T::Rows));
    auto& weights = *reinterpret_cast<typename T::Weights*>(memory + 2 * sizeof(typename T::Rows));

    int rows = min(tile.length * layer.group - tile.row0, T::TILE);
    Place place{layer, tile.base, tile.row0, head};
    T::fill(queries, rows, layer.depth, [&](int row) { return q + place(row) * layer.depth; });

    int position[T::ROWS];
#pragma unroll
    for (int i = 0; i < T::ROWS; ++i) position[i] = start + (tile.row0 + T::row(i)) / layer.group;
    Parked<T> parked;
    own.clear();
    for (int key0 = first; key0 < end; key0 += T::TILE) {
        // Everyone is done with the values of the block before.
        __syncthreads();
        T::fill(block, end - key0, layer.depth, [&](int row) { return keys(key0 + row); });
        __syncthreads();
        typename T::Scores scores;
        T::dot(scores, queries, block, layer.depth);
#pragma unroll
        for (int i = 0; i < T::ROWS; ++i) {
            float highest = own.maximum[i];
#pragma unroll
            for (int j = 0; j < T::COLUMNS; ++j) {
                scores[i][j] = layer.sees(position[i], key0 + T::column(j)) ? score_of(layer, scores[i][j]) : -INFINITY;
                highest = fmaxf(highest, scores[i][j]);
            }
            highest = row_max(highest);
            // Nothing seen yet: any finite base makes the weights exp(-inf) = 0.
            float base = highest == -INFINITY ? 0.0f : highest;
            float factor = expf(own.maximum[i] - base);
            own.maximum[i] = highest;
            own.total[i] *= factor;
#pragma unroll
            for (int j = 0; j < T::COLUMNS; ++j) {
                scores[i][j] = expf(scores[i][j] - base);
                own.total[i] += scores[i][j];
            }
#pragma unroll
            for (int c = 0; c < T::SUMS; ++c) own.sums[i][c] *= factor;
        }
        T::store(weights, scores);
        // The weights are there, and everyone is done with the keys.
        __syncthreads();
        T::fill(block, end - key0, layer.depth, [&](int row) { return values(key0 + row); });
        __syncthreads();
        T::accumulate(own.sums, weights, block, layer.depth);
        bool last = key0 + T::TILE >= end;
        if (last || (WHOLE && (key0 + T::TILE) % SPLIT == 0)) {
#pragma unroll
            for (int i = 0; i < T::ROWS; ++i) own.total[i] = row_sum(own.total[i]);
            if (WHOLE && key0 / SPLIT != first / SPLIT) parked.merge_into(own);
            if (WHOLE && !last) parked.park(own), own.clear();
        }
    }
}

// The rows of `tile` over all keys they see.
template <int DEPTH, class Keys>
__device__ __forceinline__ void forward(
    const Layer& layer, const RowTile& tile, int start, int head, const float* q, Keys keys, Keys values, float* out,
    float* lse) {
    using T = Tiles<32, DEPTH>;
    Softmax<T> own;
    KeyRange range(layer, tile, start, T::TILE);
    attend<DEPTH, true>(own, layer, tile, start, head, q, keys, values, range.first, range.end);
    int rows = min(tile.length * layer.group - tile.row0, T::TILE);
    Place place{layer, tile.base, tile.row0, head};
#pragma unroll
    for (int i = 0; i < T::ROWS; ++i) {
        if (T::row(i) >= rows) continue;
        size_t at = place(T::row(i));
        T::write(out + at * layer.depth, own.sums[i], 1.0f / own.total[i], layer.depth);
        if (lse != nullptr && T::column(0) == 0) lse[at] = own.maximum[i] + logf(own.total[i]);
    }
}

// The rows of `tile` over those of them in one split: maximum and total to `states`, sums to `parts`, for `splits` of each row.
template <int DEPTH, class Keys>
__device__ __forceinline__ void forward_split(
    const Layer& layer, const RowTile& tile, int start, int head, int split, int splits, const float* q, Keys keys, Keys values,
    float2* states, float* parts) {
    using T = Tiles<32, DEPTH>;
    KeyRange range = KeyRange(layer, tile, start, T::TILE).within(split);
    if (range.first >= range.end) return;
    Softmax<T> own;
    attend<DEPTH, false>(own, layer, tile, start, head, q, keys, values, range.first, range.end);
    int rows = min(tile.length * layer.group - tile.row0, T::TILE);
    Place place{layer, tile.base, tile.row0, head};
#pragma unroll
    for (int i = 0; i < T::ROWS; ++i) {
        if (T::row(i) >= rows) continue;
        size_t at = place(T::row(i)) * splits + split;
        T::write(parts + at * layer.depth, own.sums[i], 1.0f, layer.depth);
        if (T::column(0) == 0) states[at] = make_float2(own.maximum[i], own.total[i]);
    }
}

template <int DEPTH>
constexpr int FORWARD_SHARED = 2 * sizeof(typename Tiles<32, DEPTH>::Rows) + sizeof(typename Tiles<32, DEPTH>::Weights);

}  // namespace attention_fma

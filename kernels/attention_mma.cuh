// Attention on tensor cores, for tensors of bf16: a block has 64 rows, 4 warps of 16, and walks over blocks of 64 keys.
//
// Shared memory holds one tile of queries, one of keys and one of values, each 64 x (D + 8) bf16: 27, 51 and 99 KB at D = 64,
// 128, 256, which just fits an sm_86. The values of a block are copied while its scores are made, the keys of the next block
// while its values are summed, so two barriers a block. Probabilities stay in registers: the layout of a score tile is that
// of an A operand.
//
// A block of keys at depth D: 256 D bytes from L2, 16,384 D FLOP: 64 FLOP a byte. A warp loads 4 + 4 fragments of 512 bytes
// for 16 mma, 32 cycles of shared memory for 32 of the tensor cores of an SM: both limits meet, at best; the exponentials
// (4096 a block, 16 a cycle and SM: 256 cycles) and the mma (2 x 64 x 64 x D / 1024: 1024 cycles at D = 128) overlap
// between blocks of one SM.
#pragma once
#include "attention.cuh"

namespace attention_mma {

constexpr int THREADS = 128, TILE = 64;
using bf16 = __nv_bfloat16;

template <int DEPTH>
struct Tiles {
    // 16 bytes of padding put the 8 lines of an ldmatrix in different banks.
    static constexpr int PITCH = DEPTH + 8, ELEMENTS = TILE * PITCH;

    // Starts copying rows [0, rows); the rest, and dimensions from `depth` (a multiple of 8) on, become 0.
    template <class Source>
    __device__ __forceinline__ static void copy(bf16* tile, int rows, int depth, const bf16* any, Source source) {
#pragma unroll 4
        for (int i = threadIdx.x; i < TILE * DEPTH / 8; i += THREADS) {
            int row = i / (DEPTH / 8), d = i % (DEPTH / 8) * 8;
            bool valid = row < rows && d < depth;
            copy_async(tile + row * PITCH + d, valid ? source(row) + d : any, valid);
        }
    }

    // An A operand: 16 rows from row0, 16 dimensions from d.
    __device__ __forceinline__ static void rows_of(uint32_t (&a)[4], const bf16* tile, int row0, int d) {
        int lane = threadIdx.x % 32;
        load_matrix_x4(a, tile + (row0 + lane % 16) * PITCH + d + lane / 16 * 8);
    }

    // A B operand of 16 dimensions from d, for 16 rows of the tile from row0 as columns: scores.
    __device__ __forceinline__ static void columns_of(uint32_t (&b)[4], const bf16* tile, int row0, int d) {
        int lane = threadIdx.x % 32;
        load_matrix_x4(b, tile + (row0 + lane / 16 * 8 + lane % 8) * PITCH + d + lane / 8 % 2 * 8);
    }

    // A B operand of 16 rows of the tile from row0, for 16 dimensions from d as columns: sums.
    __device__ __forceinline__ static void values_of(uint32_t (&b)[4], const bf16* tile, int row0, int d) {
        int lane = threadIdx.x % 32;
        load_matrix_x4_trans(b, tile + (row0 + lane % 16) * PITCH + d + lane / 16 * 8);
    }
};

// scores[8 columns of 8][row half * 2 + column] of the warp's 16 rows of `a` against the 64 rows of `b`.
using Scores = float[TILE / 8][4];

// Row (of 16) and column (of 64) of the thread's element.
__device__ __forceinline__ int row_of(int e) { return threadIdx.x % 32 / 4 + e / 2 * 8; }
__device__ __forceinline__ int column_of(int j, int e) { return j * 8 + threadIdx.x % 4 * 2 + e % 2; }

template <int DEPTH>
__device__ __forceinline__ void dot(Scores& scores, const bf16* a, int row0, const bf16* b) {
    using T = Tiles<DEPTH>;
#pragma unroll
    for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[j][e] = 0.0f;
#pragma unroll
    for (int d = 0; d < DEPTH; d += 16) {
        uint32_t fa[4];
        T::rows_of(fa, a, row0, d);
#pragma unroll
        for (int j = 0; j < TILE / 16; ++j) {
            uint32_t fb[4];
            T::columns_of(fb, b, j * 16, d);
            mma_bf16(scores[2 * j], fa, fb[0], fb[1]);
            mma_bf16(scores[2 * j + 1], fa, fb[2], fb[3]);
        }
    }
}

// sums += weights values: `weights` of the warp's 16 rows against the 64 rows of `values`, rounded to bf16.
template <int DEPTH>
__device__ __forceinline__ void accumulate(float (&sums)[DEPTH / 8][4], const Scores& weights, const bf16* values) {
    using T = Tiles<DEPTH>;
#pragma unroll
    for (int j = 0; j < TILE / 16; ++j) {
        uint32_t fa[4] = {pack_bf16(weights[2 * j][0], weights[2 * j][1]), pack_bf16(weights[2 * j][2], weights[2 * j][3]),
                          pack_bf16(weights[2 * j + 1][0], weights[2 * j + 1][1]), pack_bf16(weights[2 * j + 1][2], weights[2 * j + 1][3])};
#pragma unroll
        for (int d = 0; d < DEPTH / 16; ++d) {
            uint32_t fb[4];
            T::values_of(fb, values, j * 16, d * 16);
            mma_bf16(sums[2 * d], fa, fb[0], fb[1]);
            mma_bf16(sums[2 * d + 1], fa, fb[2], fb[3]);
        }
    }
}

// Over the 4 lanes of a row.
__device__ __forceinline__ float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

__device__ __forceinline__ float row_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

// exp(x) by the special function unit.
__device__ __forceinline__ float exp_of(float x) { return exp2f(x * 1.4426950408889634f); }

struct Exp {
    __device__ __forceinline__ static float of(float x) { return exp_of(x); }
};

// Writes the warp's rows below `rows` of a tile of sums, in pairs.
template <int DEPTH, class Target>
__device__ __forceinline__ void write(
    const float (&sums)[DEPTH / 8][4], int row0, int rows, int depth, const float (&factor)[2], Target target) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = row0 + row_of(2 * half);
        if (row >= rows) continue;
        bf16* values = target(row);
#pragma unroll
        for (int d = 0; d < DEPTH / 8; ++d) {
            int dimension = column_of(d, 0);
            if (dimension < depth)
                *reinterpret_cast<uint32_t*>(values + dimension) = pack_bf16(sums[d][2 * half] * factor[half], sums[d][2 * half + 1] * factor[half]);
        }
    }
}

// The softmax of the thread's two rows, and their sums.
template <int DEPTH>
struct Softmax {
    float maximum[2], total[2], sums[DEPTH / 8][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int half = 0; half < 2; ++half) maximum[half] = -INFINITY, total[half] = 0.0f;
#pragma unroll
        for (int d = 0; d < DEPTH / 8; ++d)
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[d][e] = 0.0f;
    }
};

// What the splits before gave, while the next one is made. volatile keeps it out of the registers, which the sums under way
// need: local memory sees it once a split.
template <int DEPTH>
struct Parked {
    volatile float sums[DEPTH / 8][4];
    volatile float maximum[2], total[2];

    __device__ __forceinline__ void park(const Softmax<DEPTH>& own) {
#pragma unroll
        for (int half = 0; half < 2; ++half) maximum[half] = own.maximum[half], total[half] = own.total[half];
#pragma unroll
        for (int d = 0; d < DEPTH / 8; ++d)
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[d][e] = own.sums[d][e];
    }

    __device__ __forceinline__ void merge_into(Softmax<DEPTH>& own) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Merge<Exp> merge(maximum[half], own.maximum[half]);
            own.maximum[half] = merge.maximum;
            own.total[half] = merge(total[half], own.total[half]);
#pragma unroll
            for (int d = 0; d < DEPTH / 8; ++d)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; ++e) own.sums[d][e] = merge(sums[d][e], own.sums[d][e]);
        }
    }
};

// Online softmax over blocks of the keys from `first` on and below `end`, of the rows of `tile`: (position, head) pairs of one
// key/value head. They are of one split unless WHOLE.
template <int DEPTH, bool WHOLE, class Keys>
__device__ __forceinline__ void attend(
    Softmax<DEPTH>& own, const Layer& layer, const RowTile& tile, int start, int head, const bf16* q, Keys keys, Keys values,
    int first, int end) {
    using T = Tiles<DEPTH>;
    extern __shared__ __align__(16) bf16 memory[];
    bf16 *queries = memory, *key_block = memory + T::ELEMENTS, *value_block = memory + 2 * T::ELEMENTS;
    int rows = min(tile.length * layer.group - tile.row0, TILE), warp_row = threadIdx.x / 32 * 16;
    Place place{layer, tile.base, tile.row0, head};
    auto copy_keys = [&](int key0) { T::copy(key_block, end - key0, layer.depth, q, [&](int row) { return keys(key0 + row); }); };
    auto copy_values = [&](int key0) { T::copy(value_block, end - key0, layer.depth, q, [&](int row) { return values(key0 + row); }); };
    T::copy(queries, rows, layer.depth, q, [&](int row) { return q + place(row) * layer.depth; });
    copy_keys(first);
    copy_commit();

    int position[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) position[half] = start + (tile.row0 + warp_row + row_of(2 * half)) / layer.group;
    Parked<DEPTH> parked;
    own.clear();
    for (int key0 = first; key0 < end; key0 += TILE) {
        copy_wait<0>();
        // The keys have landed, and everyone is done with the values of the block before.
        __syncthreads();
        copy_values(key0);
        copy_commit();
        Scores scores;
        dot<DEPTH>(scores, queries, warp_row, key_block);
        float highest[2] = {own.maximum[0], own.maximum[1]};
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                scores[j][e] = layer.sees(position[e / 2], key0 + column_of(j, e)) ? score_of(layer, scores[j][e]) : -INFINITY;
                highest[e / 2] = fmaxf(highest[e / 2], scores[j][e]);
            }
        float base[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            highest[half] = row_max(highest[half]);
            // Nothing seen yet: any finite base makes the weights exp(-inf) = 0.
            base[half] = highest[half] == -INFINITY ? 0.0f : highest[half];
            float factor = exp_of(own.maximum[half] - base[half]);
            own.maximum[half] = highest[half];
            own.total[half] *= factor;
#pragma unroll
            for (int d = 0; d < DEPTH / 8; ++d) own.sums[d][2 * half] *= factor, own.sums[d][2 * half + 1] *= factor;
        }
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                scores[j][e] = exp_of(scores[j][e] - base[e / 2]);
                own.total[e / 2] += scores[j][e];
            }
        copy_wait<0>();
        // The values have landed, and everyone is done with the keys.
        __syncthreads();
        if (key0 + TILE < end) copy_keys(key0 + TILE);
        copy_commit();
        accumulate<DEPTH>(own.sums, scores, value_block);
        bool last = key0 + TILE >= end;
        if (last || (WHOLE && (key0 + TILE) % SPLIT == 0)) {
#pragma unroll
            for (int half = 0; half < 2; ++half) own.total[half] = row_sum(own.total[half]);
            if (WHOLE && key0 / SPLIT != first / SPLIT) parked.merge_into(own);
            if (WHOLE && !last) parked.park(own), own.clear();
        }
    }
}

// The rows of `tile` over all keys they see.
template <int DEPTH, class Keys>
__device__ __forceinline__ void forward(
    const Layer& layer, const RowTile& tile, int start, int head, const bf16* q, Keys keys, Keys values, bf16* out,
    float* lse) {
    Softmax<DEPTH> own;
    KeyRange range(layer, tile, start, TILE);
    attend<DEPTH, true>(own, layer, tile, start, head, q, keys, values, range.first, range.end);
    int rows = min(tile.length * layer.group - tile.row0, TILE), warp_row = threadIdx.x / 32 * 16;
    Place place{layer, tile.base, tile.row0, head};
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        factor[half] = 1.0f / own.total[half];
        int row = warp_row + row_of(2 * half);
        if (lse != nullptr && row < rows && threadIdx.x % 4 == 0) lse[place(row)] = own.maximum[half] + logf(own.total[half]);
    }
    write<DEPTH>(own.sums, warp_row, rows, layer.depth, factor, [&](int row) { return out + place(row) * layer.depth; });
}

// The rows of `tile` over those of them in one split: maximum and total to `states`, sums to `parts`, for `splits` of each row.
template <int DEPTH, class Keys>
__device__ __forceinline__ void forward_split(
    const Layer& layer, const RowTile& tile, int start, int head, int split, int splits, const bf16* q, Keys keys, Keys values,
    float2* states, float* parts) {
    KeyRange range = KeyRange(layer, tile, start, TILE).within(split);
    if (range.first >= range.end) return;
    Softmax<DEPTH> own;
    attend<DEPTH, false>(own, layer, tile, start, head, q, keys, values, range.first, range.end);
    int rows = min(tile.length * layer.group - tile.row0, TILE), warp_row = threadIdx.x / 32 * 16;
    Place place{layer, tile.base, tile.row0, head};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = warp_row + row_of(2 * half);
        if (row >= rows) continue;
        size_t at = place(row) * splits + split;
        if (threadIdx.x % 4 == 0) states[at] = make_float2(own.maximum[half], own.total[half]);
#pragma unroll
        for (int d = 0; d < DEPTH / 8; ++d) {
            int dimension = column_of(d, 0);
            if (dimension < layer.depth)
                *reinterpret_cast<float2*>(parts + at * layer.depth + dimension) = make_float2(own.sums[d][2 * half], own.sums[d][2 * half + 1]);
        }
    }
}

}  // namespace attention_mma

// A block's tile of a product in f32: 64 x 64 outputs by 256 threads, 4 x 4 a thread, 16 deep a step.
//
// A step reads 2 x 64 x 16 elements and makes 131,072 FLOP of them: at 8 KB of f32 that is 16 FLOP a byte, bound by
// shared memory (8 loaded floats for 16 FMAs a thread), at best half of the FP32 peak. It is the path of f32 and f16
// tensors; bf16 goes to the tensor cores (product_mma.cuh).
//
// Each output is one chain of FMAs in the order of k: its bits depend on its row and its column alone.
#pragma once
#include "tile.cuh"

namespace fma_product {

constexpr int TILE = 64, DEPTH = 16, THREADS = 256;
// A float4 apart from a power of two: rows of 16-byte aligned vectors that fall in different banks.
constexpr int PITCH = TILE + 4;

struct Shared {
    float a[DEPTH][PITCH], b[DEPTH][PITCH];
};

// First of the thread's four rows, and of its four columns. The 16 threads of a row are neighbours in a warp.
__device__ __forceinline__ int first_row() { return threadIdx.x / 16 * 4; }
__device__ __forceinline__ int first_column() { return threadIdx.x % 16 * 4; }

// `load(row, k)` fills a slice; neighbouring threads take neighbouring k where those are neighbours in memory.
template <bool ALONG_K, class Load>
__device__ __forceinline__ void fill(float (&slice)[DEPTH][PITCH], int k0, Load load) {
#pragma unroll
    for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        int row = ALONG_K ? i / DEPTH : i % TILE, k = ALONG_K ? i % DEPTH : i / TILE;
        slice[k][row] = load(row, k0 + k);
    }
}

// sum[i][j] = sum_k a(row, k) b(column, k). Both give 0 past `depth`.
template <bool A_ALONG_K, bool B_ALONG_K, class A, class B>
__device__ __forceinline__ void multiply(float (&sum)[4][4], Shared& shared, int depth, A a, B b) {
    int row = first_row(), column = first_column();
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] = 0.0f;
    for (int k0 = 0; k0 < depth; k0 += DEPTH) {
        // Everyone is done with the slices of the step before.
        __syncthreads();
        fill<A_ALONG_K>(shared.a, k0, a);
        fill<B_ALONG_K>(shared.b, k0, b);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            float4 left = *reinterpret_cast<const float4*>(&shared.a[k][row]);
            float4 right = *reinterpret_cast<const float4*>(&shared.b[k][column]);
            float x[4] = {left.x, left.y, left.z, left.w}, y[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
        }
    }
}

// Elements of a dtype known when the kernel runs: the same branch for every thread, in place of a kernel for each dtype and
// pair of dtypes.
enum DType { F32, BF16, F16 };

struct Elements {
    const void* data;
    int dtype;

    __device__ __forceinline__ float operator[](size_t i) const {
        if (dtype == F32) return load(static_cast<const float*>(data) + i);
        if (dtype == BF16) return load(static_cast<const __nv_bfloat16*>(data) + i);
        return load(static_cast<const __half*>(data) + i);
    }
};

// Rows of a row-major matrix, 0 outside of it: what `multiply` takes as `a` or `b` along k. `T` is an array of elements.
template <class T>
struct Rows {
    T data;
    int first, rows, depth;

    __device__ __forceinline__ float operator()(int row, int k) const {
        return first + row < rows && k < depth ? data[static_cast<size_t>(first + row) * depth + k] : 0.0f;
    }
};

// Columns of a row-major matrix of `depth` rows, 0 outside of it: what `multiply` takes across k.
template <class T>
struct Columns {
    T data;
    int first, columns, depth;

    __device__ __forceinline__ float operator()(int column, int k) const {
        return first + column < columns && k < depth ? data[static_cast<size_t>(k) * columns + first + column] : 0.0f;
    }
};

// Merges what the threads of each row know into `out[row0 ..]`, below `rows`: 16 lanes share a row.
template <class State>
__device__ __forceinline__ void merge_rows(State (&state)[4], State* out, int row0, int rows) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int lanes = 8; lanes > 0; lanes /= 2) state[i].merge(state[i].shuffled(lanes));
        int row = row0 + first_row() + i;
        if (first_column() == 0 && row < rows) out[row] = state[i];
    }
}

// Adds the tile to (or writes it into) a row-major matrix of f32.
__device__ __forceinline__ void store(
    const float (&sum)[4][4], float* out, int row0, int rows, int column0, int columns, bool add) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            int row = row0 + first_row() + i, column = column0 + first_column() + j;
            if (row < rows && column < columns) {
                float* target = out + (size_t)row * columns + column;
                *target = add ? *target + sum[i][j] : sum[i][j];
            }
        }
}

}  // namespace fma_product

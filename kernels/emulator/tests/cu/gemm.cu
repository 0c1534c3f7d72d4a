// C = A B^T for bf16 A (m x k), B (n x k), f32 C; k a multiple of 8. Tiles of 64 x 64 x 32, four warps of 32 x 32,
// double-buffered by cp.async; rows are padded to 40 elements so that ldmatrix meets no bank twice.
#include "tile.cuh"

constexpr int TILE = 64, DEPTH = 32, PITCH = 40;

__device__ __forceinline__ void load_tile(__nv_bfloat16 (*tile)[PITCH], const __nv_bfloat16* source, int row0, int rows, int k0, int k) {
    for (int i = threadIdx.x; i < TILE * DEPTH / 8; i += 128) {
        int row = i / (DEPTH / 8), column = i % (DEPTH / 8) * 8;
        bool valid = row0 + row < rows && k0 + column < k;
        copy_async(&tile[row][column], valid ? source + (size_t)(row0 + row) * k + k0 + column : source, valid);
    }
}

extern "C" __global__ void __launch_bounds__(128) gemm_bf16(int m, int n, int k, const __nv_bfloat16* a, const __nv_bfloat16* b, float* c) {
    __shared__ __align__(16) __nv_bfloat16 a_tile[2][TILE][PITCH], b_tile[2][TILE][PITCH];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE, warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
    float sum[2][4][4] = {};
    int steps = (k + DEPTH - 1) / DEPTH;
    load_tile(a_tile[0], a, row0, m, 0, k);
    load_tile(b_tile[0], b, column0, n, 0, k);
    copy_commit();
    for (int step = 0; step < steps; ++step) {
        int now = step % 2;
        if (step + 1 < steps) {
            load_tile(a_tile[1 - now], a, row0, m, (step + 1) * DEPTH, k);
            load_tile(b_tile[1 - now], b, column0, n, (step + 1) * DEPTH, k);
        }
        copy_commit();
        copy_wait<1>();
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < DEPTH; kk += 16) {
            uint32_t fa[2][4], fb[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) load_matrix_x4(fa[i], &a_tile[now][warp_row + i * 16 + lane % 16][kk + lane / 16 * 8]);
#pragma unroll
            for (int j = 0; j < 2; ++j) load_matrix_x4(fb[j], &b_tile[now][warp_column + j * 16 + lane % 8 + lane / 16 * 8][kk + lane / 8 % 2 * 8]);
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) mma_bf16(sum[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int row = row0 + warp_row + i * 16 + lane / 4 + e / 2 * 8, column = column0 + warp_column + j * 8 + lane % 4 * 2 + e % 2;
                if (row < m && column < n) c[(size_t)row * n + column] = sum[i][j][e];
            }
}

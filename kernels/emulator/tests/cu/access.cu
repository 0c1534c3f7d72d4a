// Right kernels whose accesses are known: what COUNTS must say of them, and threads of a block that exchange through
// global memory.
#include "tile.cuh"

// Lane l touches word l * stride: as many passes as lanes share a bank.
extern "C" __global__ void shared_stride(int stride, float* out) {
    __shared__ float tile[32 * 33];
    tile[threadIdx.x * stride] = threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = tile[threadIdx.x * stride];
}

// All lanes read one word.
extern "C" __global__ void shared_broadcast(float* out) {
    __shared__ float tile[32];
    tile[threadIdx.x] = threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = tile[5];
}

// 16 bytes a lane, `stride` of them apart.
extern "C" __global__ void shared_wide(int stride, float* out) {
    __shared__ float4 tile[32 * 4];
    tile[threadIdx.x * stride] = make_float4(1, 2, 3, 4);
    __syncwarp();
    out[threadIdx.x] = tile[threadIdx.x * stride].x;
}

// 32 rows of 64 elements, `pitch` elements apart, of which ldmatrix takes four 8 x 8 matrices from one column.
extern "C" __global__ void matrix_rows(int pitch, uint32_t* out) {
    __shared__ __align__(16) __nv_bfloat16 tile[32 * 72];
    for (int row = 0; row < 32; ++row)
        *reinterpret_cast<uint32_t*>(tile + row * pitch + 2 * threadIdx.x) = 0x3f803f80u;
    __syncwarp();
    uint32_t f[4];
    load_matrix_x4(f, tile + threadIdx.x * pitch);
    out[threadIdx.x] = f[0] + f[1] + f[2] + f[3];
}

extern "C" __global__ void global_wide(const float4* in, float4* out) {
    out[threadIdx.x] = in[threadIdx.x];
}

extern "C" __global__ void global_stride(int stride, const float* in, float* out) {
    out[threadIdx.x] = in[threadIdx.x * stride];
}

extern "C" __global__ void exchange_by_barrier(int* data, int* out) {
    data[threadIdx.x] = threadIdx.x;
    __syncthreads();
    int other = data[threadIdx.x ^ 32];
    __syncthreads();
    data[threadIdx.x] = other;
    __syncthreads();
    out[threadIdx.x] = data[threadIdx.x ^ 32];
}

// Neighbouring halves of a word belong to two warps.
extern "C" __global__ void exchange_of_halves(unsigned short* data) {
    int other = threadIdx.x % 32 * 2 + threadIdx.x / 32;
    data[other] = other;
    __syncwarp();
    data[other] = data[other] + 1;
}

// The first warp raises a flag behind a fence, the second waits for it.
extern "C" __global__ void exchange_by_flag(int* data, int* flag, int* out) {
    if (threadIdx.x < 32) {
        data[threadIdx.x] = threadIdx.x;
        __threadfence();
        __syncwarp();
        if (threadIdx.x == 0) atomicExch(flag, 1);
    } else {
        while (atomicAdd(flag, 0) == 0) {}
        __threadfence();
        out[threadIdx.x - 32] = data[threadIdx.x - 32];
    }
}

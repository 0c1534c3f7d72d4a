// One planted fault a kernel; tests/planted_faults.rs says which report each must give, and at which line. The marks in
// the comments at the ends of lines are what it looks for.
#include <cassert>
#include "tile.cuh"

extern "C" __global__ void global_unwritten(const float* fresh, float* out) {
    out[threadIdx.x] = fresh[threadIdx.x] + 1.0f; // MARK global_unwritten
}

extern "C" __global__ void shared_unwritten(float* out) {
    __shared__ float tile[128];
    if (threadIdx.x < 64) tile[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x]; // MARK shared_unwritten
}

extern "C" __global__ void register_unwritten(float x, float* out) {
    float sum;
    asm volatile("add.f32 %0, %0, %1;" : "=f"(sum) : "f"(x)); // MARK register_unwritten
    out[threadIdx.x] = sum;
}

extern "C" __global__ void accumulator_unwritten(float* out) {
    float d[4];
    uint32_t one = 0x3f803f80;
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, {%4,%4}, {%0,%1,%2,%3};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(one)); // MARK accumulator_unwritten
    out[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}

extern "C" __global__ void global_past_the_end(float* out) {
    out[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f; // MARK global_past_the_end
}

extern "C" __global__ void shared_past_the_end(float* out) {
    extern __shared__ float dynamic[];
    dynamic[threadIdx.x] = 1.0f; // MARK shared_past_the_end
    __syncthreads();
    out[threadIdx.x] = dynamic[0];
}

extern "C" __global__ void global_misaligned(const float* in, float* out) {
    float2 pair = *reinterpret_cast<const float2*>(in + 1 + 2 * threadIdx.x); // MARK global_misaligned
    out[threadIdx.x] = pair.x + pair.y;
}

extern "C" __global__ void race_between_warps(float* out) {
    __shared__ float tile[128];
    tile[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = tile[threadIdx.x ^ 32]; // MARK race_between_warps
}

extern "C" __global__ void race_in_a_warp(float* out) {
    __shared__ volatile float tile[128];
    tile[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = tile[threadIdx.x ^ 1]; // MARK race_in_a_warp
}

extern "C" __global__ void race_of_writes(int* out) {
    __shared__ int total;
    total = threadIdx.x; // MARK race_of_writes
    __syncthreads();
    if (threadIdx.x == 0) *out = total;
}

extern "C" __global__ void race_lost_update(int* out) {
    __shared__ int total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    if (threadIdx.x % 32 == 0) total += 1; // MARK race_lost_update
    __syncthreads();
    if (threadIdx.x == 0) *out = total;
}

// One buffer, refilled while other warps may still read it.
extern "C" __global__ void race_refilled_tile(const float* in, float* out, int steps) {
    __shared__ __align__(16) float tile[512];
    float sum = 0.0f;
    for (int step = 0; step < steps; ++step) {
        copy_async(tile + 4 * threadIdx.x, in + 512 * step + 4 * threadIdx.x, true); // MARK race_refilled_tile
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        for (int i = threadIdx.x; i < 512; i += blockDim.x) sum += tile[i];
    }
    out[threadIdx.x] = sum;
}

extern "C" __global__ void copy_without_wait(const float* in, float* out) {
    __shared__ __align__(16) float tile[512];
    copy_async(tile + 4 * threadIdx.x, in + 4 * threadIdx.x, true);
    copy_commit();
    __syncthreads();
    out[threadIdx.x] = tile[4 * threadIdx.x]; // MARK copy_without_wait
}

extern "C" __global__ void copy_of_half(const float* in, float* out) {
    __shared__ __align__(16) float tile[512];
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(tile + 4 * threadIdx.x)), "l"(in + 4 * threadIdx.x));
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    out[threadIdx.x] = tile[4 * threadIdx.x] + tile[4 * threadIdx.x + 3]; // MARK copy_of_half
}

extern "C" __global__ void race_between_blocks(int* out) {
    out[threadIdx.x] = blockIdx.x; // MARK race_between_blocks
}

// Two warps, no barrier between the write and the read, and between the read and the write.
extern "C" __global__ void race_in_global_memory(int* data, int* out) {
    data[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = data[threadIdx.x ^ 32]; // MARK race_in_global_memory
}

extern "C" __global__ void race_after_global_read(int* data, int* out) {
    data[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = data[threadIdx.x ^ 32];
    data[threadIdx.x] = 0; // MARK race_after_global_read
}

extern "C" __global__ void race_with_neighbour(const int* in, int* data) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    data[i + 1] = in[0] + data[i]; // MARK race_with_neighbour
}

// Two blocks count in the halves of words: of 2 halves each has its own, 1 both share.
extern "C" __global__ void race_on_halves(unsigned short* data, int halves) {
    int i = 2 * threadIdx.x + blockIdx.x % halves;
    data[i] = data[i] + 1; // MARK race_on_halves
}

// The same by two warps of a block.
extern "C" __global__ void race_of_warps_on_halves(unsigned short* data, int halves) {
    int i = 2 * (threadIdx.x % 32) + threadIdx.x / 32 % halves;
    data[i] = data[i] + 1; // MARK race_of_warps_on_halves
}

// The last block to arrive reads the others' sums, which no fence has published.
extern "C" __global__ void race_without_fence(int* partial, unsigned* ticket, int* out) {
    if (threadIdx.x != 0) return;
    partial[blockIdx.x] = 1;
    if (atomicAdd(ticket, 1u) == gridDim.x - 1) {
        int total = 0;
        for (int i = 0; i < gridDim.x; ++i) total += partial[i]; // MARK race_without_fence
        *out = total;
    }
}

extern "C" __global__ void barrier_in_a_branch(int* out) {
    if (threadIdx.x % 2 == 0) __syncthreads(); // MARK barrier_in_a_branch
    out[threadIdx.x] = 1;
    __syncthreads();
}

extern "C" __global__ void barrier_of_some_warps(int* out) {
    if (threadIdx.x < 32)
        asm volatile("bar.sync 1, 128;" ::: "memory"); // MARK barrier_of_some_warps
    else
        asm volatile("bar.sync 2, 128;" ::: "memory");
    out[threadIdx.x] = 1;
}

extern "C" __global__ void shuffle_of_half_a_warp(int* out) {
    int value = threadIdx.x;
    if (threadIdx.x % 32 < 16) value += __shfl_xor_sync(0xffffffffu, value, 1); // MARK shuffle_of_half_a_warp
    out[threadIdx.x] = value;
}

extern "C" __global__ void shuffle_from_outside(int* out) {
    int value = threadIdx.x;
    if (threadIdx.x % 32 < 16) value += __shfl_xor_sync(0xffffu, value, 16); // MARK shuffle_from_outside
    out[threadIdx.x] = value;
}

extern "C" __global__ void assertion(const int* in) {
    assert(in[threadIdx.x] == 0); // MARK assertion
}

extern "C" __global__ void endless(volatile int* flag) {
    while (*flag == 0) {}
}

// No faults, but slow: columns of a square without padding, and rows of one element a sector.
extern "C" __global__ void slow_columns(const float* in, float* out) {
    __shared__ float square[32][32];
    for (int row = 0; row < 32; ++row) square[row][threadIdx.x] = in[32 * row + threadIdx.x];
    __syncthreads();
    float sum = 0.0f;
    for (int column = 0; column < 32; ++column) sum += square[threadIdx.x][column];
    out[8 * threadIdx.x] = sum;
}

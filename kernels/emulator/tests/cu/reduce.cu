// Sums: by shuffles and shared memory in a block, by an atomic or by the last block to arrive across blocks.
__device__ __forceinline__ float warp_sum(float v) {
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

__device__ float block_sum(float v) {
    __shared__ float partial[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    v = warp_sum(v);
    if (lane == 0) partial[warp] = v;
    __syncthreads();
    v = threadIdx.x < blockDim.x / 32 ? partial[lane] : 0.0f;
    return warp == 0 ? warp_sum(v) : 0.0f;
}

extern "C" __global__ void sum_atomic(int n, const float* x, float* out) {
    float v = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    v = block_sum(v);
    if (threadIdx.x == 0) atomicAdd(out, v);
}

// Deterministic: the block that draws the last ticket adds the partial sums in order.
extern "C" __global__ void sum_last_block(int n, const float* x, float* partial, unsigned* ticket, float* out) {
    float v = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    v = block_sum(v);
    __shared__ bool last;
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = v;
        __threadfence();
        last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        float total = 0.0f;
        __threadfence();
        for (int i = 0; i < gridDim.x; ++i) total += partial[i];
        *out = total;
    }
}

// One row a warp: softmax, and through votes and redux how many entries beat the threshold and the largest index of them.
extern "C" __global__ void softmax_rows(int rows, int columns, const float* x, float* y, float threshold, int* count, unsigned* largest) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += (long long)row * columns;
    y += (long long)row * columns;
    float peak = -INFINITY;
    for (int c = lane; c < columns; c += 32) peak = fmaxf(peak, x[c]);
    for (int offset = 16; offset > 0; offset /= 2) peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, offset));
    float total = 0.0f;
    int above = 0;
    unsigned last = 0;
    for (int base = 0; base < columns; base += 32) {
        int c = base + lane;
        bool hit = c < columns && x[c] > threshold;
        above += __popc(__ballot_sync(0xffffffffu, hit));
        if (hit) last = c;
        if (c < columns) total += expf(x[c] - peak);
    }
    total = warp_sum(total);
    for (int c = lane; c < columns; c += 32) y[c] = expf(x[c] - peak) / total;
    last = __reduce_max_sync(0xffffffffu, last);
    if (lane == 0) {
        count[row] = above;
        largest[row] = last;
    }
}

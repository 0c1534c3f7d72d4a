// Token embeddings: rows of a table, and the table's gradient.
//
// Forward: a block a token, threads along the row. Bytes: a row of the table in its dtype and one of f32. Limit: memory
// bandwidth.
//
// Backward: a block a token; the first token with an id sums the gradients of all tokens with that id in their order, the
// other blocks leave. So each row of the table has one writer, and its sum has one order. Bytes: dy once, each row of
// dtable that occurs twice; T^2 / 2 comparisons of ids, from L2, on top. Limit: memory bandwidth while T is some thousands.

#include "common.cuh"

template <typename T>
__device__ void embedding(const uint32_t* ids, const T* table, float* y, uint32_t cols, float factor) {
    const uint64_t row = blockIdx.x;
    const T* from = table + static_cast<uint64_t>(ids[row]) * cols;
    float* to = y + row * cols;
    for (uint32_t i = threadIdx.x; i < cols; i += blockDim.x) to[i] = factor * load(from + i);
}

#define EMBEDDING(name, T)                                                                                         \
    extern "C" __global__ void embedding_##name(const uint32_t* ids, const T* table, float* y, uint32_t cols,      \
                                                float factor) {                                                    \
        embedding(ids, table, y, cols, factor);                                                                    \
    }

FOR_EACH_TYPE(EMBEDDING)

// dtable[v] += factor * sum_{t: ids[t] = v} dy[t]
extern "C" __global__ void embedding_backward(const uint32_t* ids, const float* dy, float* dtable, uint32_t tokens,
                                              uint32_t cols, float factor) {
    // A bit for each of the block's next tokens: has it our id?
    __shared__ unsigned equal[8];
    const uint32_t first = blockIdx.x, id = ids[first];
    bool earlier = false;
    for (uint32_t t = threadIdx.x; t < first; t += blockDim.x) earlier |= ids[t] == id;
    if (__syncthreads_or(earlier)) return;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    // Columns in turns, so that any number of them can be summed in a register a thread.
    for (uint32_t start = 0; start < cols; start += blockDim.x) {
        const uint32_t column = start + threadIdx.x;
        float* to = dtable + static_cast<uint64_t>(id) * cols + column;
        float sum = column < cols ? *to : 0.0f;
        for (uint32_t base = first; base < tokens; base += blockDim.x) {
            const uint32_t t = base + threadIdx.x;
            const unsigned mask = __ballot_sync(ALL_LANES, t < tokens && ids[t] == id);
            if (lane == 0) equal[warp] = mask;
            __syncthreads();
            for (uint32_t w = 0; w < blockDim.x / WARP; ++w) {
                for (unsigned rest = equal[w]; rest != 0; rest &= rest - 1) {
                    const uint64_t row = base + w * WARP + __ffs(static_cast<int>(rest)) - 1;
                    if (column < cols) sum += factor * dy[row * cols + column];
                }
            }
            __syncthreads();
        }
        if (column < cols) *to = sum;
    }
}

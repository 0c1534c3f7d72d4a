// Rows by number, and sums over rows.
//
// gather and scatter: a block a picked row, threads along it; 8 bytes an element. add_up_rows: a thread a column, all rows
// in order; 4 bytes an element. sum_rows: a thread a column and a part of the rows. Limit: memory bandwidth.

#include "common.cuh"

// y[i] = x[rows[i]]
extern "C" __global__ void gather_rows(const float* x, const uint32_t* rows, float* y, uint32_t cols) {
    const float* from = x + static_cast<uint64_t>(rows[blockIdx.x]) * cols;
    float* to = y + static_cast<uint64_t>(blockIdx.x) * cols;
    for (uint32_t i = threadIdx.x; i < cols; i += blockDim.x) to[i] = from[i];
}

// x[rows[i]] = y[i]
extern "C" __global__ void scatter_rows(const float* y, const uint32_t* rows, float* x, uint32_t cols) {
    const float* from = y + static_cast<uint64_t>(blockIdx.x) * cols;
    float* to = x + static_cast<uint64_t>(rows[blockIdx.x]) * cols;
    for (uint32_t i = threadIdx.x; i < cols; i += blockDim.x) to[i] = from[i];
}

// sums[p][c] = sum of x[r][c] over the p-th `part` rows, in order. Grid: (columns, parts).
template <typename T> __device__ void sum_rows(const T* x, float* sums, uint32_t rows, uint32_t cols, uint32_t part) {
    const uint32_t column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= cols) return;
    const uint32_t start = blockIdx.y * part, end = min(rows, start + part);
    float sum = 0.0f;
    for (uint32_t r = start; r < end; ++r) sum += load(x + static_cast<uint64_t>(r) * cols + column);
    sums[static_cast<uint64_t>(blockIdx.y) * cols + column] = sum;
}

// total[c] += sum_r x[r][c], in order.
template <typename T> __device__ void add_up_rows(const T* x, float* total, uint32_t rows, uint32_t cols) {
    const uint32_t column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= cols) return;
    float sum = total[column];
    for (uint32_t r = 0; r < rows; ++r) sum += load(x + static_cast<uint64_t>(r) * cols + column);
    total[column] = sum;
}

#define SUM_ROWS(name, T)                                                                                                \
    extern "C" __global__ void sum_rows_##name(const T* x, float* sums, uint32_t rows, uint32_t cols, uint32_t part) {   \
        sum_rows(x, sums, rows, cols, part);                                                                             \
    }                                                                                                                    \
    extern "C" __global__ void add_up_rows_##name(const T* x, float* total, uint32_t rows, uint32_t cols) {              \
        add_up_rows(x, total, rows, cols);                                                                               \
    }

FOR_EACH_ACTIVATION(SUM_ROWS)

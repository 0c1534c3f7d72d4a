// A block's tile of a product on tensor cores: bf16 operands, f32 sums, mma.sync m16n8k16, cp.async in three stages.
//
// 32 MT x 128 outputs by 8 warps (2 x 4, each 16 MT x 32), 32 deep a step. A step at MT = 4 copies 16 KB and makes 1 MFLOP of
// it: 64 FLOP a byte from L2. A warp loads MT + 2 fragments of 512 bytes for 4 MT mma: at MT = 4 24 cycles of shared memory
// for 32 of the tensor cores of an SM (1024 FMA and 128 bytes a cycle), so bound by mma.sync; at MT = 2 both meet.
//
// Each output is one chain of mma in the order of k: its bits depend on its row and its column alone.
#pragma once
#include "tile.cuh"

namespace mma_product {

constexpr int THREADS = 256, COLUMNS = 128, DEPTH = 32, STAGES = 3;

// One operand of SIZE rows (or columns) of the output, in shared memory either along k, [SIZE][DEPTH], or across it,
// [DEPTH][SIZE]. 16 bytes of padding a line put the 8 lines of an ldmatrix in different banks.
template <int SIZE, bool ALONG_K>
struct Operand {
    static constexpr int LINE = ALONG_K ? DEPTH : SIZE, LINES = ALONG_K ? SIZE : DEPTH, PITCH = LINE + 8;
    static constexpr int ELEMENTS = LINES * PITCH;

    // `source.line(line)` is a line's start in global memory, or null past the end; `source.length` how long it is, in
    // elements from there on; a multiple of 8. `k0` moves along the lines, or from line to line.
    template <class Source>
    __device__ __forceinline__ static void copy(__nv_bfloat16* tile, const Source& source, int k0) {
#pragma unroll
        for (int i = threadIdx.x; i < LINES * LINE / 8; i += THREADS) {
            int line = i / (LINE / 8), at = i % (LINE / 8) * 8;
            const __nv_bfloat16* start = source.line(ALONG_K ? line : k0 + line);
            int offset = ALONG_K ? k0 + at : at;
            bool valid = start != nullptr && offset < source.length;
            copy_async(tile + line * PITCH + at, valid ? start + offset : source.data, valid);
        }
    }

    // The A fragment of rows row0 .. + 15 and k .. + 15.
    __device__ __forceinline__ static void fragment_a(uint32_t (&a)[4], const __nv_bfloat16* tile, int row0, int k) {
        int lane = threadIdx.x % 32;
        if (ALONG_K)
            load_matrix_x4(a, tile + (row0 + lane % 16) * PITCH + k + lane / 16 * 8);
        else
            load_matrix_x4_trans(a, tile + (k + lane / 16 * 8 + lane % 8) * PITCH + row0 + lane / 8 % 2 * 8);
    }

    // The B fragments of columns column0 .. + 7 (b[0], b[1]) and column0 + 8 .. + 15 (b[2], b[3]).
    __device__ __forceinline__ static void fragment_b(uint32_t (&b)[4], const __nv_bfloat16* tile, int column0, int k) {
        int lane = threadIdx.x % 32;
        if (ALONG_K)
            load_matrix_x4(b, tile + (column0 + lane / 16 * 8 + lane % 8) * PITCH + k + lane / 8 % 2 * 8);
        else
            load_matrix_x4_trans(b, tile + (k + lane % 16) * PITCH + column0 + lane / 16 * 8);
    }
};

// Rows first .. of a row-major matrix of `rows` rows, along k: lines are its rows, `length` = k in all.
struct Rows {
    const __nv_bfloat16* data;
    int first, rows, length;

    __device__ __forceinline__ const __nv_bfloat16* line(int line) const {
        return first + line < rows ? data + static_cast<size_t>(first + line) * length : nullptr;
    }
};

// Columns first .. of a row-major matrix of `rows` rows, `pitch` elements apart: lines are its rows, which are k; `length`
// is what is left of a row from `first` on.
struct Columns {
    const __nv_bfloat16* data;
    int first, rows, pitch, length;

    __device__ __forceinline__ const __nv_bfloat16* line(int line) const {
        return line < rows ? data + static_cast<size_t>(line) * pitch + first : nullptr;
    }
};

template <int MT, bool A_ALONG_K, bool B_ALONG_K>
struct Product {
    static constexpr int ROWS = 32 * MT;
    using A = Operand<ROWS, A_ALONG_K>;
    using B = Operand<COLUMNS, B_ALONG_K>;
    static constexpr int STAGE = A::ELEMENTS + B::ELEMENTS, SHARED = STAGES * STAGE * sizeof(__nv_bfloat16);
    // [16-row tile][8-column tile][row half * 2 + column]
    using Sums = float[MT][4][4];

    // Where in the block's tile the thread's sums lie.
    __device__ __forceinline__ static int warp_column() { return threadIdx.x / 32 % 4; }
    __device__ __forceinline__ static int row(int i, int half) {
        return threadIdx.x / 128 * 16 * MT + i * 16 + half * 8 + threadIdx.x % 32 / 4;
    }
    __device__ __forceinline__ static int column(int j) { return warp_column() * 32 + j * 8 + threadIdx.x % 4 * 2; }

    // sums = a b^T over k below `depth`.
    template <class SourceA, class SourceB>
    __device__ __forceinline__ static void multiply(
        Sums& sums, __nv_bfloat16* shared, int depth, const SourceA& a, const SourceB& b) {
        int steps = (depth + DEPTH - 1) / DEPTH;
        auto copy = [&](int step) {
            if (step < steps) {
                __nv_bfloat16* stage = shared + step % STAGES * STAGE;
                A::copy(stage, a, step * DEPTH);
                B::copy(stage + A::ELEMENTS, b, step * DEPTH);
            }
            copy_commit();
        };
#pragma unroll
        for (int i = 0; i < MT; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;
        // Everyone is done with the stages of the product before.
        __syncthreads();
#pragma unroll
        for (int step = 0; step < STAGES - 1; ++step) copy(step);
        for (int step = 0; step < steps; ++step) {
            copy_wait<STAGES - 2>();
            // The step's stage has landed for everyone, and everyone is done with the stage that is filled next.
            __syncthreads();
            copy(step + STAGES - 1);
            const __nv_bfloat16* stage = shared + step % STAGES * STAGE;
#pragma unroll
            for (int k = 0; k < DEPTH; k += 16) {
                uint32_t fa[MT][4], fb[2][4];
#pragma unroll
                for (int i = 0; i < MT; ++i) A::fragment_a(fa[i], stage, threadIdx.x / 128 * 16 * MT + i * 16, k);
#pragma unroll
                for (int j = 0; j < 2; ++j) B::fragment_b(fb[j], stage + A::ELEMENTS, warp_column() * 32 + j * 16, k);
#pragma unroll
                for (int i = 0; i < MT; ++i)
#pragma unroll
                    for (int j = 0; j < 4; ++j) mma_bf16(sums[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
            }
        }
        // No copy of this product is under way when its shared memory serves something else.
        copy_wait<0>();
    }

    // Gives every row the state of nothing seen. Spelled out: of the default member initializers of an array of two
    // dimensions, nvcc 13.0 applies those of the first line alone, and leaves the other lines' maxima 0.
    template <class State>
    __device__ __forceinline__ static void begin_rows(State (&state)[MT][2]) {
#pragma unroll
        for (int i = 0; i < MT; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) state[i][half] = State{};
    }

    // Merges what the threads know of each row, in order, into `out[row0 ..]`, below `rows`: a row is spread over 4 lanes
    // of 4 warps. `shared` holds a state for each of them.
    template <class State>
    __device__ __forceinline__ static void merge_rows(
        State (&state)[MT][2], __nv_bfloat16* shared, State* out, int row0, int rows) {
        constexpr int ROWS = 32 * MT;
        State* exchange = reinterpret_cast<State*>(shared);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < MT; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                state[i][half].merge(state[i][half].shuffled(1));
                state[i][half].merge(state[i][half].shuffled(2));
                if (threadIdx.x % 4 == 0) exchange[warp_column() * ROWS + row(i, half)] = state[i][half];
            }
        __syncthreads();
        int r = row0 + threadIdx.x;
        if (threadIdx.x >= ROWS || r >= rows) return;
        State whole = exchange[threadIdx.x];
        for (int warp = 1; warp < 4; ++warp) whole.merge(exchange[warp * ROWS + threadIdx.x]);
        out[r] = whole;
    }

    // Adds the tile to (or writes it into) a row-major matrix of f32.
    __device__ __forceinline__ static void store(
        const Sums& sums, float* out, int row0, int rows, int column0, int columns, bool add) {
#pragma unroll
        for (int i = 0; i < MT; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    int r = row0 + row(i, half), c = column0 + column(j);
                    // `columns` is a multiple of 8: both of a pair are inside or outside.
                    if (r >= rows || c >= columns) continue;
                    float2* target = reinterpret_cast<float2*>(out + static_cast<size_t>(r) * columns + c);
                    float2 value = add ? *target : make_float2(0.0f, 0.0f);
                    *target = make_float2(value.x + sums[i][j][2 * half], value.y + sums[i][j][2 * half + 1]);
                }
    }
};

// Stores a pair of neighbouring columns in bf16.
__device__ __forceinline__ void store_pair(__nv_bfloat16* target, float low, float high) {
    *reinterpret_cast<uint32_t*>(target) = pack_bf16(low, high);
}

}  // namespace mma_product

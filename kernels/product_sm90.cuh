// A block's tile of a product on Hopper's tensor cores: bf16 operands along k, f32 sums, wgmma m64n256k16, sm_90a alone.
//
// 128 x 256 outputs: warpgroup 0 copies operands to a ring of four stages of 64 along k, warpgroups 1 and 2 multiply 64 rows
// each. A stage copies 48 KB and makes 4.2 MFLOP of it: 85 FLOP a byte from L2 (64 for product_mma.cuh), 1024 cycles of the
// tensor cores of an SM (2048 FMA a cycle). Limit: L2, which would have to bring 48 bytes an SM and cycle to keep them busy;
// then the copies, 24 of 16 bytes a thread and stage. 192 KB of shared memory: one block an SM.
//
// Order, by two barriers a stage. `full`: each warp of warpgroup 0 has waited for its copies, fenced them for wgmma, and
// arrived; whoever multiplies waits for it. `empty`: each of the eight warps that multiply has waited for its products from
// the stage; whoever copies over it waits for that. Copies are waited for two stages late, so that three are under way.
//
// Each output is one chain of wgmma in the order of k: its bits depend on its row and its column alone.
#pragma once
#include "hopper.cuh"

namespace wgmma_product {

constexpr int ROWS = 128, COLUMNS = 256, DEPTH = 64, STAGES = 4, LATE = 2;
constexpr int THREADS = 3 * WARPGROUP;
// Registers a thread of who copies and of who multiplies: 40 x 128 + 232 x 256 of 65536. Of 56 and 224 ptxas spills.
constexpr int COPY_REGISTERS = 40, MULTIPLY_REGISTERS = 232;
constexpr int A_BYTES = ROWS * DEPTH * 2, STAGE = A_BYTES + COLUMNS * DEPTH * 2;

// The sums of a thread, as wgmma_256 lays them out.
using Sums = float[128];

// Rows first .. of a row-major matrix of `rows` rows of `length` elements, a multiple of 8.
struct Rows {
    const __nv_bfloat16* data;
    int first, rows, length;

    __device__ __forceinline__ const __nv_bfloat16* line(int line) const {
        return first + line < rows ? data + static_cast<size_t>(first + line) * length : nullptr;
    }
};

struct Ring {
    unsigned char* stages;
    Mbarrier *full, *empty;
    int stage = 0;
    uint32_t phase = 0;

    // For all threads of the block. `shared` has SHARED bytes.
    static constexpr int SHARED = 1024 + STAGES * STAGE + 2 * STAGES * sizeof(Mbarrier);

    __device__ __forceinline__ explicit Ring(unsigned char* shared) {
        // Swizzled tiles begin on multiples of 1024.
        uint32_t start = shared_address(shared);
        stages = shared + ((start + 1023) / 1024 * 1024 - start);
        full = reinterpret_cast<Mbarrier*>(stages + STAGES * STAGE);
        empty = full + STAGES;
        if (threadIdx.x < STAGES) {
            full[threadIdx.x].init(WARPGROUP / WARP);
            empty[threadIdx.x].init(2 * WARPGROUP / WARP);
        }
        __syncthreads();
    }

    __device__ __forceinline__ void advance() {
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        phase ^= stage == 0;
    }
};

// One arrival for the warp, of what all its lanes did.
__device__ __forceinline__ void arrive_warp(Mbarrier& barrier) {
    __syncwarp();
    if (threadIdx.x % WARP == 0) barrier.arrive();
}

__device__ __forceinline__ bool copies() { return threadIdx.x < WARPGROUP; }

// What warpgroup 0 does.
struct Copier {
    Ring ring;
    int begun = 0;

    template <int LINES, class Source>
    __device__ __forceinline__ static void copy(unsigned char* tile, const Source& source, int k0) {
        int vector = threadIdx.x % 8, offset = k0 + vector * 8;
#pragma unroll 4
        for (int i = 0; i < LINES; i += WARPGROUP / 8) {
            int line = i + threadIdx.x / 8;
            const __nv_bfloat16* start = source.line(line);
            bool valid = start != nullptr && offset < source.length;
            copy_async(tile + wgmma_place(line, vector), valid ? start + offset : source.data, valid);
        }
    }

    // The stage that was begun `late` stages before the present one has landed: it is handed over.
    __device__ __forceinline__ void hand_over(int late) {
        fence_for_wgmma();
        arrive_warp(ring.full[(ring.stage + STAGES - late) % STAGES]);
    }

    // Operands of one product, k below `depth`.
    template <class SourceA, class SourceB>
    __device__ __forceinline__ void fill(int depth, const SourceA& a, const SourceB& b) {
        for (int k0 = 0; k0 < depth; k0 += DEPTH) {
            ring.empty[ring.stage].wait(ring.phase ^ 1);
            unsigned char* stage = ring.stages + ring.stage * STAGE;
            copy<ROWS>(stage, a, k0);
            copy<COLUMNS>(stage + A_BYTES, b, k0);
            copy_commit();
            if (begun >= LATE) {
                copy_wait<LATE>();
                hand_over(LATE);
            } else {
                ++begun;
            }
            ring.advance();
        }
    }

    // Hands over what is still under way.
    __device__ __forceinline__ void finish() {
        copy_wait<0>();
        for (int late = begun; late > 0; --late) hand_over(late);
    }
};

// What warpgroups 1 and 2 do.
struct Multiplier {
    Ring ring;

    // Where in the block's tile the thread's sums lie.
    __device__ __forceinline__ static int row(int half) {
        int thread = threadIdx.x - WARPGROUP;
        return thread / 32 * 16 + half * 8 + thread % 32 / 4;
    }
    __device__ __forceinline__ static int column(int j) { return j * 8 + threadIdx.x % 4 * 2; }

    // sums = a b^T over k below `depth`.
    __device__ __forceinline__ void multiply(Sums& sums, int depth) {
        int own_rows = (threadIdx.x / WARPGROUP - 1) * 64 * DEPTH * 2, before = 0;
        for (int k0 = 0; k0 < depth; k0 += DEPTH) {
            ring.full[ring.stage].wait(ring.phase);
            uint32_t stage = shared_address(ring.stages) + ring.stage * STAGE;
            uint64_t a = wgmma_descriptor(stage + own_rows), b = wgmma_descriptor(stage + A_BYTES);
            wgmma_fence();
#pragma unroll
            for (int step = 0; step < DEPTH / 16; ++step) wgmma_256(sums, a + 2 * step, b + 2 * step, k0 + step > 0);
            wgmma_commit();
            // The products of the stage before are done: it may be filled again.
            wgmma_wait<1>();
            if (k0 > 0) arrive_warp(ring.empty[before]);
            before = ring.stage;
            ring.advance();
        }
        wgmma_wait<0>();
        arrive_warp(ring.empty[before]);
    }
};

}  // namespace wgmma_product

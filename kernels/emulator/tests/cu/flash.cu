// Causal attention forward, head_dim D, bf16 in and out, one block of 64 queries (4 warps of 16) of one head; keys in tiles
// of 64, double-buffered by cp.async, online softmax in registers, P V by mma on P kept in registers.
#include "tile.cuh"

template <int D>
__device__ __forceinline__ void load_rows(__nv_bfloat16* tile, const __nv_bfloat16* source, int row0, int rows) {
    constexpr int PITCH = D + 8;
    for (int i = threadIdx.x; i < 64 * D / 8; i += 128) {
        int row = i / (D / 8), column = i % (D / 8) * 8;
        bool valid = row0 + row < rows;
        copy_async(tile + row * PITCH + column, valid ? source + (size_t)(row0 + row) * D + column : source, valid);
    }
}

// q, k, v, o: [heads, length, D]; log_sum: [heads, length].
template <int D>
__device__ __forceinline__ void flash(int length, float scale, const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, __nv_bfloat16* o, float* log_sum) {
    constexpr int PITCH = D + 8, TILE = 64 * PITCH;
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    __nv_bfloat16 *q_tile = shared, *k_tile = shared + TILE, *v_tile = shared + 3 * TILE;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, query0 = blockIdx.x * 64;
    size_t head = (size_t)blockIdx.y * length * D;
    q += head, k += head, v += head, o += head, log_sum += (size_t)blockIdx.y * length;

    load_rows<D>(q_tile, q, query0, length);
    load_rows<D>(k_tile, k, 0, length);
    load_rows<D>(v_tile, v, 0, length);
    copy_commit();

    uint32_t fq[D / 16][4];
    float out[D / 8][4] = {}, peak[2] = {-INFINITY, -INFINITY}, total[2] = {};
    float scale_log2 = scale * 1.4426950408889634f;
    int tiles = (min(query0 + 64, length) + 63) / 64;
    for (int tile = 0; tile < tiles; ++tile) {
        int now = tile % 2;
        if (tile + 1 < tiles) {
            load_rows<D>(k_tile + (1 - now) * TILE, k, (tile + 1) * 64, length);
            load_rows<D>(v_tile + (1 - now) * TILE, v, (tile + 1) * 64, length);
        }
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        if (tile == 0) {
#pragma unroll
            for (int d = 0; d < D / 16; ++d) load_matrix_x4(fq[d], q_tile + (warp * 16 + lane % 16) * PITCH + d * 16 + lane / 16 * 8);
        }
        float s[8][4] = {};
#pragma unroll
        for (int d = 0; d < D / 16; ++d)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                uint32_t fk[4];
                load_matrix_x4(fk, k_tile + now * TILE + (j * 16 + lane % 8 + lane / 16 * 8) * PITCH + d * 16 + lane / 8 % 2 * 8);
                mma_bf16(s[2 * j], fq[d], fk[0], fk[1]);
                mma_bf16(s[2 * j + 1], fq[d], fk[2], fk[3]);
            }
        bool edge = tile * 64 + 63 > query0 + warp * 16;
        float next[2] = {peak[0], peak[1]};
#pragma unroll
        for (int j = 0; j < 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int key = tile * 64 + j * 8 + lane % 4 * 2 + e % 2, query = query0 + warp * 16 + lane / 4 + e / 2 * 8;
                s[j][e] = edge && (key > query || key >= length) ? -INFINITY : s[j][e] * scale_log2;
                next[e / 2] = fmaxf(next[e / 2], s[j][e]);
            }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            next[h] = fmaxf(next[h], __shfl_xor_sync(0xffffffffu, next[h], 1));
            next[h] = fmaxf(next[h], __shfl_xor_sync(0xffffffffu, next[h], 2));
            float shrink = exp2f(peak[h] - next[h]);
            peak[h] = next[h];
            total[h] *= shrink;
#pragma unroll
            for (int d = 0; d < D / 8; ++d) out[d][2 * h] *= shrink, out[d][2 * h + 1] *= shrink;
        }
#pragma unroll
        for (int j = 0; j < 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                s[j][e] = exp2f(s[j][e] - peak[e / 2]);
                total[e / 2] += s[j][e];
            }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            uint32_t fp[4] = {pack_bf16(s[2 * j][0], s[2 * j][1]), pack_bf16(s[2 * j][2], s[2 * j][3]),
                              pack_bf16(s[2 * j + 1][0], s[2 * j + 1][1]), pack_bf16(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
            for (int d = 0; d < D / 16; ++d) {
                uint32_t fv[4];
                load_matrix_x4_trans(fv, v_tile + now * TILE + (j * 16 + lane % 16) * PITCH + d * 16 + lane / 16 * 8);
                mma_bf16(out[2 * d], fp, fv[0], fv[1]);
                mma_bf16(out[2 * d + 1], fp, fv[2], fv[3]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
        total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
        int query = query0 + warp * 16 + lane / 4 + h * 8;
        if (query >= length) continue;
        float inverse = 1.0f / total[h];
#pragma unroll
        for (int d = 0; d < D / 8; ++d) {
            uint32_t pair = pack_bf16(out[d][2 * h] * inverse, out[d][2 * h + 1] * inverse);
            *reinterpret_cast<uint32_t*>(o + (size_t)query * D + d * 8 + lane % 4 * 2) = pair;
        }
        if (lane % 4 == 0) log_sum[query] = (peak[h] + log2f(total[h])) * 0.6931471805599453f;
    }
}

extern "C" __global__ void __launch_bounds__(128) flash_64(int length, float scale, const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, __nv_bfloat16* o, float* log_sum) {
    flash<64>(length, scale, q, k, v, o, log_sum);
}
extern "C" __global__ void __launch_bounds__(128) flash_128(int length, float scale, const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, __nv_bfloat16* o, float* log_sum) {
    flash<128>(length, scale, q, k, v, o, log_sum);
}

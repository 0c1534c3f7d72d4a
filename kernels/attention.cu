// Causal attention over ragged batches, forward (src/ops/attention): o_i = sum_j softmax_j(softcap(scale q_i . k_j)) v_j.
//
// A block has 32 rows of one key/value head of one sequence, where a row is a (position, query head) pair: the heads that
// share keys read them once. It walks over blocks of 32 keys from a fixed boundary, so that a row's sums have the same order
// in a prefill, a decode step and any batch; the scores live in shared memory for one block of keys only. After every SPLIT
// keys the softmax is closed and merged into that of the keys before (attention.cuh), which costs local memory 4 D bytes a
// row each way, once for SPLIT x 4 D FLOP a row.
//
// A block of keys at depth D: 64 D elements read, 2 x 2 x 32 x 32 D FLOP: at D = 128 32 KB and 0.5 MFLOP, 16 FLOP a byte
// from L2. In f32 it is bound by shared memory (a float4 of each operand for 4 FMAs an output), at best half of the FP32
// peak: the path of f32 tensors. bf16 tensors go to the tensor cores (attention_mma.cuh), 64 rows and 64 keys at a time.
#include "attention_fma.cuh"
#include "attention_mma.cuh"

#define FORWARD(DEPTH) \
    extern "C" __global__ void __launch_bounds__(attention_fma::THREADS, attention_fma::BLOCKS<DEPTH>) attention_f32_##DEPTH( \
        LAYER_PARAMETERS, int count, const uint32_t* offsets, const float* q, const float* k, const float* v, float* out, \
        float* lse) { \
        Layer layer = LAYER; \
        RowTile tile; \
        if (!tile.find<32>(offsets, count, layer.group, blockIdx.x)) return; \
        int head = blockIdx.y; \
        RaggedKeys<float> keys{k, tile.base, layer.shared_heads(), head, layer.depth}; \
        RaggedKeys<float> values{v, tile.base, layer.shared_heads(), head, layer.depth}; \
        attention_fma::forward<DEPTH>(layer, tile, 0, head, q, keys, values, out, lse); \
    }

FORWARD(64)
FORWARD(128)
FORWARD(256)

#define FORWARD_MMA(DEPTH) \
    extern "C" __global__ void __launch_bounds__(attention_mma::THREADS) attention_bf16_##DEPTH( \
        LAYER_PARAMETERS, int count, const uint32_t* offsets, const __nv_bfloat16* q, const __nv_bfloat16* k, \
        const __nv_bfloat16* v, __nv_bfloat16* out, float* lse) { \
        Layer layer = LAYER; \
        RowTile tile; \
        if (!tile.find<attention_mma::TILE>(offsets, count, layer.group, blockIdx.x)) return; \
        int head = blockIdx.y; \
        RaggedKeys<__nv_bfloat16> keys{k, tile.base, layer.shared_heads(), head, layer.depth}; \
        RaggedKeys<__nv_bfloat16> values{v, tile.base, layer.shared_heads(), head, layer.depth}; \
        attention_mma::forward<DEPTH>(layer, tile, 0, head, q, keys, values, out, lse); \
    }

FORWARD_MMA(64)
FORWARD_MMA(128)
FORWARD_MMA(256)

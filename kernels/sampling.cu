// Choosing a token a row (src/ops/sampling): repetition penalty, temperature, top-k, top-p, one draw; no sort.
//
// A block a row. The k-th largest logit is found by radix selection: four passes that each count one byte of the logits'
// order-preserving keys among those that share the bytes found so far. Top-p is the same descent over sums of weights
// exp(z - max) in place of counts. The draw walks over the kept tokens in their order: each warp has a stretch of the
// vocabulary, the warp whose stretch holds the random number looks for the token.
//
// Weights are whole numbers of 2^-44, so that sums are exact in any order: the result depends neither on the number of
// threads nor on how atomics fall. A vocabulary of 2^18 sums to 2^62 at most; what is below 2^-44 of the largest weight
// counts as 0, where the CPU's f32 exponential goes on.
//
// Bytes: the logits are read up to 11 times from L2 (penalty 0, greedy 1, top-k 4, top-p 4, draw 2) and written once; at a
// vocabulary of 128k that is 5.6 MB a row, bound by what one SM reads from L2.
#include "common.cuh"

constexpr int THREADS = 1024, WARPS = THREADS / 32;
// 2^44: see above.
constexpr float WEIGHT_UNITS = 17592186044416.0f;
using Weight = unsigned long long;

// What a row is sampled with; src/ops/sampling/cuda.rs has the same fields.
struct Row {
    float temperature;
    // 0: off.
    int top_k;
    // 1: off.
    float top_p;
    float repetition_penalty;
    float uniform;
    // The tokens so far are [history_start, history_end) of all rows' tokens.
    int history_start, history_end;
};

// Unsigned integers in the order of floats; both zeros are one key.
__device__ __forceinline__ uint32_t key_of(float z) {
    uint32_t bits = __float_as_uint(z + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ Weight weight_of(float z, float max) { return static_cast<Weight>(expf(z - max) * WEIGHT_UNITS); }

// A value of every warp, seen by all threads.
template <class T>
struct Exchange {
    T values[WARPS];

    __device__ __forceinline__ void publish(T value) {
        __syncthreads();
        if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value;
        __syncthreads();
    }
};

// Sum over this lane and the lanes before it.
template <class T>
__device__ __forceinline__ T warp_scan(T value) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
        T before = __shfl_up_sync(ALL_LANES, value, lanes);
        if (lane >= lanes) value += before;
    }
    return value;
}

struct Shared {
    // One counter (or sum of weights) a byte.
    Weight bins[256];
    Exchange<Weight> weights;
    Exchange<uint32_t> tokens;
    Exchange<float> logits;
    // What one thread found, for all.
    uint32_t digit;
    Weight before;
    int token;
};

// One byte of the radix descent: the bin in which the sum of `amounts` of keys, from the least (or the largest) key on,
// passes `target`; `before` is the sum of the bins passed. `amount(z)` is what a token counts. All threads have left the
// results of one descent before the next writes its own: two barriers lie between. A thread reads the logits that it wrote.
template <class Amount>
__device__ __forceinline__ void descend(
    Shared& shared, const float* logits, int vocab, uint32_t prefix, int shift, bool from_largest, Weight target,
    Amount amount) {
    for (int i = threadIdx.x; i < 256; i += THREADS) shared.bins[i] = 0;
    __syncthreads();
    for (int v = threadIdx.x; v < vocab; v += THREADS) {
        uint32_t key = key_of(logits[v]);
        // The bytes above `shift + 8` must be the prefix's; at the top there are none.
        if (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8)) atomicAdd(&shared.bins[key >> shift & 255], amount(logits[v]));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        Weight sum = 0;
        int last = -1;
        for (int i = 0; i < 256; ++i) {
            int bin = from_largest ? 255 - i : i;
            if (shared.bins[bin] == 0) continue;
            last = bin;
            if (sum + shared.bins[bin] > target) break;
            sum += shared.bins[bin];
        }
        shared.digit = last;
        shared.before = sum;
    }
    __syncthreads();
}

// The first of the largest logits.
__device__ __forceinline__ int argmax(Shared& shared, const float* logits, int vocab, float& max) {
    float best = -INFINITY;
    uint32_t token = 0xffffffffu;
    auto take = [&](float z, uint32_t other) {
        if (z > best || (z == best && other < token)) best = z, token = other;
    };
    for (int v = threadIdx.x; v < vocab; v += THREADS) take(logits[v], v);
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        float z = __shfl_xor_sync(ALL_LANES, best, lanes);
        uint32_t other = __shfl_xor_sync(ALL_LANES, token, lanes);
        take(z, other);
    }
    shared.logits.publish(best);
    shared.tokens.publish(token);
    for (int warp = 0; warp < WARPS; ++warp) take(shared.logits.values[warp], shared.tokens.values[warp]);
    max = best;
    return token;
}

// CTRL's penalty, once a distinct token: the thread that sets a token's bit applies it.
__device__ __forceinline__ void penalise(
    uint32_t* seen, float* logits, int vocab, const Row& row, const uint32_t* history) {
    for (int i = threadIdx.x; i < (vocab + 31) / 32; i += THREADS) seen[i] = 0;
    __syncthreads();
    for (int i = row.history_start + threadIdx.x; i < row.history_end; i += THREADS) {
        uint32_t token = history[i], bit = 1u << token % 32;
        if (token >= vocab || atomicOr(&seen[token / 32], bit) & bit) continue;
        float z = logits[token];
        logits[token] = z < 0.0f ? z * row.repetition_penalty : z / row.repetition_penalty;
    }
    __syncthreads();
}

// Which tokens the filters keep: those with a larger key than `key`, and of equal ones all but the first `dropped`.
struct Kept {
    uint32_t key = 0;
    int dropped = 0;
};

// Keys from the k-th largest on are kept.
__device__ __forceinline__ uint32_t key_of_rank(Shared& shared, const float* logits, int vocab, int k) {
    uint32_t prefix = 0;
    Weight rank = k - 1;
    for (int shift = 24; shift >= 0; shift -= 8) {
        descend(shared, logits, vocab, prefix, shift, true, rank, [](float) { return Weight(1); });
        prefix |= shared.digit << shift;
        rank -= shared.before;
    }
    return prefix;
}

// The least likely tokens go while their weights sum to at most (1 - p) of the total; the most likely stays.
__device__ __forceinline__ Kept keep_top_p(
    Shared& shared, const float* logits, int vocab, float max, uint32_t least, float p) {
    auto weight = [&](float z) { return key_of(z) >= least ? weight_of(z, max) : Weight(0); };
    Weight total = 0;
    for (int v = threadIdx.x; v < vocab; v += THREADS) total += weight(logits[v]);
    shared.weights.publish(warp_sum(total));
    total = 0;
    for (int warp = 0; warp < WARPS; ++warp) total += shared.weights.values[warp];

    Weight budget = min(static_cast<Weight>((1.0 - static_cast<double>(p)) * static_cast<double>(total)), total - 1);
    Kept kept;
    for (int shift = 24; shift >= 0; shift -= 8) {
        descend(shared, logits, vocab, kept.key, shift, false, budget, weight);
        kept.key |= shared.digit << shift;
        budget -= shared.before;
    }
    // All tokens of this key weigh the same, above 0: as many go as fit, in the order of tokens.
    uint32_t highest = key_of(max);
    float z = __uint_as_float(kept.key & 0x80000000u ? kept.key & 0x7fffffffu : ~kept.key);
    kept.dropped = budget / weight_of(z, max);
    if (kept.key == highest) {
        int equal = 0;
        for (int v = threadIdx.x; v < vocab; v += THREADS) equal += key_of(logits[v]) == highest;
        shared.tokens.publish(warp_sum(equal));
        equal = 0;
        for (int warp = 0; warp < WARPS; ++warp) equal += shared.tokens.values[warp];
        kept.dropped = min(kept.dropped, equal - 1);
    }
    return kept;
}

// Inverse transform in the order of tokens: the first whose cumulative weight passes uniform * total.
__device__ __forceinline__ int draw(
    Shared& shared, const float* logits, int vocab, float max, Kept kept, float uniform) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int stretch = (vocab + THREADS - 1) / THREADS * 32, start = min(warp * stretch, vocab), end = min(start + stretch, vocab);
    // How many tokens of the edge's key stand before this warp's stretch.
    int equal = 0;
    for (int v = start + lane; v < end; v += 32) equal += key_of(logits[v]) == kept.key;
    shared.tokens.publish(warp_sum(equal));
    int equal_before = 0;
    for (int other = 0; other < warp; ++other) equal_before += shared.tokens.values[other];

    // The weight of 32 tokens from `v0`, one a lane; `seen` counts the edge's key on the way.
    auto weight = [&](int v0, int& seen) {
        int v = v0 + lane;
        float z = v < end ? logits[v] : -INFINITY;
        bool edge = v < end && key_of(z) == kept.key;
        uint32_t edges = __ballot_sync(ALL_LANES, edge);
        int order = seen + __popc(edges & ((1u << lane) - 1));
        seen += __popc(edges);
        bool keep = v < end && (key_of(z) > kept.key || (edge && order >= kept.dropped));
        return keep ? weight_of(z, max) : Weight(0);
    };
    Weight sum = 0;
    int seen = equal_before;
    for (int v0 = start; v0 < end; v0 += 32) sum += weight(v0, seen);
    shared.weights.publish(warp_sum(sum));
    Weight total = 0, before = 0;
    for (int other = 0; other < WARPS; ++other) {
        if (other == warp) before = total;
        total += shared.weights.values[other];
    }
    Weight target = min(static_cast<Weight>(static_cast<double>(uniform) * static_cast<double>(total)), total - 1);
    // One warp's stretch holds it.
    if (before <= target && target < before + shared.weights.values[warp]) {
        seen = equal_before;
        for (int v0 = start; v0 < end; v0 += 32) {
            Weight cumulative = before + warp_scan(weight(v0, seen));
            uint32_t passed = __ballot_sync(ALL_LANES, cumulative > target);
            if (passed) {
                if (lane == 0) shared.token = v0 + __ffs(passed) - 1;
                break;
            }
            before = __shfl_sync(ALL_LANES, cumulative, 31);
        }
    }
    __syncthreads();
    return shared.token;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) sample(
    int vocab, float* all_logits, const Row* rows, const uint32_t* history, uint32_t* tokens) {
    __shared__ Shared shared;
    // A bit a token of the vocabulary.
    extern __shared__ uint32_t seen[];
    float* logits = all_logits + static_cast<size_t>(blockIdx.x) * vocab;
    Row row = rows[blockIdx.x];
    if (row.repetition_penalty != 1.0f) penalise(seen, logits, vocab, row, history);
    if (row.temperature != 0.0f && row.temperature != 1.0f) {
        for (int v = threadIdx.x; v < vocab; v += THREADS) logits[v] /= row.temperature;
    }
    float max;
    int token = argmax(shared, logits, vocab, max);
    if (row.temperature != 0.0f) {
        Kept kept;
        if (row.top_k > 0 && row.top_k < vocab) kept.key = key_of_rank(shared, logits, vocab, row.top_k);
        if (row.top_p < 1.0f) kept = keep_top_p(shared, logits, vocab, max, kept.key, row.top_p);
        token = draw(shared, logits, vocab, max, kept, row.uniform);
    }
    if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}

// The vocabulary of the kernels for compute capability 9.0 alone (sm_90a): barriers in shared memory, products by a
// warpgroup of four warps, and the registers that warpgroups hand each other.
#pragma once
#include "tile.cuh"

constexpr int WARPGROUP = 128;

// A barrier in shared memory: a phase is complete when `arrivals` threads have come.
struct Mbarrier {
    uint64_t state;

    __device__ __forceinline__ void init(int arrivals) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
    }

    __device__ __forceinline__ void arrive() {
        asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(this)) : "memory");
    }

    // Waits until the phase of this parity is complete; that of parity 1 is before the first.
    __device__ __forceinline__ void wait(uint32_t parity) {
        asm volatile(
            "{\n.reg .pred complete;\n"
            "again:\nmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 complete, [%0], %1;\n"
            "@complete bra done;\nbra again;\ndone:\n}\n" ::"r"(shared_address(this)),
            "r"(parity)
            : "memory");
    }
};

// What this thread wrote to shared memory before (with its asynchronous copies, once it waited for them) is visible to
// wgmma by whoever is told of it afterwards.
__device__ __forceinline__ void fence_for_wgmma() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

// The calling warpgroup keeps at most so many registers a thread, or waits until it has that many.
template <int COUNT> __device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(COUNT));
}

// Before the first product, and between other uses of the accumulators and a product.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }

// Waits until at most `pending` groups are under way. Until then nothing may touch their accumulators and operands.
template <int pending> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
}

// A matrix in shared memory whose lines of 64 bf16 along k are 128 bytes, their vectors of 16 bytes exchanged by the line's
// number in its group of 8 (swizzle of 128 bytes). `start` is a multiple of 1024; 16 elements along k are 2 units on.
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t start) {
    constexpr uint64_t SWIZZLE_128 = uint64_t{1} << 62, GROUP_OF_8_LINES = 1024 >> 4;
    return (start & 0x3ffff) >> 4 | uint64_t{1} << 16 | GROUP_OF_8_LINES << 32 | SWIZZLE_128;
}

// Where vector `vector` of 16 bytes of a line lies in such a matrix, in bytes.
__device__ __forceinline__ int wgmma_place(int line, int vector) { return line * 128 + (vector ^ line % 8) * 16; }

// d = a b, or d += a b, of 64 x 256 x 16. Thread t has rows 16 (t / 32) + t % 32 / 4 + 8 h and columns 8 j + 2 (t % 4) + e in
// d[4 j + 2 h + e].
__device__ __forceinline__ void wgmma_256(float (&d)[128], uint64_t a, uint64_t b, bool add) {
#define EIGHT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SIXTY_FOUR(i) EIGHT(i), EIGHT(i + 8), EIGHT(i + 16), EIGHT(i + 24), EIGHT(i + 32), EIGHT(i + 40), EIGHT(i + 48), EIGHT(i + 56)
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
        "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
        "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
        "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
        "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"
        "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
        "}, %128, %129, add, 1, 1, 0, 0;\n}\n"
        : SIXTY_FOUR(0), SIXTY_FOUR(64)
        : "l"(a), "l"(b), "r"(static_cast<int>(add)));
#undef SIXTY_FOUR
#undef EIGHT
}

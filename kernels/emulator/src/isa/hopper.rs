//! What is of compute capability 9.0 alone: a warpgroup's product, barriers in shared memory, a copy in bulk. All four warps
//! of the block do the same, and warp 0 stores what it got.

use super::{Case, Output, matrices};

/// The fragment of A in %a0 ..., columns of B in %a4 and %a5, D from %a6 and %a7 and their negatives.
fn wgmma(layout: &str, before: &str, a: &str, trans: &str, [start, b]: [u64; 2]) -> Case {
    let op = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16";
    let body = format!(
        "{before} fence.proxy.async.shared::cta; bar.sync 0; cvt.u64.u32 %w1, %tile; add.u64 %w2, %w1, {start}; \
         shr.u64 %w2, %w2, 4; or.b64 %w2, %w2, {b}; add.u64 %w3, %w1, 1024; shr.u64 %w3, %w3, 4; or.b64 %w3, %w3, {}; \
         mov.b32 %f0, %a6; mov.b32 %f1, %a7; neg.f32 %f2, %a6; neg.f32 %f3, %a7; setp.eq.u32 %p0, 0, 0; \
         wgmma.fence.sync.aligned; {op} {{%f0, %f1, %f2, %f3}}, {a}, %w2, %p0, 1, 1, {trans}; \
         wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; \
         mov.b32 %d0, %f0; mov.b32 %d1, %f1; mov.b32 %d2, %f2; mov.b32 %d3, %f3;",
        cores(128, 256)
    );
    Case {
        hopper: true,
        name: format!("{op} {layout}"),
        ..Case::new(body, matrices::operands(true, 4, 2), 4, Output::Bits)
    }
}

/// A descriptor of core matrices: bytes from one to the next along k, and along the lines.
fn cores(leading: u64, stride: u64) -> u64 {
    leading >> 4 << 16 | stride >> 4 << 32
}

pub fn all(all: &mut Vec<Case>) {
    // Eight columns of 16 bytes are the 32 words of a register.
    let store = "shl.b32 %t0, %lane, 2; add.u32 %t1, %tile, %t0; @%first st.shared.u32 [%t1], %a4; \
                 @%first st.shared.u32 [%t1+128], %a5;";
    let fragment = "{%a0, %a1, %a2, %a3}";
    all.push(wgmma("registers", store, fragment, "0", [0, cores(128, 128)]));
    // Columns of 128 bytes, of which these are the third and fourth vector, exchanged by the column's number.
    let swizzled = "shr.u32 %t0, %lane, 2; and.b32 %t1, %lane, 3; shl.b32 %t1, %t1, 2; shl.b32 %t2, %t0, 7; \
                    add.u32 %t1, %t1, %t2; add.u32 %t1, %t1, %tile; xor.b32 %t2, %t0, 2; shl.b32 %t2, %t2, 4; \
                    add.u32 %t2, %t2, %t1; xor.b32 %t3, %t0, 3; shl.b32 %t3, %t3, 4; add.u32 %t3, %t3, %t1; \
                    @%first st.shared.u32 [%t2], %a4; @%first st.shared.u32 [%t3], %a5;";
    all.push(wgmma("swizzle 128", swizzled, fragment, "0", [32, cores(16, 1024) | 1 << 62]));
    // Each warp's 16 rows: two core matrices down and two along k.
    let both = format!(
        "{store} shr.u32 %t2, %thread, 5; shl.b32 %t2, %t2, 9; add.u32 %t2, %t2, %t1; st.shared.u32 [%t2+1024], %a0; \
         st.shared.u32 [%t2+1280], %a1; st.shared.u32 [%t2+1152], %a2; st.shared.u32 [%t2+1408], %a3;"
    );
    all.push(wgmma("shared", &both, "%w3", "0, 0", [0, cores(128, 128)]));
    let mut other = |name: &str, body: &str, inputs: usize, outputs: usize| {
        let case = Case::new(body.into(), matrices::rows(inputs), outputs, Output::Bits);
        all.push(Case { hopper: true, name: name.into(), ..case });
    };
    // Which lane is elected is not said: one is, and it is the one that all are told of.
    other(
        "elect.sync",
        "elect.sync %t0|%p0, 0xffffffff; vote.sync.ballot.b32 %t1, %p0, 0xffffffff; popc.b32 %d0, %t1; \
         shl.b32 %t2, 1, %t0; sub.u32 %d1, %t1, %t2;",
        1,
        2,
    );
    let init = "setp.ne.u32 %p0, %thread, 0; @%p0 bra READY; mbarrier.init.shared::cta.b64 [%tile], ";
    let wait =
        "AGAIN: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%tile+OFFSET], 0; @%p1 bra DONE; bra AGAIN; DONE:";
    let test = |d: usize, parity: usize| {
        format!("mbarrier.test_wait.parity.shared::cta.b64 %p1, [%tile], {parity}; selp.u32 %d{d}, 1, 0, %p1;")
    };
    other(
        "mbarrier.test_wait.parity.shared::cta.b64",
        &format!(
            "{init} 128; READY: bar.sync 0; {} {} bar.sync 0; mbarrier.arrive.shared::cta.b64 _, [%tile]; {} {} {}",
            test(0, 0),
            test(1, 1),
            wait.replace("+OFFSET", ""),
            test(2, 0),
            test(3, 1)
        ),
        1,
        4,
    );
    other(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes",
        &format!(
            "{} 1; fence.mbarrier_init.release.cluster; \
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%tile+1024], 512; \
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%tile], [%in], 512, [%tile+1024]; \
             READY: bar.sync 0; {} shl.b32 %t0, %lane, 2; add.u32 %t0, %t0, %tile; ld.shared.u32 %d0, [%t0]; \
             ld.shared.u32 %d1, [%t0+128]; ld.shared.u32 %d2, [%t0+256]; ld.shared.u32 %d3, [%t0+384];",
            init.replace("[%tile]", "[%tile+1024]"),
            wait.replace("OFFSET", "1024")
        ),
        4,
        4,
    );
}

//! wgmma, mbarriers and copies in bulk: products against f64 in every layout, a ring of stages, and each wait, fence and
//! phase removed in turn, which must be reported.
//!
//! The kernels are PTX written here, so that every width and every fault is a few words. `PTXAS=path` assembles them too.

mod common;

use common::{Arg, Bench, Random, from_bf16, to_bf16};
use safedepth_emulator::race::report::Kind;

const DEPTH: usize = 64;
const A_BYTES: usize = 64 * DEPTH * 2;

/// How operands reach the tensor cores.
#[derive(Clone, Copy, Debug)]
struct Layout {
    columns: usize,
    swizzled: bool,
    /// A from registers instead of from shared memory.
    fragments: bool,
    /// Tiles come by a copy in bulk instead of by threads' stores.
    bulk: bool,
}

impl Layout {
    /// Where element (line, k) of a matrix of `lines` lines lies, in bytes.
    fn place(&self, lines: usize, line: usize, k: usize) -> usize {
        if self.swizzled {
            // Rows of 128 bytes, whose 16-byte vectors change places by the row's number in its group of eight.
            line * 128 + ((k / 8) ^ (line % 8)) * 16 + k % 8 * 2
        } else {
            // Core matrices of 8 x 8: first along the lines, then along k.
            (k / 8 * (lines / 8) + line / 8) * 128 + line % 8 * 16 + k % 8 * 2
        }
    }

    fn image(&self, lines: usize, values: &[u16]) -> Vec<u8> {
        let mut image = vec![0; lines * DEPTH * 2];
        for line in 0..lines {
            for k in 0..DEPTH {
                let at = self.place(lines, line, k);
                image[at..at + 2].copy_from_slice(&values[line * DEPTH + k].to_le_bytes());
            }
        }
        image
    }

    /// Leading and stride offset, swizzle mode, and bytes from one k16 to the next.
    fn descriptor(&self, lines: usize) -> (u64, usize) {
        let field = |bytes: usize| bytes as u64 >> 4;
        match self.swizzled {
            true => (field(16) << 16 | field(1024) << 32 | 1 << 62, 32),
            false => (field(lines / 8 * 128) << 16 | field(128) << 32, 2 * lines / 8 * 128),
        }
    }

    /// d[64, columns] = a b^T twice over, by one warpgroup. Statements end in their name, for those who take one away.
    fn kernel(&self) -> String {
        let n = self.columns;
        let bytes = A_BYTES + n * DEPTH * 2;
        let list = |name: &str, count: usize| (0..count).map(|i| format!("%{name}{i}")).collect::<Vec<_>>().join(", ");
        let mut text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n\n.visible .entry product(.param .u64 pa, .param .u64 pb, .param .u64 pd)\n\
             .maxntid 128\n{{\n.reg .b64 %rd<16>, %a, %b;\n.reg .b32 %r<32>, %x<16>, %f<{}>;\n.reg .pred %p<8>;\n\
             .shared .align 1024 .b8 tile[{bytes}];\n.shared .align 8 .b8 bar[8];\n\
             ld.param.u64 %rd0, [pa];\nld.param.u64 %rd1, [pb];\nld.param.u64 %rd2, [pd];\nmov.u32 %r0, %tid.x;\n\
             mov.u32 %r1, tile;\nmov.u32 %r2, bar;\nsetp.ne.u32 %p0, %r0, 0;\n",
            n / 2
        );
        if self.bulk {
            text += &format!(
                "@%p0 bra INIT;\nmbarrier.init.shared::cta.b64 [%r2], 1;\nfence.mbarrier_init.release.cluster; // init\nINIT:\n\
                 bar.sync 0; // barrier\n@%p0 bra COPIED;\n\
                 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], {bytes}; // expect\n\
                 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd0], {A_BYTES}, [%r2];\n\
                 add.u32 %r3, %r1, {A_BYTES};\n\
                 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], {}, [%r2]; // copy\nCOPIED:\n\
                 WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0; // wait\n@%p1 bra DONE; // wait\nbra WAIT; // wait\nDONE:\n",
                bytes - A_BYTES
            );
        } else {
            let mut copy = |label: &str, from: &str, first: usize, bytes: usize| {
                text += &format!(
                    "shl.b32 %r4, %r0, 4;\n{label}:\nsetp.ge.u32 %p2, %r4, {bytes};\n@%p2 bra {label}_END;\n\
                     cvt.u64.u32 %rd4, %r4;\nadd.u64 %rd4, {from}, %rd4;\nld.global.v4.u32 {{%r5, %r6, %r7, %r8}}, [%rd4];\n\
                     add.u32 %r9, %r1, %r4;\nst.shared.v4.u32 [%r9+{first}], {{%r5, %r6, %r7, %r8}};\n\
                     add.u32 %r4, %r4, 2048;\nbra {label};\n{label}_END:\n"
                );
            };
            copy("A", "%rd0", 0, A_BYTES);
            copy("B", "%rd1", A_BYTES, bytes - A_BYTES);
            text += "fence.proxy.async.shared::cta; // proxy\nbar.sync 0; // barrier\n";
        }
        let (a, step_a) = self.descriptor(64);
        let (b, step_b) = self.descriptor(n);
        text += &format!(
            "cvt.u64.u32 %rd5, %r1;\nshr.u64 %rd6, %rd5, 4;\nor.b64 %a, %rd6, {a};\nadd.u64 %rd5, %rd5, {A_BYTES};\n\
             shr.u64 %rd6, %rd5, 4;\nor.b64 %b, %rd6, {b};\n"
        );
        if self.fragments {
            // Row 16 warp + lane / 4, words of k = 2 (lane % 4) and k + 8; eight rows on, the same.
            text += "and.b32 %r10, %r0, 31;\nshr.u32 %r11, %r0, 5;\nshl.b32 %r11, %r11, 4;\nshr.u32 %r12, %r10, 2;\n\
                     add.u32 %r11, %r11, %r12;\nand.b32 %r12, %r10, 3;\n";
            for index in 0..16 {
                let (k, down) = (16 * (index / 4) + index / 2 % 2 * 8, index % 2 * 8);
                // place() of (row, k) with the swizzle's exclusive or, or core matrices.
                text += &format!("add.u32 %r13, %r11, {down};\nand.b32 %r14, %r13, 7;\nshr.u32 %r15, %r13, 3;\n");
                text += &match self.swizzled {
                    true => format!("shl.b32 %r16, %r13, 7;\nxor.b32 %r14, %r14, {};\nshl.b32 %r14, %r14, 4;\n", k / 8),
                    false => format!(
                        "shl.b32 %r16, %r15, 7;\nadd.u32 %r16, %r16, {};\nshl.b32 %r14, %r14, 4;\n",
                        k / 8 * 8 * 128
                    ),
                };
                text += &format!(
                    "add.u32 %r16, %r16, %r14;\nshl.b32 %r17, %r12, 2;\nadd.u32 %r16, %r16, %r17;\nadd.u32 %r16, %r16, %r1;\n\
                     ld.shared.u32 %x{index}, [%r16];\n"
                );
            }
        }
        text += "wgmma.fence.sync.aligned; // fence\n";
        for pass in 0..2 {
            for step in 0..DEPTH / 16 {
                let a = match self.fragments {
                    true => format!(
                        "{{{}}}",
                        list("x", 16).split(", ").skip(4 * step).take(4).collect::<Vec<_>>().join(", ")
                    ),
                    false => "%rd7".into(),
                };
                let trans = if self.fragments { "0" } else { "0, 0" };
                text += &format!(
                    "add.u64 %rd7, %a, {};\nadd.u64 %rd8, %b, {};\nsetp.ne.u32 %p3, {}, 0;\n\
                     wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{}}}, {a}, %rd8, %p3, 1, 1, {trans};\n",
                    step * step_a / 16,
                    step * step_b / 16,
                    pass + step,
                    list("f", n / 2)
                );
            }
            // here: between the products and their wait, and again after it.
            text += &format!("wgmma.commit_group.sync.aligned; // commit{pass}\n");
        }
        text += "// inside\nwgmma.wait_group.sync.aligned 0; // done\n// outside\nshl.b32 %r18, %r0, 2;\ncvt.u64.u32 %rd9, %r18;\nadd.u64 %rd9, %rd2, %rd9;\n";
        for register in 0..n / 2 {
            text += &format!("st.global.b32 [%rd9+{}], %f{register};\n", 512 * register);
        }
        text + "ret;\n}\n"
    }
}

/// The kernel without the statements of a name, and with others put in at a mark.
fn changed(text: &str, without: &str, mark: &str, with: &str) -> String {
    let lines = text.lines().filter(|line| without.is_empty() || !line.ends_with(&format!("// {without}")));
    let lines = lines.map(|line| if line == format!("// {mark}") { with } else { line });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

struct Data {
    a: Vec<u16>,
    b: Vec<u16>,
}

impl Data {
    fn new(columns: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        Self { a: to_bf16(&random.normals(64 * DEPTH)), b: to_bf16(&random.normals(columns * DEPTH)) }
    }
}

/// Runs a variant of a layout's kernel: what it reports, and the product.
fn run(layout: Layout, text: &str, data: &Data, seed: u64) -> (Vec<(Kind, String)>, Vec<f32>) {
    let mut bench = Bench::from_text(text, seed);
    let a = bench.upload(&layout.image(64, &data.a));
    let b = bench.upload(&layout.image(layout.columns, &data.b));
    let d = bench.empty(64 * layout.columns * 4);
    let outcome = bench.run("product", [1, 1, 1], 128, 0, &[Arg::Pointer(a), Arg::Pointer(b), Arg::Pointer(d)]);
    let reports = outcome.reports.iter().map(|report| (report.kind, report.to_string())).collect();
    let words = bench.read_floats(d, 64 * layout.columns);
    let mut product = vec![0.0; 64 * layout.columns];
    for register in 0..layout.columns / 2 {
        for thread in 0..128 {
            // Register 4 j + 2 h + e: row lane / 4 + 8 h, column 8 j + 2 (lane % 4) + e.
            let row = thread / 32 * 16 + thread % 32 / 4 + register / 2 % 2 * 8;
            let column = register / 4 * 8 + thread % 4 * 2 + register % 2;
            product[row * layout.columns + column] = words[128 * register + thread];
        }
    }
    (reports, product)
}

fn layouts() -> Vec<Layout> {
    let mut all = Vec::new();
    for (index, columns) in [8, 24, 64, 128, 256].into_iter().enumerate() {
        for swizzled in [false, true] {
            for fragments in [false, true] {
                all.push(Layout { columns, swizzled, fragments, bulk: (index + usize::from(fragments)) % 2 == 0 });
            }
        }
    }
    all
}

#[test]
fn products_equal_f64_in_every_layout() {
    for layout in layouts() {
        let data = Data::new(layout.columns, layout.columns as u64);
        let (reports, product) = run(layout, &layout.kernel(), &data, 1);
        assert!(reports.is_empty(), "{layout:?}: {reports:#?}");
        let (a, b) = (from_bf16(&data.a), from_bf16(&data.b));
        for row in 0..64 {
            for column in 0..layout.columns {
                let terms = (0..DEPTH).map(|k| 2.0 * a[row * DEPTH + k] * b[column * DEPTH + k]);
                let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                let found = f64::from(product[row * layout.columns + column]);
                // A chain of 128 sums in f32.
                let bound = 128.0 * size * f64::from(f32::EPSILON);
                assert!((found - exact).abs() <= bound, "{layout:?} ({row}, {column}): {found}, {exact}");
            }
        }
    }
}

/// A fault in a kernel: what is taken away, where what is put in, and the report it must give under every seed.
fn caught(layout: Layout, without: &str, mark: &str, with: &str, kind: Kind) {
    caught_as(layout, without, mark, with, &[kind]);
}

/// The same where the order in which warps run decides which of the reports it is.
fn caught_as(layout: Layout, without: &str, mark: &str, with: &str, any: &[Kind]) {
    let text = changed(&layout.kernel(), without, mark, with);
    assert_ne!(text, layout.kernel(), "{without} {mark} changes nothing");
    let data = Data::new(layout.columns, 5);
    for seed in 0..10 {
        let (reports, _) = run(layout, &text, &data, seed);
        let found = reports.iter().any(|(kind, _)| any.contains(kind));
        assert!(found, "without {without:?}, {with:?} at {mark:?}, seed {seed}: {reports:#?}");
    }
}

const BULK: Layout = Layout { columns: 32, swizzled: true, fragments: false, bulk: true };
const STORES: Layout = Layout { columns: 32, swizzled: false, fragments: true, bulk: false };

#[test]
fn accumulators_and_fragments_are_lent_until_the_wait() {
    for layout in [BULK, STORES] {
        caught(layout, "done", "", "", Kind::EarlyRegister);
        caught(layout, "commit1", "", "", Kind::EarlyRegister);
        caught(layout, "", "inside", "mov.b32 %r20, %f3;", Kind::EarlyRegister);
        caught(layout, "", "inside", "mov.b32 %f3, 0;", Kind::EarlyRegister);
    }
    caught(STORES, "", "inside", "mov.b32 %x15, 0;", Kind::EarlyRegister);
    // Reading a fragment changes nothing.
    let text = changed(&STORES.kernel(), "", "inside", "mov.b32 %r20, %x15;");
    assert_eq!(run(STORES, &text, &Data::new(32, 5), 1).0, []);
}

#[test]
fn registers_need_the_fence_of_wgmma() {
    for layout in [BULK, STORES] {
        caught(layout, "fence", "", "", Kind::NoFence);
    }
    let again = "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7, %f8, %f9, %f10, %f11, \
                 %f12, %f13, %f14, %f15}, %rd7, %rd8, %p3, 1, 1, 0, 0; wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;";
    caught(BULK, "", "outside", &format!("mov.b32 %f0, 0; {again}"), Kind::NoFence);
    let text = changed(&BULK.kernel(), "", "outside", &format!("mov.b32 %f0, 0; wgmma.fence.sync.aligned; {again}"));
    assert_eq!(run(BULK, &text, &Data::new(32, 5), 1).0, []);
}

#[test]
fn stores_need_the_proxy_fence_and_the_barrier() {
    caught(STORES, "proxy", "", "", Kind::NoFence);
    caught(STORES, "barrier", "", "", Kind::SharedRace);
}

#[test]
fn copies_in_bulk_need_their_phase() {
    caught(BULK, "wait", "", "", Kind::EarlyRead);
    caught_as(BULK, "barrier", "", "", &[Kind::Uninitialised, Kind::SharedRace]);
    caught(BULK, "init", "", "", Kind::NoFence);
    caught(BULK, "copy", "", "", Kind::NoProgress);
    caught(BULK, "expect", "", "", Kind::NoProgress);
    let kernel = BULK.kernel();
    for (from, to, kind) in [
        // The phase before the first passes at once.
        ("[%r2], 0; // wait", "[%r2], 1; // wait", Kind::EarlyRead),
        ("[%r2], 1;\nfence", "[%r2], 2;\nfence", Kind::NoProgress),
        ("[%r2], 12288; // expect", "[%r2], 12304; // expect", Kind::NoProgress),
        ("[%r2], 12288; // expect", "[%r2], 12272; // expect", Kind::BarrierDivergence),
        ("4096, [%r2]; // copy", "4088, [%r2]; // copy", Kind::Misaligned),
    ] {
        let text = kernel.replace(from, to);
        assert_ne!(text, kernel, "{from}");
        for seed in 0..10 {
            let (reports, _) = run(BULK, &text, &Data::new(32, 5), seed);
            assert!(reports.iter().any(|report| report.0 == kind), "{to}, seed {seed}: {reports:#?}");
        }
    }
    // The phase after the first never comes.
    let again = "AGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 1;\n@%p1 bra OVER;\nbra AGAIN;\nOVER:";
    caught(BULK, "", "outside", again, Kind::NoProgress);
}

#[test]
fn operands_are_held_until_the_wait() {
    // By a warp that knows of the products' beginning, and not of their end.
    let write = "bar.sync 0;\nsetp.ne.u32 %p4, %r0, 96;\n@%p4 bra SKIP;\nst.shared.u32 [%r1+8192], 0;\nSKIP:";
    for layout in [BULK, STORES] {
        caught(layout, "", "inside", write, Kind::SharedRace);
        let text = changed(&layout.kernel(), "", "outside", write);
        assert_eq!(run(layout, &text, &Data::new(32, 5), 1).0, [], "after the wait and a barrier nothing holds them");
    }
}

#[test]
fn a_warpgroup_acts_as_one() {
    let leave = "setp.ge.u32 %p4, %r0, 96;\n@%p4 bra LEFT;\nwgmma.fence.sync.aligned;\nLEFT:";
    caught(BULK, "", "outside", leave, Kind::BarrierDivergence);
}

/// A producer and three consumers over a ring of two stages: lane 0 of warp 0 copies 512 bytes a round, consumer warps add
/// them up.
const RING: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry ring(.param .u64 source, .param .u64 target, .param .u32 rounds)
.maxntid 128
{
.reg .b64 %rd<8>;
.reg .b32 %r<24>;
.reg .pred %p<8>;
.shared .align 16 .b8 stages[1024];
.shared .align 8 .b8 bars[32];
ld.param.u64 %rd0, [source];
ld.param.u64 %rd1, [target];
ld.param.u32 %r0, [rounds];
mov.u32 %r1, %tid.x;
mov.u32 %r2, bars;
mov.u32 %r3, stages;
setp.ne.u32 %p0, %r1, 0;
@%p0 bra READY;
mbarrier.init.shared::cta.b64 [%r2], 1;
mbarrier.init.shared::cta.b64 [%r2+8], 1;
mbarrier.init.shared::cta.b64 [%r2+16], 96;
mbarrier.init.shared::cta.b64 [%r2+24], 96;
fence.mbarrier_init.release.cluster;
READY:
bar.sync 0;
mov.u32 %r4, 0;
mov.u32 %r5, 0;
setp.ge.u32 %p1, %r1, 32;
@%p1 bra CONSUME;
setmaxnreg.dec.sync.aligned.u32 24;
elect.sync _|%p2, 0xffffffff;
@!%p2 bra END;
PRODUCE:
setp.ge.u32 %p3, %r4, %r0;
@%p3 bra END;
and.b32 %r6, %r4, 1;
shl.b32 %r7, %r6, 3;
add.u32 %r7, %r7, %r2;
shl.b32 %r8, %r6, 9;
add.u32 %r8, %r8, %r3;
shr.u32 %r9, %r4, 1;
and.b32 %r9, %r9, 1;
xor.b32 %r9, %r9, 1;
FREE:
mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p4, [%r7+16], %r9; // free
@%p4 bra FILL; // free
bra FREE; // free
FILL:
mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%r7], 512;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r8], [%rd0], 512, [%r7];
add.u64 %rd0, %rd0, 512;
add.u32 %r4, %r4, 1;
bra PRODUCE;
CONSUME:
setmaxnreg.inc.sync.aligned.u32 240;
sub.u32 %r10, %r1, 32;
shl.b32 %r10, %r10, 2;
NEXT:
setp.ge.u32 %p3, %r4, %r0;
@%p3 bra STORE;
and.b32 %r6, %r4, 1;
shl.b32 %r7, %r6, 3;
add.u32 %r7, %r7, %r2;
shl.b32 %r8, %r6, 9;
add.u32 %r8, %r8, %r3;
add.u32 %r8, %r8, %r10;
shr.u32 %r9, %r4, 1;
and.b32 %r9, %r9, 1;
FULL:
mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r7], %r9; // full
@%p4 bra READ; // full
bra FULL; // full
READ:
ld.shared.u32 %r11, [%r8];
add.u32 %r5, %r5, %r11;
mbarrier.arrive.shared::cta.b64 _, [%r7+16]; // arrive
add.u32 %r4, %r4, 1;
bra NEXT;
STORE:
cvt.u64.u32 %rd2, %r10;
add.u64 %rd2, %rd1, %rd2;
st.global.u32 [%rd2], %r5;
END:
ret;
}
";

fn ring(text: &str, rounds: usize, seed: u64) -> (Vec<Kind>, Vec<u32>, Vec<u32>) {
    let mut bench = Bench::from_text(text, seed);
    let words: Vec<u32> = (0..rounds * 128).map(|i| i as u32 * 77 + 5).collect();
    let (source, target) = (bench.words(&words), bench.empty(384));
    let arguments = [Arg::Pointer(source), Arg::Pointer(target), Arg::Int(rounds as i32)];
    let outcome = bench.run("ring", [1, 1, 1], 128, 0, &arguments);
    let sum = |lane: usize| words.iter().skip(lane).step_by(128).fold(0u32, |sum, word| sum.wrapping_add(*word));
    let reports = outcome.reports.iter().map(|report| report.kind).collect();
    (reports, bench.read_words(target, 96), (0..96).map(sum).collect())
}

#[test]
fn a_ring_of_stages_turns() {
    for seed in 0..20 {
        let (reports, found, exact) = ring(RING, 1 + seed as usize % 7, seed);
        assert_eq!((reports, found), (vec![], exact), "seed {seed}");
        let (reports, ..) = ring(&changed(RING, "free", "", ""), 5, seed);
        assert!(reports.contains(&Kind::SharedRace) || reports.contains(&Kind::EarlyRead), "seed {seed}: {reports:?}");
        let (reports, ..) = ring(&changed(RING, "full", "", ""), 5, seed);
        assert!(reports.contains(&Kind::EarlyRead) || reports.contains(&Kind::SharedRace), "seed {seed}: {reports:?}");
        let (reports, ..) = ring(&changed(RING, "arrive", "", ""), 5, seed);
        assert!(reports.contains(&Kind::NoProgress), "seed {seed}: {reports:?}");
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (from, to) in [
        ("%p3, 1, 1, 0, 0", "%p3, 1, -1, 0, 0"),
        ("%p3, 1, 1, 0, 0", "%p3, 1, 1, 0, 1"),
        (".m64n32k16", ".m64n36k16"),
        ("mbarrier.try_wait.parity", "mbarrier.try_wait"),
        ("cp.async.bulk.shared", "cp.reduce.async.bulk.shared"),
        ("wait_group.sync.aligned 0", "wait_group.sync.aligned 9"),
    ] {
        let text = BULK.kernel().replace(from, to);
        assert_ne!(text, BULK.kernel(), "{from}");
        let mut device = safedepth_emulator::device::Device::new(safedepth_emulator::vm::Settings::default());
        assert!(device.load(&text).is_err(), "{to} is taken");
    }
}

/// Held against the assembler where there is one: `PTXAS=path/to/ptxas`.
#[test]
fn the_assembler_takes_these_kernels() {
    let Some(ptxas) = std::env::var_os("PTXAS") else { return };
    let file = std::env::temp_dir().join(format!("hopper-{}.ptx", std::process::id()));
    for text in layouts().iter().map(Layout::kernel).chain([RING.to_owned()]) {
        std::fs::write(&file, &text).unwrap();
        let status = std::process::Command::new(&ptxas).args(["-arch=sm_90a", "-o", "/dev/null"]).arg(&file).status();
        assert!(status.unwrap().success(), "{text}");
    }
    std::fs::remove_file(&file).unwrap();
}

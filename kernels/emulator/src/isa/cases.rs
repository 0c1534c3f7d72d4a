//! The instructions, their inputs and how exact their answers must be.

use super::{Case, Output, hopper, matrices};

/// Every kind of f32: zeros, ties, halves, large, small, subnormal, infinite, NaN.
pub const FLOATS: [f32; 32] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    3.5,
    -2.5,
    std::f32::consts::PI,
    -std::f32::consts::E,
    1e-3,
    123_456.7,
    -98_765.43,
    1e10,
    -1e-10,
    3e38,
    -3e38,
    1.2e-38,
    1e-40,
    -2e-39,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    0.1,
    0.3,
    7.0,
    255.5,
    65_519.0,
    2_147_483_648.0,
    -129.0,
];

/// Bits, ends of ranges, and numbers without a pattern.
pub const WORDS: [u32; 32] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    31,
    32,
    33,
    63,
    64,
    255,
    256,
    65_535,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_ffff,
    0xffff_fffe,
    0x1234_5678,
    0xdead_beef,
    0x0f0f_0f0f,
    0xa5a5_5a5a,
    1000,
    1_000_000,
    0xffff_fc18,
    0x80,
    0x8080_8080,
];

fn rotated<T: Copy>(list: [T; 32], by: usize) -> [T; 32] {
    std::array::from_fn(|lane| list[(lane + by) % 32])
}

fn floats(row: usize) -> [u32; 32] {
    rotated(FLOATS, [0, 5, 11, 17][row]).map(f32::to_bits)
}

fn words(row: usize) -> [u32; 32] {
    rotated(WORDS, [0, 7, 13, 22][row])
}

/// -3.1 to 3.1, where the approximate sine and cosine are specified.
fn angles() -> [u32; 32] {
    std::array::from_fn(|lane| (lane as f32 * 0.2 - 3.1).to_bits())
}

/// Pairs of 16-bit floats, cut from the f32 list for bf16; for f16 values between 2^-24 and 65504, infinities and NaN.
fn halves(bf16: bool, row: usize) -> [u32; 32] {
    const F16: [u32; 32] = [
        0, 0x8000, 0x3c00, 0xbc00, 0x3800, 0x4248, 0xc170, 0x7bff, 0xfbff, 0x0001, 0x8001, 0x03ff, 0x0400, 0x7c00,
        0xfc00, 0x7e00, 0x3555, 0x2e66, 0x5640, 0xd640, 0x3c01, 0x3bff, 0x4700, 0x1400, 0x9400, 0x6400, 0x63ff, 0x7800,
        0x0200, 0x4900, 0xc500, 0x2000,
    ];
    let one = |lane: usize| if bf16 { FLOATS[lane % 32].to_bits() >> 16 } else { F16[lane % 32] };
    let shift = [0, 5, 11][row];
    std::array::from_fn(|lane| one(lane + shift) | one(lane + 2 * shift + 3) << 16)
}

fn case(name: &str, body: String, inputs: Vec<[u32; 32]>, outputs: usize, output: Output) -> Case {
    Case { name: name.into(), ..Case::new(body, inputs, outputs, output) }
}

/// `name %d0, %a0, %a1, ...;`
fn plain(name: &str, inputs: Vec<[u32; 32]>, output: Output) -> Case {
    let operands: String = (0..inputs.len()).map(|row| format!(", %a{row}")).collect();
    case(name, format!("{name} %d0{operands};"), inputs, 1, output)
}

/// A result of 16 bits in the low half.
fn narrow(name: &str, inputs: Vec<[u32; 32]>) -> Case {
    case(name, format!("{name} %h0, %a0; cvt.u32.u16 %d0, %h0;"), inputs, 1, Output::Bits)
}

fn integers(all: &mut Vec<Case>) {
    for name in ["neg.s32", "abs.s32", "not.b32", "popc.b32", "clz.b32", "brev.b32", "bfind.u32", "bfind.s32"] {
        all.push(plain(name, vec![words(0)], Output::Bits));
    }
    for name in [
        "add.s32",
        "sub.s32",
        "mul.lo.s32",
        "mul.hi.s32",
        "mul.hi.u32",
        "min.s32",
        "min.u32",
        "max.s32",
        "max.u32",
        "and.b32",
        "or.b32",
        "xor.b32",
        "shl.b32",
        "shr.u32",
        "shr.s32",
    ] {
        all.push(plain(name, vec![words(0), words(1)], Output::Bits));
    }
    for name in ["div.s32", "div.u32", "rem.s32", "rem.u32"] {
        // Division by zero has no promised answer.
        all.push(plain(name, vec![words(0), words(1).map(|word| word | 1)], Output::Bits));
    }
    for name in [
        "mad.lo.s32",
        "mad.hi.u32",
        "bfe.u32",
        "bfe.s32",
        "prmt.b32",
        "shf.l.wrap.b32",
        "shf.l.clamp.b32",
        "shf.r.wrap.b32",
        "shf.r.clamp.b32",
        "sad.u32",
        "dp4a.s32.s32",
        "dp4a.u32.u32",
    ] {
        all.push(plain(name, vec![words(0), words(1), words(2)], Output::Bits));
    }
    all.push(plain("bfi.b32", vec![words(0), words(1), words(2), words(3)], Output::Bits));
    all.push(case(
        "lop3.b32",
        "lop3.b32 %d0, %a0, %a1, %a2, 0xca;".into(),
        vec![words(0), words(1), words(2)],
        1,
        Output::Bits,
    ));
    for name in ["mul.wide.s32", "mul.wide.u32"] {
        let body = format!("{name} %w1, %a0, %a1; mov.b64 {{%d0, %d1}}, %w1;");
        all.push(case(name, body, vec![words(0), words(1)], 2, Output::Bits));
    }
    for name in ["shl.b64", "shr.u64", "shr.s64"] {
        let body = format!("mov.b64 %w1, {{%a0, %a1}}; {name} %w1, %w1, %a2; mov.b64 {{%d0, %d1}}, %w1;");
        all.push(case(name, body, vec![words(0), words(1), words(2)], 2, Output::Bits));
    }
}

fn singles(all: &mut Vec<Case>) {
    for name in ["neg.f32", "abs.f32"] {
        all.push(plain(name, vec![floats(0)], Output::Exact));
    }
    for name in ["sqrt.rn.f32", "rcp.rn.f32", "cvt.rni.f32.f32"] {
        all.push(plain(name, vec![floats(0)], Output::Exact));
    }
    // Whether -0 stays is not said.
    all.push(plain(
        "cvt.sat.f32.f32",
        vec![floats(0).map(|bits| if bits == 1 << 31 { 0 } else { bits })],
        Output::Exact,
    ));
    let min_max = ["min.f32", "max.f32", "min.NaN.f32", "max.NaN.f32"];
    let sums = ["add.f32", "add.rz.f32", "add.rm.f32", "add.rp.f32", "sub.f32", "mul.f32", "mul.rz.f32", "div.rn.f32"];
    for name in sums.into_iter().chain(min_max) {
        all.push(plain(name, vec![floats(0), floats(1)], Output::Exact));
    }
    all.push(plain("copysign.f32", vec![floats(0), floats(1)], Output::Exact));
    for name in ["fma.rn.f32", "fma.rz.f32"] {
        all.push(plain(name, vec![floats(0), floats(1), floats(2)], Output::Exact));
    }
    // Bounds as the PTX manual gives them; lg2's is absolute between 0.5 and 2, tanh's relative, 2^-11.
    for (name, ulp, absolute) in [
        ("ex2.approx.f32", 2.0, 0.0),
        ("lg2.approx.f32", 4.0, 2.4e-7),
        ("rcp.approx.f32", 1.0, 0.0),
        ("rsqrt.approx.f32", 2.0, 0.0),
        ("sqrt.approx.f32", 2.0, 0.0),
        ("tanh.approx.f32", 8192.0, 0.0),
    ] {
        all.push(plain(name, vec![floats(0)], Output::Near { ulp, absolute }));
    }
    for name in ["sin.approx.f32", "cos.approx.f32"] {
        all.push(plain(name, vec![angles()], Output::Near { ulp: 2.0, absolute: 6.8e-7 }));
    }
    // Divisors past 2^126 give 0, and subnormal ones are not promised.
    let divisors = floats(1).map(|bits| if matches!(bits >> 23 & 255, 1..252) { bits } else { 0x4040_0000 });
    for name in ["div.approx.f32", "div.full.f32"] {
        all.push(plain(name, vec![angles(), divisors], Output::Near { ulp: 2.0, absolute: 0.0 }));
    }
    for name in ["add.f64", "mul.f64", "div.rn.f64", "fma.rn.f64"] {
        let third = if name.starts_with("fma") { ", %x2" } else { "" };
        let body = format!(
            "cvt.f64.f32 %x0, %a0; cvt.f64.f32 %x1, %a1; cvt.f64.f32 %x2, %a2; {name} %x0, %x0, %x1{third}; \
             mov.b64 {{%d0, %d1}}, %x0;"
        );
        all.push(case(name, body, vec![floats(0), floats(1), floats(2)], 2, Output::Double));
    }
}

fn comparisons(all: &mut Vec<Case>) {
    let answer = "selp.u32 %d0, 1, 0, %p0;";
    for relation in ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"] {
        let name = format!("setp.{relation}.f32");
        // Some lanes compare a number with itself, and NaN with NaN.
        let mut right = floats(1);
        for lane in [3, 7, 22, 23, 24] {
            right[lane] = floats(0)[lane];
        }
        all.push(case(&name, format!("{name} %p0, %a0, %a1; {answer}"), vec![floats(0), right], 1, Output::Bits));
    }
    for name in ["setp.lt.s32", "setp.ge.s32", "setp.lt.u32", "setp.ge.u32", "setp.eq.s32", "setp.ne.s32"] {
        all.push(case(name, format!("{name} %p0, %a0, %a1; {answer}"), vec![words(0), words(1)], 1, Output::Bits));
    }
    let body = format!("setp.ne.s32 %p1, %a2, 0; setp.lt.and.s32 %p0, %a0, %a1, %p1; {answer}");
    let odd = words(2).map(|word| word & 1);
    all.push(case("setp.lt.and.s32", body, vec![words(0), words(1), odd], 1, Output::Bits));
    let body = "setp.lt.s32 %p0, %a0, %a1; selp.f32 %d0, %a0, %a1, %p0;".into();
    all.push(case("selp.f32", body, vec![words(0), words(1)], 1, Output::Bits));
}

fn conversions(all: &mut Vec<Case>) {
    for name in [
        "cvt.rni.s32.f32",
        "cvt.rzi.s32.f32",
        "cvt.rmi.s32.f32",
        "cvt.rpi.s32.f32",
        "cvt.rzi.u32.f32",
        "cvt.rna.tf32.f32",
    ] {
        all.push(plain(name, vec![floats(0)], Output::Bits));
    }
    for name in ["cvt.rn.f32.s32", "cvt.rn.f32.u32", "cvt.rz.f32.s32"] {
        all.push(plain(name, vec![words(0)], Output::Exact));
    }
    for name in ["cvt.rn.f16.f32", "cvt.rn.bf16.f32"] {
        all.push(narrow(name, vec![floats(0)]));
    }
    for name in ["cvt.rn.f16x2.f32", "cvt.rn.bf16x2.f32"] {
        all.push(plain(name, vec![floats(0), floats(1)], Output::Bits));
    }
    let body = "mov.b32 {%h0, %h1}, %a0; cvt.f32.f16 %d0, %h0; cvt.f32.f16 %d1, %h1;".into();
    all.push(case("cvt.f32.f16", body, vec![halves(false, 0)], 2, Output::Exact));
    for name in ["cvt.s8.s32", "cvt.u8.u32", "cvt.s16.s32", "cvt.u16.u32"] {
        all.push(plain(name, vec![words(0)], Output::Bits));
    }
    for (kind, bf16) in [("f16x2", false), ("bf16x2", true)] {
        let rows = || vec![halves(bf16, 0), halves(bf16, 1)];
        all.push(plain(
            &format!("fma.rn.{kind}"),
            vec![halves(bf16, 0), halves(bf16, 1), halves(bf16, 2)],
            Output::Bits,
        ));
        for op in ["min", "max"] {
            all.push(plain(&format!("{op}.{kind}"), rows(), Output::Bits));
        }
    }
    for name in ["add.f16x2", "sub.f16x2", "mul.f16x2"] {
        all.push(plain(name, vec![halves(false, 0), halves(false, 1)], Output::Bits));
    }
}

fn exchanges(all: &mut Vec<Case>) {
    for (mode, by, clamp) in
        [("up", 3, 0), ("down", 5, 31), ("bfly", 6, 31), ("idx", 9, 31), ("bfly", 1, 0x1c1f), ("idx", 2, 0x181f)]
    {
        let body = format!("shfl.sync.{mode}.b32 %d0|%p0, %a0, {by}, {clamp}, 0xffffffff; selp.u32 %d1, 1, 0, %p0;");
        all.push(case(&format!("shfl.sync.{mode}.b32 {by} {clamp}"), body, vec![words(0)], 2, Output::Bits));
    }
    let odd = words(0).map(|word| word & 1);
    for mode in ["all", "any", "uni"] {
        let name = format!("vote.sync.{mode}.pred");
        let body = format!("setp.ne.s32 %p1, %a0, 0; {name} %p0, %p1, 0xffffffff; selp.u32 %d0, 1, 0, %p0;");
        all.push(case(&name, body, vec![odd], 1, Output::Bits));
    }
    let body = "setp.ne.s32 %p1, %a0, 0; vote.sync.ballot.b32 %d0, %p1, 0xffffffff;".into();
    all.push(case("vote.sync.ballot.b32", body, vec![odd], 1, Output::Bits));
    all.push(case(
        "match.any.sync.b32",
        "match.any.sync.b32 %d0, %a0, 0xffffffff;".into(),
        vec![words(0).map(|word| word % 5)],
        1,
        Output::Bits,
    ));
    for name in ["add.s32", "min.s32", "max.s32", "min.u32", "max.u32", "and.b32", "or.b32", "xor.b32"] {
        let name = format!("redux.sync.{name}");
        all.push(case(
            &name,
            format!("{name} %d0, %a0, 0xffffffff;"),
            vec![words(0).map(|word| word | 0x40)],
            1,
            Output::Bits,
        ));
    }
    for (mode, kind) in [("popc", "u32"), ("and", "pred"), ("or", "pred")] {
        let name = format!("barrier.cta.red.{mode}.aligned.{kind}").replace("barrier.cta", "bar");
        let name = name.replace(".aligned", "");
        let (to, after) = if mode == "popc" { ("%d0", "") } else { ("%p0", "selp.u32 %d0, 1, 0, %p0;") };
        all.push(case(
            &name,
            format!("setp.ne.s32 %p1, %a0, 0; {name} {to}, 0, %p1; {after}"),
            vec![odd],
            1,
            Output::Bits,
        ));
    }
    for name in ["bar.sync 0", "bar.sync 1, 32", "bar.warp.sync 0xffffffff"] {
        // Each lane reads its neighbour's word.
        let body = format!(
            "shl.b32 %t0, %lane, 2; add.u32 %t1, %tile, %t0; st.shared.u32 [%t1], %a0; {name}; xor.b32 %t0, %t0, 4; \
             add.u32 %t1, %tile, %t0; ld.shared.u32 %d0, [%t1];"
        );
        all.push(case(&name.replace(',', ""), body, vec![words(0)], 1, Output::Bits));
    }
    atomics(all);
}

fn atomics(all: &mut Vec<Case>) {
    for name in [
        "add.u32", "min.s32", "max.s32", "min.u32", "max.u32", "and.b32", "or.b32", "xor.b32", "exch.b32", "inc.u32",
        "dec.u32", "add.f32",
    ] {
        let rows = || if name == "add.f32" { vec![floats(0), floats(1)] } else { vec![words(0), words(1)] };
        let output = if name == "add.f32" { Output::Exact } else { Output::Bits };
        let global = format!("atom.global.{name}");
        all.push(case(&global, format!("{global} %d0, [%in], %a1; ld.global.u32 %d1, [%in];"), rows(), 2, output));
        let shared = format!("atom.shared.{name}");
        let body = format!(
            "shl.b32 %t0, %lane, 2; add.u32 %t1, %tile, %t0; st.shared.u32 [%t1], %a0; {shared} %d0, [%t1], %a1; \
             ld.shared.u32 %d1, [%t1];"
        );
        all.push(case(&shared, body, rows(), 2, output));
    }
    let body = "atom.global.cas.b32 %d0, [%in], %a1, %a2; ld.global.u32 %d1, [%in];".into();
    let mut expected = words(0);
    (0..16).for_each(|lane| expected[2 * lane] ^= 1);
    all.push(case("atom.global.cas.b32", body, vec![words(0), expected, words(2)], 2, Output::Bits));
    all.push(case(
        "red.global.add.u32",
        "red.global.add.u32 [%in], %a1; ld.global.u32 %d0, [%in];".into(),
        vec![words(0), words(1)],
        1,
        Output::Bits,
    ));
}

pub fn all() -> Vec<Case> {
    let mut all = Vec::new();
    integers(&mut all);
    singles(&mut all);
    comparisons(&mut all);
    conversions(&mut all);
    exchanges(&mut all);
    matrices::all(&mut all);
    hopper::all(&mut all);
    all
}

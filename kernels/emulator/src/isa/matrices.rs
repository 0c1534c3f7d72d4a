//! mma, ldmatrix, cp.async and the widths of loads. Values of mma are small multiples of a power of two, so that every
//! order of summation is exact and the answers can be compared bit for bit.

use super::{Case, Output};

fn word(row: usize, lane: usize) -> u32 {
    (row * 32 + lane + 1) as u32 * 0x0101_0307
}

pub(super) fn rows(count: usize) -> Vec<[u32; 32]> {
    (0..count).map(|row| std::array::from_fn(|lane| word(row, lane))).collect()
}

/// -4 to 4 in steps of 1/4, without a pattern.
fn small(index: usize) -> f32 {
    (index * 7919 % 33) as f32 * 0.25 - 4.0
}

/// The bits of such a value in 16-bit floats.
fn half(index: usize, bf16: bool) -> u32 {
    if bf16 { small(index).to_bits() >> 16 } else { crate::ptx::convert::f16_from_f32(small(index)).into() }
}

/// Rows of A, of B and two of C. Only two registers are left for C of the larger shapes: its other half is their negative.
fn rows_of(a: usize, b: usize, element: impl Fn(usize) -> u32) -> Vec<[u32; 32]> {
    let row = |from: usize| std::array::from_fn(|lane| element(32 * from + lane));
    let mut inputs: Vec<[u32; 32]> = (0..a + b).map(row).collect();
    for from in a + b..a + b + 2 {
        inputs.push(std::array::from_fn(|lane| small(32 * from + lane).to_bits()));
    }
    inputs
}

/// The same of pairs of 16-bit floats.
pub(super) fn operands(bf16: bool, a: usize, b: usize) -> Vec<[u32; 32]> {
    rows_of(a, b, |index| half(2 * index, bf16) | half(2 * index + 1, bf16) << 16)
}

fn mma(name: &str, a: usize, b: usize, inputs: Vec<[u32; 32]>) -> Case {
    let list =
        |from: usize, count: usize| (from..from + count).map(|row| format!("%a{row}")).collect::<Vec<_>>().join(", ");
    let (c0, c1) = (a + b, a + b + 1);
    let body = format!(
        "neg.f32 %f0, %a{c0}; neg.f32 %f1, %a{c1}; \
         {name} {{%f0, %f1, %f2, %f3}}, {{{}}}, {{{}}}, {{%a{c0}, %a{c1}, %f0, %f1}}; \
         mov.b32 %d0, %f0; mov.b32 %d1, %f1; mov.b32 %d2, %f2; mov.b32 %d3, %f3;",
        list(0, a),
        list(a, b)
    );
    Case { name: name.into(), ..Case::new(body, inputs, 4, Output::Bits) }
}

/// Four rows of words go to shared memory, a matrix row of 16 bytes every 16 bytes.
fn fill() -> String {
    let store = |row: usize| format!("st.shared.u32 [%t1+{}], %a{row}; ", 128 * row);
    format!(
        "shl.b32 %t0, %lane, 2; add.u32 %t1, %tile, %t0; {}bar.warp.sync 0xffffffff; ",
        (0..4).map(store).collect::<String>()
    )
}

fn load_matrix(count: usize, transposed: bool) -> Case {
    let name = format!("ldmatrix.sync.aligned.m8n8.x{count}{}.shared.b16", if transposed { ".trans" } else { "" });
    let registers: Vec<String> = (0..count).map(|row| format!("%d{row}")).collect();
    let body = format!(
        "{}shl.b32 %t2, %lane, 4; add.u32 %t2, %tile, %t2; {name} {{{}}}, [%t2];",
        fill(),
        registers.join(", ")
    );
    Case { name, ..Case::new(body, rows(4), count, Output::Bits) }
}

/// Each lane copies `bytes` of its 16; the rest of its place holds ones.
fn copy(kind: &str, bytes: usize, size: Option<usize>) -> Case {
    let size = size.map_or(String::new(), |size| format!(", {size}"));
    let op = format!("cp.async.{kind}.shared.global");
    let ones: String = (0..4).map(|word| format!("st.shared.u32 [%t1+{}], -1; ", 4 * word)).collect();
    let loads: String = (0..4).map(|word| format!("ld.shared.u32 %d{word}, [%t1+{}]; ", 4 * word)).collect();
    let body = format!(
        "shl.b32 %t0, %lane, 4; add.u32 %t1, %tile, %t0; {ones}mul.wide.u32 %w1, %lane, 12; add.s64 %w1, %in, %w1; \
         {op} [%t1], [%w1], {bytes}{size}; cp.async.commit_group; cp.async.wait_group 0; {loads}"
    );
    let name = format!("{op} {bytes}{}", size.replace(',', ""));
    Case { name, ..Case::new(body, rows(4), 4, Output::Bits) }
}

pub fn all(all: &mut Vec<Case>) {
    for (kind, bf16) in [("bf16", true), ("f16", false)] {
        for (depth, a, b) in [(8, 2, 1), (16, 4, 2)] {
            all.push(mma(
                &format!("mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32"),
                a,
                b,
                operands(bf16, a, b),
            ));
        }
    }
    for (depth, a, b) in [(4, 2, 1), (8, 4, 2)] {
        let name = format!("mma.sync.aligned.m16n8k{depth}.row.col.f32.tf32.tf32.f32");
        all.push(mma(&name, a, b, rows_of(a, b, |index| small(index).to_bits())));
    }
    for count in [1, 2, 4] {
        all.push(load_matrix(count, false));
        all.push(load_matrix(count, true));
    }
    for (kind, bytes, size) in [
        ("ca", 4, None),
        ("ca", 8, None),
        ("ca", 16, None),
        ("cg", 16, None),
        ("cg", 16, Some(0)),
        ("ca", 16, Some(4)),
        ("ca", 8, Some(4)),
        ("ca", 4, Some(0)),
    ] {
        all.push(copy(kind, bytes, size));
    }
    for (kind, bytes) in [("u8", 1), ("s8", 1), ("u16", 2), ("s16", 2), ("u32", 4)] {
        let name = format!("ld.global.{kind}");
        let body = format!(
            "mul.wide.u32 %w1, %lane, {bytes}; mul.wide.u32 %w2, %lane, 4; sub.s64 %w2, %in, %w2; add.s64 %w2, %w2, %w1; \
             {name} %d0, [%w2];"
        );
        all.push(Case { name, ..Case::new(body, rows(4), 1, Output::Bits) });
    }
    let body =
        "mul.wide.u32 %w1, %lane, 12; add.s64 %w1, %in, %w1; ld.global.v4.u32 {%d0, %d1, %d2, %d3}, [%w1];".into();
    all.push(Case { name: "ld.global.v4.u32".into(), ..Case::new(body, rows(4), 4, Output::Bits) });
    let body = "shl.b32 %t0, %lane, 4; add.u32 %t1, %tile, %t0; st.shared.v4.u32 [%t1], {%a0, %a1, %a2, %a3}; \
                ld.shared.v2.u32 {%d0, %d1}, [%t1+8]; ld.shared.v2.u32 {%d2, %d3}, [%t1];"
        .into();
    all.push(Case { name: "st.shared.v4.u32".into(), ..Case::new(body, rows(4), 4, Output::Bits) });
}

//! Operations that stay in registers.

use super::warp::Warp;
use super::{Lanes, WideLanes, half, lanes, math, put};
use crate::ptx::convert::{bf16_from_f32, directed, f16_from_f32, fma_rounded, overflowed};
use crate::ptx::op::*;
use crate::ptx::types::{Class, Type};

fn float(bits: u32) -> f32 {
    f32::from_bits(bits)
}

#[inline(always)]
fn word1(warp: &mut Warp, d: Slot, a: Slot, mask: u32, f: impl Fn(u32) -> u32) {
    let a = &warp.words[a as usize];
    let value: Lanes = lanes(|i| f(a[i]));
    put(&mut warp.words[d as usize], mask, &value);
}

#[inline(always)]
fn word2(warp: &mut Warp, d: Slot, [a, b]: [Slot; 2], mask: u32, f: impl Fn(u32, u32) -> u32) {
    let (a, b) = (&warp.words[a as usize], &warp.words[b as usize]);
    let value: Lanes = lanes(|i| f(a[i], b[i]));
    put(&mut warp.words[d as usize], mask, &value);
}

#[inline(always)]
fn word3(warp: &mut Warp, d: Slot, [a, b, c]: [Slot; 3], mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
    let (a, b, c) = (&warp.words[a as usize], &warp.words[b as usize], &warp.words[c as usize]);
    let value: Lanes = lanes(|i| f(a[i], b[i], c[i]));
    put(&mut warp.words[d as usize], mask, &value);
}

#[inline(always)]
fn float2(warp: &mut Warp, d: Slot, s: [Slot; 2], mask: u32, f: impl Fn(f32, f32) -> f32) {
    word2(warp, d, s, mask, |a, b| f(float(a), float(b)).to_bits());
}

#[inline(always)]
fn double2(warp: &mut Warp, d: Slot, [a, b]: [Slot; 2], mask: u32, f: impl Fn(u64, u64) -> u64) {
    let (a, b) = (&warp.doubles[a as usize], &warp.doubles[b as usize]);
    let value: WideLanes = lanes(|i| f(a[i], b[i]));
    put(&mut warp.doubles[d as usize], mask, &value);
}

/// PTX's max and min drop a NaN unless `.NaN` asks for it; -0 is below +0.
#[inline(always)]
pub fn extreme(a: f32, b: f32, nan: bool, max: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return if nan || a.is_nan() && b.is_nan() {
            f32::from_bits(0x7fff_ffff)
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    let a_first = if a == b { a.is_sign_positive() == max } else { (a > b) == max };
    if a_first { a } else { b }
}

/// Shifts past the width give 0 (or the sign), not the count modulo the width.
fn shr_signed(a: u32, by: u32) -> u32 {
    ((a as i32) >> by.min(31)) as u32
}

fn find(a: u32, signed: bool, shift: bool) -> u32 {
    let a = if signed && (a as i32) < 0 { !a } else { a };
    match a {
        0 => u32::MAX,
        _ if shift => a.leading_zeros(),
        _ => 31 - a.leading_zeros(),
    }
}

fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(a) | u64::from(b) << 32;
    (0..4).fold(0, |value, i| {
        let pick = selector >> (4 * i);
        let byte = (bytes >> (8 * (pick & 7))) as u8;
        let byte = if pick & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        value | u32::from(byte) << (8 * i)
    })
}

fn extract(a: u32, position: u32, length: u32, signed: bool) -> u32 {
    let (position, length) = (position & 255, length & 255);
    if length == 0 {
        return 0;
    }
    let sign = if signed { a >> (position + length - 1).min(31) & 1 } else { 0 };
    let shifted = if position < 32 { a >> position } else { 0 };
    let kept = if length < 32 { (1u32 << length) - 1 } else { u32::MAX };
    // Bits past the end of `a` are copies of the sign too.
    let real = if position < 32 { u32::MAX >> position } else { 0 };
    let fill = if sign == 1 { !(kept & real) } else { 0 };
    shifted & kept | fill
}

fn insert(a: u64, b: u64, position: u32, length: u32, width: u32) -> u64 {
    let (position, length) = (position & 255, length & 255);
    if length == 0 || position >= width {
        return b;
    }
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let mask = ones << position;
    b & !mask | (a << position) & mask
}

fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    (0..8).filter(|row| table >> row & 1 == 1).fold(0, |value, row| {
        let pick = |word: u32, bit: u32| if row >> bit & 1 == 1 { word } else { !word };
        value | pick(a, 2) & pick(b, 1) & pick(c, 0)
    })
}

fn dot4(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    (0..4).fold(c, |sum, i| {
        let part = |word: u32, signed: bool| {
            let byte = (word >> (8 * i)) as u8;
            if signed { i32::from(byte as i8) } else { i32::from(byte) }
        };
        sum.wrapping_add((part(a, a_signed) * part(b, b_signed)) as u32)
    })
}

fn add_rounded(a: f32, b: f32, rounding: Rounding) -> f32 {
    fma_rounded(a, 1.0, b, rounding)
}

fn mul_rounded(a: f32, b: f32, rounding: Rounding) -> f32 {
    let (exact, nearest) = (f64::from(a) * f64::from(b), a * b);
    match nearest.is_infinite() && exact.is_finite() {
        true => overflowed(nearest, rounding),
        false if !nearest.is_finite() => nearest,
        false => directed(nearest, exact - f64::from(nearest), rounding),
    }
}

#[inline(always)]
pub fn unary(warp: &mut Warp, op: Word1, d: Slot, a: Slot, mask: u32) {
    use Word1::*;
    match op {
        Mov => word1(warp, d, a, mask, |a| a),
        Not => word1(warp, d, a, mask, |a| !a),
        Neg => word1(warp, d, a, mask, |a| a.wrapping_neg()),
        AbsS => word1(warp, d, a, mask, |a| (a as i32).wrapping_abs() as u32),
        NegF => word1(warp, d, a, mask, |a| a ^ 0x8000_0000),
        AbsF => word1(warp, d, a, mask, |a| a & 0x7fff_ffff),
        NegH2 => word1(warp, d, a, mask, |a| a ^ 0x8000_8000),
        AbsH2 => word1(warp, d, a, mask, |a| a & 0x7fff_7fff),
        Popc => word1(warp, d, a, mask, u32::count_ones),
        Clz => word1(warp, d, a, mask, u32::leading_zeros),
        Reverse => word1(warp, d, a, mask, u32::reverse_bits),
        Find { signed, shift } => word1(warp, d, a, mask, |a| find(a, signed, shift)),
        SignExtend8 => word1(warp, d, a, mask, |a| a as i8 as u32),
        SignExtend16 => word1(warp, d, a, mask, |a| a as i16 as u32),
        Low8 => word1(warp, d, a, mask, |a| a & 0xff),
        Low16 => word1(warp, d, a, mask, |a| a & 0xffff),
        Exp2 => word1(warp, d, a, mask, |a| math::exp2(float(a)).to_bits()),
        Log2 => word1(warp, d, a, mask, |a| math::log2(float(a)).to_bits()),
        Recip | RecipApprox => word1(warp, d, a, mask, |a| (1.0 / float(a)).to_bits()),
        RecipSqrt => word1(warp, d, a, mask, |a| (1.0 / float(a).sqrt()).to_bits()),
        Sqrt | SqrtApprox => word1(warp, d, a, mask, |a| float(a).sqrt().to_bits()),
        Sin => word1(warp, d, a, mask, |a| float(a).sin().to_bits()),
        Cos => word1(warp, d, a, mask, |a| float(a).cos().to_bits()),
        Tanh => word1(warp, d, a, mask, |a| math::tanh(float(a)).to_bits()),
        Exp2H2 => word1(warp, d, a, mask, |a| half::map(Half { bf16: false, pair: true }, a, math::exp2)),
        TanhH2 { bf16 } => word1(warp, d, a, mask, |a| half::map(Half { bf16, pair: true }, a, math::tanh)),
        F32FromS32 => word1(warp, d, a, mask, |a| (a as i32 as f32).to_bits()),
        F32FromBf16 => word1(warp, d, a, mask, |a| a << 16),
    }
}

#[inline(always)]
pub fn binary(warp: &mut Warp, op: Word2, d: Slot, s: [Slot; 2], m: u32) {
    use Word2::*;
    match op {
        Add => word2(warp, d, s, m, u32::wrapping_add),
        Sub => word2(warp, d, s, m, u32::wrapping_sub),
        Mul => word2(warp, d, s, m, u32::wrapping_mul),
        MulHighS => word2(warp, d, s, m, |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32),
        MulHighU => word2(warp, d, s, m, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        DivS => word2(warp, d, s, m, |a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }),
        DivU => word2(warp, d, s, m, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        RemS => word2(warp, d, s, m, |a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }),
        RemU => word2(warp, d, s, m, |a, b| a.checked_rem(b).unwrap_or(a)),
        MinS => word2(warp, d, s, m, |a, b| (a as i32).min(b as i32) as u32),
        MinU => word2(warp, d, s, m, u32::min),
        MaxS => word2(warp, d, s, m, |a, b| (a as i32).max(b as i32) as u32),
        MaxU => word2(warp, d, s, m, u32::max),
        And => word2(warp, d, s, m, |a, b| a & b),
        Or => word2(warp, d, s, m, |a, b| a | b),
        Xor => word2(warp, d, s, m, |a, b| a ^ b),
        Shl => word2(warp, d, s, m, |a, b| if b < 32 { a << (b & 31) } else { 0 }),
        ShrU => word2(warp, d, s, m, |a, b| if b < 32 { a >> (b & 31) } else { 0 }),
        ShrS => word2(warp, d, s, m, shr_signed),
        Add16 => word2(warp, d, s, m, |a, b| a.wrapping_add(b) & 0xffff),
        Sub16 => word2(warp, d, s, m, |a, b| a.wrapping_sub(b) & 0xffff),
        Mul16 => word2(warp, d, s, m, |a, b| a.wrapping_mul(b) & 0xffff),
        MulWide16S => word2(warp, d, s, m, |a, b| (i32::from(a as i16) * i32::from(b as i16)) as u32),
        MulWide16U => word2(warp, d, s, m, |a, b| (a & 0xffff) * (b & 0xffff)),
        Shl16 => word2(warp, d, s, m, |a, b| if b < 16 { a << b & 0xffff } else { 0 }),
        AddF => float2(warp, d, s, m, |a, b| a + b),
        SubF => float2(warp, d, s, m, |a, b| a - b),
        MulF => float2(warp, d, s, m, |a, b| a * b),
        DivF | DivApprox => float2(warp, d, s, m, |a, b| a / b),
        AddRounded(r) => float2(warp, d, s, m, |a, b| add_rounded(a, b, r)),
        MulRounded(r) => float2(warp, d, s, m, |a, b| mul_rounded(a, b, r)),
        MinF { nan } => float2(warp, d, s, m, |a, b| extreme(a, b, nan, false)),
        MaxF { nan } => float2(warp, d, s, m, |a, b| extreme(a, b, nan, true)),
        CopySign => word2(warp, d, s, m, |a, b| a & 0x8000_0000 | b & 0x7fff_ffff),
        Half(op, half) => word2(warp, d, s, m, |a, b| half::two(op, half, a, b)),
        Bf16x2FromF32 => {
            word2(warp, d, s, m, |a, b| u32::from(bf16_from_f32(float(a))) << 16 | u32::from(bf16_from_f32(float(b))));
        }
        F16x2FromF32 => {
            word2(warp, d, s, m, |a, b| u32::from(f16_from_f32(float(a))) << 16 | u32::from(f16_from_f32(float(b))));
        }
        Pack16 => word2(warp, d, s, m, |a, b| a & 0xffff | b << 16),
    }
}

#[inline(always)]
pub fn ternary(warp: &mut Warp, op: Word3, d: Slot, s: [Slot; 3], m: u32) {
    use Word3::*;
    match op {
        Mad => word3(warp, d, s, m, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        MadHighS => {
            word3(warp, d, s, m, |a, b, c| (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c))
        }
        MadHighU => word3(warp, d, s, m, |a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
        Mad16 => word3(warp, d, s, m, |a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff),
        Fma => word3(warp, d, s, m, |a, b, c| float(a).mul_add(float(b), float(c)).to_bits()),
        FmaRounded(r) => word3(warp, d, s, m, |a, b, c| fma_rounded(float(a), float(b), float(c), r).to_bits()),
        HalfFma(h) => word3(warp, d, s, m, |a, b, c| half::fma(h, a, b, c)),
        Permute => word3(warp, d, s, m, permute),
        FunnelLeft { clamp } => word3(warp, d, s, m, |a, b, c| {
            let n = if clamp { c.min(32) } else { c & 31 };
            (((u64::from(b) << 32 | u64::from(a)) << n) >> 32) as u32
        }),
        FunnelRight { clamp } => word3(warp, d, s, m, |a, b, c| {
            let n = if clamp { c.min(32) } else { c & 31 };
            ((u64::from(b) << 32 | u64::from(a)) >> n) as u32
        }),
        ExtractS => word3(warp, d, s, m, |a, b, c| extract(a, b, c, true)),
        ExtractU => word3(warp, d, s, m, |a, b, c| extract(a, b, c, false)),
        Sad { signed } => word3(warp, d, s, m, |a, b, c| {
            let distance = if signed { (a as i32).abs_diff(b as i32) } else { a.abs_diff(b) };
            distance.wrapping_add(c)
        }),
        Dot4 { a_signed, b_signed } => word3(warp, d, s, m, |a, b, c| dot4(a, b, c, a_signed, b_signed)),
    }
}

#[inline(always)]
pub fn quaternary(warp: &mut Warp, op: Word4, d: Slot, s: [Slot; 4], mask: u32) {
    let [a, b, c, e] = s;
    let words = &warp.words;
    let (a, b, c, e) = (&words[a as usize], &words[b as usize], &words[c as usize], &words[e as usize]);
    let value = lanes(|i| match op {
        Word4::Insert => insert(a[i].into(), b[i].into(), c[i], e[i], 32) as u32,
        Word4::Lop3 => lop3(a[i], b[i], c[i], e[i]),
    });
    put(&mut warp.words[d as usize], mask, &value);
}

#[inline(always)]
pub fn double_unary(warp: &mut Warp, op: Double1, d: Slot, a: Slot, mask: u32) {
    let f = |x: u64| f64::from_bits(x);
    let a = &warp.doubles[a as usize];
    let value = match op {
        Double1::Mov => *a,
        Double1::Not => lanes(|i| !a[i]),
        Double1::Neg => lanes(|i| a[i].wrapping_neg()),
        Double1::AbsS => lanes(|i| (a[i] as i64).wrapping_abs() as u64),
        Double1::NegF => lanes(|i| (-f(a[i])).to_bits()),
        Double1::AbsF => lanes(|i| f(a[i]).abs().to_bits()),
        Double1::Sqrt => lanes(|i| f(a[i]).sqrt().to_bits()),
        Double1::Recip => lanes(|i| (1.0 / f(a[i])).to_bits()),
    };
    put(&mut warp.doubles[d as usize], mask, &value);
}

#[inline(always)]
pub fn double_binary(warp: &mut Warp, op: Double2, d: Slot, s: [Slot; 2], m: u32) {
    use Double2::*;
    let f = f64::from_bits;
    match op {
        Add => double2(warp, d, s, m, u64::wrapping_add),
        Sub => double2(warp, d, s, m, u64::wrapping_sub),
        Mul => double2(warp, d, s, m, u64::wrapping_mul),
        MulHighS => double2(warp, d, s, m, |a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
        MulHighU => double2(warp, d, s, m, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        DivS => double2(warp, d, s, m, |a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }),
        DivU => double2(warp, d, s, m, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        RemS => double2(warp, d, s, m, |a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }),
        RemU => double2(warp, d, s, m, |a, b| a.checked_rem(b).unwrap_or(a)),
        MinS => double2(warp, d, s, m, |a, b| (a as i64).min(b as i64) as u64),
        MinU => double2(warp, d, s, m, u64::min),
        MaxS => double2(warp, d, s, m, |a, b| (a as i64).max(b as i64) as u64),
        MaxU => double2(warp, d, s, m, u64::max),
        And => double2(warp, d, s, m, |a, b| a & b),
        Or => double2(warp, d, s, m, |a, b| a | b),
        Xor => double2(warp, d, s, m, |a, b| a ^ b),
        AddF => double2(warp, d, s, m, |a, b| (f(a) + f(b)).to_bits()),
        SubF => double2(warp, d, s, m, |a, b| (f(a) - f(b)).to_bits()),
        MulF => double2(warp, d, s, m, |a, b| (f(a) * f(b)).to_bits()),
        DivF => double2(warp, d, s, m, |a, b| (f(a) / f(b)).to_bits()),
        MinF => double2(warp, d, s, m, |a, b| f(a).min(f(b)).to_bits()),
        MaxF => double2(warp, d, s, m, |a, b| f(a).max(f(b)).to_bits()),
    }
}

#[inline(always)]
pub fn double_ternary(warp: &mut Warp, op: Double3, d: Slot, s: [Slot; 3], mask: u32) {
    let f = f64::from_bits;
    let [a, b, c] = s;
    let doubles = &warp.doubles;
    let (a, b, c) = (&doubles[a as usize], &doubles[b as usize], &doubles[c as usize]);
    let value = match op {
        Double3::Mad => lanes(|i| a[i].wrapping_mul(b[i]).wrapping_add(c[i])),
        Double3::Fma => lanes(|i| f(a[i]).mul_add(f(b[i]), f(c[i])).to_bits()),
    };
    put(&mut warp.doubles[d as usize], mask, &value);
}

/// Operations between the two widths, and selections.
#[inline(always)]
pub fn mixed(warp: &mut Warp, op: &Op, mask: u32) {
    let (words, doubles) = (&mut warp.words, &mut warp.doubles);
    match *op {
        Op::DoubleShift(shift, d, a, b) => {
            let (a, b) = (&doubles[a as usize], &words[b as usize]);
            let value = lanes(|i| match shift {
                Shift::Left => a[i].checked_shl(b[i]).unwrap_or(0),
                Shift::RightU => a[i].checked_shr(b[i]).unwrap_or(0),
                Shift::RightS => ((a[i] as i64) >> b[i].min(63)) as u64,
            });
            put(&mut doubles[d as usize], mask, &value);
        }
        Op::Widen { signed, d, a } => {
            let a = &words[a as usize];
            let value = if signed { lanes(|i| i64::from(a[i] as i32) as u64) } else { lanes(|i| u64::from(a[i])) };
            put(&mut doubles[d as usize], mask, &value);
        }
        Op::Narrow { d, a } => {
            let value = lanes(|i| doubles[a as usize][i] as u32);
            put(&mut words[d as usize], mask, &value);
        }
        Op::MulWide { signed, d, a, b } => {
            let (a, b) = (&words[a as usize], &words[b as usize]);
            let value = lanes(|i| product(a[i], b[i], signed));
            put(&mut doubles[d as usize], mask, &value);
        }
        Op::MadWide { signed, d, a, b, c } => {
            let (a, b, c) = (&words[a as usize], &words[b as usize], &doubles[c as usize]);
            let value = lanes(|i| product(a[i], b[i], signed).wrapping_add(c[i]));
            put(&mut doubles[d as usize], mask, &value);
        }
        Op::Pack { d, low, high } => {
            let value = lanes(|i| u64::from(words[low as usize][i]) | u64::from(words[high as usize][i]) << 32);
            put(&mut doubles[d as usize], mask, &value);
        }
        Op::Unpack { low, high, a } => {
            let a = &doubles[a as usize];
            let (l, h) = (lanes(|i| a[i] as u32), lanes(|i| (a[i] >> 32) as u32));
            if low != NONE {
                put(&mut words[low as usize], mask, &l);
            }
            if high != NONE {
                put(&mut words[high as usize], mask, &h);
            }
        }
        Op::Unpack16 { low, high, a } => {
            let a = words[a as usize];
            if low != NONE {
                put(&mut words[low as usize], mask, &lanes(|i| a[i] & 0xffff));
            }
            if high != NONE {
                put(&mut words[high as usize], mask, &lanes(|i| a[i] >> 16));
            }
        }
        Op::Count64 { leading, d, a } => {
            let a = &doubles[a as usize];
            let value = lanes(|i| if leading { a[i].leading_zeros() } else { a[i].count_ones() });
            put(&mut words[d as usize], mask, &value);
        }
        Op::Insert64 { d, a, b, position, length } => {
            let (p, l) = (&words[position as usize], &words[length as usize]);
            let value = lanes(|i| insert(doubles[a as usize][i], doubles[b as usize][i], p[i], l[i], 64));
            put(&mut doubles[d as usize], mask, &value);
        }
        Op::Convert(ref c) => {
            let value = match c.from.class() {
                Class::Double => lanes(|i| c.value(doubles[c.a as usize][i])),
                _ => lanes(|i| c.value(words[c.a as usize][i].into())),
            };
            match c.to.class() {
                Class::Double => put(&mut doubles[c.d as usize], mask, &value),
                _ => put(&mut words[c.d as usize], mask, &lanes(|i| value[i] as u32)),
            }
        }
        Op::Select { d, a, b, p } => {
            let p = warp.predicates[p as usize];
            let mut value = words[b as usize];
            put(&mut value, p, &words[a as usize]);
            put(&mut words[d as usize], mask, &value);
        }
        Op::SelectDouble { d, a, b, p } => {
            let p = warp.predicates[p as usize];
            let mut value = doubles[b as usize];
            put(&mut value, p, &doubles[a as usize]);
            put(&mut doubles[d as usize], mask, &value);
        }
        _ => {}
    }
}

#[inline(always)]
fn product(a: u32, b: u32, signed: bool) -> u64 {
    if signed { (i64::from(a as i32) * i64::from(b as i32)) as u64 } else { u64::from(a) * u64::from(b) }
}

#[inline(always)]
fn bits(f: impl Fn(usize) -> bool) -> u32 {
    // Through bytes, which vectorises where a fold over bits does not.
    let truth: [u8; 32] = lanes(|i| u8::from(f(i)));
    let mut mask = 0;
    for (i, chunk) in truth.as_chunks::<8>().0.iter().enumerate() {
        // Each byte's bit moves to the top byte: the usual multiplication.
        mask |= ((u64::from_le_bytes(*chunk).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32) << (8 * i);
    }
    mask
}

#[inline(always)]
fn relate<T: PartialOrd + Copy>(relation: Relation, a: impl Fn(usize) -> T, b: impl Fn(usize) -> T) -> u32 {
    use Relation::*;
    match relation {
        Eq => bits(|i| a(i) == b(i)),
        Ne => bits(|i| a(i) < b(i) || a(i) > b(i)),
        Lt => bits(|i| a(i) < b(i)),
        Le => bits(|i| a(i) <= b(i)),
        Gt => bits(|i| a(i) > b(i)),
        Ge => bits(|i| a(i) >= b(i)),
        Equ => !bits(|i| a(i) < b(i) || a(i) > b(i)),
        Neu => !bits(|i| a(i) == b(i)),
        Ltu => !bits(|i| a(i) >= b(i)),
        Leu => !bits(|i| a(i) > b(i)),
        Gtu => !bits(|i| a(i) <= b(i)),
        Geu => !bits(|i| a(i) < b(i)),
        Number => bits(|i| a(i) <= b(i) || a(i) > b(i)),
        Nan => !bits(|i| a(i) <= b(i) || a(i) > b(i)),
    }
}

#[inline(always)]
pub fn compare(warp: &mut Warp, c: &Compare, mask: u32) {
    use Type::*;
    let plain = match c.kind.class() {
        Class::Double => {
            let (a, b) = (&warp.doubles[c.a as usize], &warp.doubles[c.b as usize]);
            match c.kind {
                F64 => relate(c.relation, |i| f64::from_bits(a[i]), |i| f64::from_bits(b[i])),
                S64 => relate(c.relation, |i| a[i] as i64, |i| b[i] as i64),
                _ => relate(c.relation, |i| a[i], |i| b[i]),
            }
        }
        _ => {
            let (a, b) = (&warp.words[c.a as usize], &warp.words[c.b as usize]);
            match c.kind {
                F32 => relate(c.relation, |i| float(a[i]), |i| float(b[i])),
                S32 => relate(c.relation, |i| a[i] as i32, |i| b[i] as i32),
                S16 => relate(c.relation, |i| a[i] as i16, |i| b[i] as i16),
                U16 | B16 => relate(c.relation, |i| a[i] as u16, |i| b[i] as u16),
                F16 => relate(
                    c.relation,
                    |i| crate::ptx::convert::f32_from_f16(a[i] as u16),
                    |i| crate::ptx::convert::f32_from_f16(b[i] as u16),
                ),
                Bf16 => relate(c.relation, |i| float(a[i] << 16), |i| float(b[i] << 16)),
                _ => relate(c.relation, |i| a[i], |i| b[i]),
            }
        }
    };
    let mut set = |d: Slot, value: u32| {
        if d != NONE {
            let value = match c.combine {
                Some((op, p, negated)) => {
                    let p = warp.predicates[p as usize] ^ if negated { u32::MAX } else { 0 };
                    logic(op, value, p)
                }
                None => value,
            };
            let old = &mut warp.predicates[d as usize];
            *old = *old & !mask | value & mask;
        }
    };
    // The second result first would be wrong only if it were the combined predicate; nvcc never writes that.
    set(c.d, plain);
    set(c.not_d, !plain);
}

#[inline(always)]
pub fn logic(op: Predicate2, a: u32, b: u32) -> u32 {
    match op {
        Predicate2::And => a & b,
        Predicate2::Or => a | b,
        Predicate2::Xor => a ^ b,
    }
}

//! Arithmetic on one or two 16-bit floats in a word: in f32 and rounded once, which is exact for a single operation.

use super::alu::extreme;
use crate::ptx::convert::{bf16_from_f32, f16_from_f32, f32_from_bf16, f32_from_f16};
use crate::ptx::op::{Half, HalfOp};

fn unpack(bits: u16, half: Half) -> f32 {
    if half.bf16 { f32_from_bf16(bits) } else { f32_from_f16(bits) }
}

fn pack(value: f32, half: Half) -> u16 {
    if half.bf16 { bf16_from_f32(value) } else { f16_from_f32(value) }
}

fn each(half: Half, mut f: impl FnMut(u32) -> u16) -> u32 {
    let low = u32::from(f(0));
    if half.pair { low | u32::from(f(16)) << 16 } else { low }
}

pub fn two(op: HalfOp, half: Half, a: u32, b: u32) -> u32 {
    each(half, |shift| {
        let (x, y) = (unpack((a >> shift) as u16, half), unpack((b >> shift) as u16, half));
        let value = match op {
            HalfOp::Add => x + y,
            HalfOp::Sub => x - y,
            HalfOp::Mul | HalfOp::Fma => x * y,
            HalfOp::Min => extreme(x, y, false, false),
            HalfOp::Max => extreme(x, y, false, true),
        };
        pack(value, half)
    })
}

/// The sum in f64 is exact enough that only the last rounding counts.
pub fn fma(half: Half, a: u32, b: u32, c: u32) -> u32 {
    each(half, |shift| {
        let [x, y, z] = [a, b, c].map(|word| f64::from(unpack((word >> shift) as u16, half)));
        let exact = x * y + z;
        // Rounding to odd on the way to f32 keeps the second rounding right.
        let single = exact as f32;
        let inexact = f64::from(single) != exact && single.is_finite();
        let toward = if inexact && (f64::from(single) > exact) == (exact > 0.0) {
            f32::from_bits(single.to_bits() - 1)
        } else {
            single
        };
        let odd = if inexact { f32::from_bits(toward.to_bits() | 1) } else { single };
        pack(odd, half)
    })
}

pub fn map(half: Half, a: u32, f: impl Fn(f32) -> f32) -> u32 {
    each(half, |shift| pack(f(unpack((a >> shift) as u16, half)), half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_are_computed_and_single_ones_clear_the_top() {
        let pair = Half { bf16: true, pair: true };
        let word = |low: f32, high: f32| u32::from(bf16_from_f32(low)) | u32::from(bf16_from_f32(high)) << 16;
        assert_eq!(two(HalfOp::Add, pair, word(1.0, 2.0), word(0.5, -2.0)), word(1.5, 0.0));
        assert_eq!(fma(pair, word(2.0, 3.0), word(4.0, 5.0), word(1.0, -1.0)), word(9.0, 14.0));
        assert_eq!(two(HalfOp::Mul, Half { bf16: true, pair: false }, word(3.0, 9.0), word(2.0, 9.0)), word(6.0, 0.0));
    }
}

//! Noise: approximate instructions moved within the errors PTX documents, and tensor cores that sum in another order and
//! cut instead of rounding. A tolerance that holds under many seeds does not lean on this emulator's own last bits.
//!
//! The move is a function of the seed and the operand, as hardware's error is.

use super::matrix::Tile;
use super::warp::Warp;
use super::{Lanes, each};
use crate::ptx::op::{Slot, Word1, Word2};

/// How far a result may move.
#[derive(Clone, Copy)]
enum Bound {
    Ulp(i32),
    Absolute(f32),
    Relative(f32),
}

fn bound_of(op: Word1, value: f32) -> Option<Bound> {
    Some(match op {
        // 2 ulp are allowed, and the emulator itself may be off by one.
        Word1::Exp2 | Word1::RecipApprox | Word1::RecipSqrt | Word1::SqrtApprox => Bound::Ulp(1),
        // 2^-22 absolute where the result is below 1, relative elsewhere.
        Word1::Log2 if value.abs() < 1.0 => Bound::Absolute(1.0 / 8_388_608.0),
        Word1::Log2 => Bound::Ulp(1),
        // 2^-20.5 absolute; 2^-11 relative. A little is left for rounding.
        Word1::Sin | Word1::Cos => Bound::Absolute(5e-7),
        Word1::Tanh => Bound::Relative(4e-4),
        _ => return None,
    })
}

/// splitmix64.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Zeros, subnormals, infinities and NaN stay: their results are documented exactly, or nearly.
fn moved(value: f32, bound: Bound, random: u64) -> f32 {
    if !value.is_normal() {
        return value;
    }
    let share = (random >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    let new = match bound {
        Bound::Ulp(most) => {
            let by = (random % (2 * most as u64 + 1)) as i32 - most;
            f32::from_bits(value.to_bits().wrapping_add_signed(by))
        }
        Bound::Absolute(most) => value + share * most,
        Bound::Relative(most) => value + value * share * most,
    };
    if new.is_normal() { new } else { value }
}

/// Moves the result of an approximate function.
pub fn unary(warp: &mut Warp, seed: u64, op: Word1, d: Slot, operand: &Lanes, mask: u32) {
    each(mask, |lane| {
        let word = &mut warp.words[d as usize][lane];
        let value = f32::from_bits(*word);
        // 2^0 and cos 0 are exactly 1.
        let exact = f32::from_bits(operand[lane]) == 0.0;
        if let Some(bound) = bound_of(op, value).filter(|_| !exact) {
            let random = mix(seed ^ mix(u64::from(operand[lane])));
            *word = moved(value, bound, random).to_bits();
        }
    });
}

/// Moves the result of an approximate division.
pub fn binary(warp: &mut Warp, seed: u64, op: Word2, d: Slot, operands: [&Lanes; 2], mask: u32) {
    if op != Word2::DivApprox {
        return;
    }
    each(mask, |lane| {
        let word = &mut warp.words[d as usize][lane];
        let random = mix(seed ^ mix(u64::from(operands[0][lane]) << 32 | u64::from(operands[1][lane])));
        *word = moved(f32::from_bits(*word), Bound::Ulp(1), random).to_bits();
    });
}

/// Toward zero.
fn cut(exact: f64) -> f32 {
    let nearest = exact as f32;
    if nearest.is_finite() && f64::from(nearest.abs()) > exact.abs() {
        f32::from_bits(nearest.to_bits() - 1)
    } else {
        nearest
    }
}

/// The sum of an mma in groups of 4, 8 or 16 products, beginning anywhere along k, each group added and cut.
pub fn accumulate(tile: &mut Tile, seed: u64) {
    let depth = 4 * tile.count;
    let (group, first) = ([4, 8, 16][(mix(seed) % 3) as usize], mix(seed ^ 1) as usize % depth);
    for (row, sums) in tile.sum.iter_mut().enumerate() {
        for (column, sum) in sums.iter_mut().enumerate() {
            let product = |k: usize| {
                let (plane, t) = (&tile.planes[k / 4], k % 4);
                f64::from(plane.a[4 * row + t]) * f64::from(plane.b[t][column])
            };
            let mut k = 0;
            while k < depth {
                let end = (k + group).min(depth);
                let part: f64 = (k..end).map(|k| product((k + first) % depth)).sum();
                *sum = cut(f64::from(*sum) + part);
                k = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_move_by_no_more_than_their_bound_and_exact_ones_stay() {
        for random in (0..10_000).map(mix) {
            let near = moved(3.0, Bound::Ulp(1), random);
            assert!((near.to_bits() as i32 - 3f32.to_bits() as i32).abs() <= 1);
            assert!((moved(0.25, Bound::Absolute(1e-3), random) - 0.25).abs() <= 1.001e-3);
            assert!((moved(8.0, Bound::Relative(1e-3), random) - 8.0).abs() <= 8.01e-3);
            assert_eq!(moved(f32::INFINITY, Bound::Ulp(1), random), f32::INFINITY);
            assert!(moved(f32::MAX, Bound::Ulp(1), random).is_finite());
        }
        assert_eq!(cut(1.0 - 1e-12), 1.0 - f32::EPSILON / 2.0);
        assert_eq!(cut(-1.0 + 1e-12), -1.0 + f32::EPSILON / 2.0);
    }
}

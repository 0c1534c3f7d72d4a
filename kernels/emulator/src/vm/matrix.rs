//! `mma.sync` on m16n8 tiles. Lane l = 4 g + t holds A at rows g and g + 8, B at column g, C and D at rows g and g + 8
//! and columns 2 t, 2 t + 1. Products are summed in f32 in the order of k; hardware's own order and truncation are unknown.
//!
//! A plane is what one element of a lane's words adds to the product: A's column and B's row of k = k0 + step t. D's rows
//! are eight floats, so that a row's update by one k is one vector operation, and A's factors are read where they lie.

use super::Lanes;
use super::warp::Warp;
use crate::ptx::convert::f32_from_f16;
use crate::ptx::op::{Elements, Mma};

pub type Row = [f32; 8];

#[derive(Clone, Copy)]
pub struct Plane {
    /// A's element (row, t) at 4 row + t.
    pub a: [f32; 64],
    /// B's row of each t.
    pub b: [Row; 4],
}

const EMPTY: Plane = Plane { a: [0.0; 64], b: [[0.0; 8]; 4] };

/// D and how to get there: `planes` come in groups of `together`, whose elements lie side by side along k.
pub struct Tile {
    pub sum: [Row; 16],
    pub planes: [Plane; 4],
    pub count: usize,
    pub together: usize,
}

#[inline(always)]
fn element(word: u32, elements: Elements, high: bool) -> f32 {
    match (elements, high) {
        (Elements::Bf16, false) => f32::from_bits(word << 16),
        (Elements::Bf16, true) => f32::from_bits(word & 0xffff_0000),
        (Elements::F16, false) => f32_from_f16(word as u16),
        (Elements::F16, true) => f32_from_f16((word >> 16) as u16),
        // Tensor cores see 10 bits of the mantissa.
        (Elements::Tf32, _) => f32::from_bits(word & 0xffff_e000),
    }
}

#[inline(always)]
fn fill(plane: &mut Plane, [top, bottom, side]: [&Lanes; 3], elements: Elements, high: bool) {
    for lane in 0..32 {
        plane.a[lane] = element(top[lane], elements, high);
        plane.a[lane + 32] = element(bottom[lane], elements, high);
    }
    for t in 0..4 {
        for g in 0..8 {
            plane.b[t][g] = element(side[4 * g + t], elements, high);
        }
    }
}

#[inline(always)]
fn gather(words: &[Lanes], m: &Mma) -> Tile {
    let (width, together) = if m.elements == Elements::Tf32 { (4, 1) } else { (8, 2) };
    let parts = m.depth as usize / width;
    let mut tile = Tile { sum: [[0.0; 8]; 16], planes: [EMPTY; 4], count: parts * together, together };
    for part in 0..parts {
        let registers =
            [&words[m.a[2 * part] as usize], &words[m.a[2 * part + 1] as usize], &words[m.b[part] as usize]];
        for side in 0..together {
            fill(&mut tile.planes[together * part + side], registers, m.elements, side == 1);
        }
    }
    for half in 0..2 {
        let (even, odd) = (&words[m.c[2 * half] as usize], &words[m.c[2 * half + 1] as usize]);
        for g in 0..8 {
            let row = &mut tile.sum[8 * half + g];
            for t in 0..4 {
                (row[2 * t], row[2 * t + 1]) = (f32::from_bits(even[4 * g + t]), f32::from_bits(odd[4 * g + t]));
            }
        }
    }
    tile
}

#[inline(always)]
fn accumulate(tile: &mut Tile) {
    let Tile { sum, planes, count, together } = tile;
    // Eight rows at a time stay in registers.
    for half in 0..2 {
        let mut rows: [Row; 8] = [
            sum[8 * half],
            sum[8 * half + 1],
            sum[8 * half + 2],
            sum[8 * half + 3],
            sum[8 * half + 4],
            sum[8 * half + 5],
            sum[8 * half + 6],
            sum[8 * half + 7],
        ];
        for group in planes[..*count].chunks_exact(*together) {
            for t in 0..4 {
                for plane in group {
                    let b = &plane.b[t];
                    for g in 0..8 {
                        let factor = plane.a[32 * half + 4 * g + t];
                        for n in 0..8 {
                            rows[g][n] = factor.mul_add(b[n], rows[g][n]);
                        }
                    }
                }
            }
        }
        sum[8 * half..8 * half + 8].copy_from_slice(&rows);
    }
}

#[inline(always)]
pub fn multiply(warp: &mut Warp, m: &Mma) {
    let mut tile = gather(&warp.words, m);
    accumulate(&mut tile);
    for half in 0..2 {
        let (mut even, mut odd): (Lanes, Lanes) = ([0; 32], [0; 32]);
        for g in 0..8 {
            let row = &tile.sum[8 * half + g];
            for t in 0..4 {
                (even[4 * g + t], odd[4 * g + t]) = (row[2 * t].to_bits(), row[2 * t + 1].to_bits());
            }
        }
        warp.words[m.d[2 * half] as usize] = even;
        warp.words[m.d[2 * half + 1] as usize] = odd;
    }
}

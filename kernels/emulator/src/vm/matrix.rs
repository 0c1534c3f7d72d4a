//! `mma.sync` on m16n8 tiles. Lane l = 4 g + t holds A at rows g and g + 8, B at column g, C and D at rows g and g + 8
//! and columns 2 t, 2 t + 1. Products are summed in f32 in the order of k; hardware's own order and truncation are unknown.

use super::Lanes;
use super::warp::Warp;
use crate::ptx::convert::f32_from_f16;
use crate::ptx::op::{Elements, Mma};

/// The two floats in a word.
#[inline(always)]
fn pair(word: u32, elements: Elements) -> [f32; 2] {
    match elements {
        Elements::Bf16 => [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)],
        _ => [f32_from_f16(word as u16), f32_from_f16((word >> 16) as u16)],
    }
}

#[inline(always)]
pub fn multiply(warp: &mut Warp, m: &Mma) {
    let words = &warp.words;
    let mut a = [[0f32; 16]; 16];
    let mut b = [[0f32; 8]; 16];
    let depth = m.depth as usize;
    if m.elements == Elements::Tf32 {
        // Tensor cores see 10 bits of the mantissa.
        let cut = |word: u32| f32::from_bits(word & 0xffff_e000);
        for part in 0..depth / 4 {
            let (top, bottom, side) =
                (&words[m.a[2 * part] as usize], &words[m.a[2 * part + 1] as usize], &words[m.b[part] as usize]);
            for lane in 0..32 {
                let (g, k) = (lane / 4, lane % 4 + 4 * part);
                a[g][k] = cut(top[lane]);
                a[g + 8][k] = cut(bottom[lane]);
                b[k][g] = cut(side[lane]);
            }
        }
    } else {
        for part in 0..depth / 8 {
            let (top, bottom, side) =
                (&words[m.a[2 * part] as usize], &words[m.a[2 * part + 1] as usize], &words[m.b[part] as usize]);
            spread(&mut a[..8], top, 8 * part, m.elements);
            spread(&mut a[8..], bottom, 8 * part, m.elements);
            for (lane, &word) in side.iter().enumerate() {
                let (g, k) = (lane / 4, lane % 4 * 2 + 8 * part);
                [b[k][g], b[k + 1][g]] = pair(word, m.elements);
            }
        }
    }
    let mut d: [Lanes; 4] = m.c.map(|slot| words[slot as usize]);
    for half in 0..2 {
        for rows in 0..2 {
            let first = 8 * half + 4 * rows;
            let mut sum = [[0f32; 8]; 4];
            for (row, sum) in sum.iter_mut().enumerate() {
                for (column, sum) in sum.iter_mut().enumerate() {
                    *sum = f32::from_bits(d[2 * half + column % 2][16 * rows + 4 * row + column / 2]);
                }
            }
            for k in 0..depth {
                for (row, sum) in sum.iter_mut().enumerate() {
                    let factor = a[first + row][k];
                    for (sum, b) in sum.iter_mut().zip(&b[k]) {
                        *sum = factor.mul_add(*b, *sum);
                    }
                }
            }
            for (row, sum) in sum.iter().enumerate() {
                for (column, sum) in sum.iter().enumerate() {
                    d[2 * half + column % 2][16 * rows + 4 * row + column / 2] = sum.to_bits();
                }
            }
        }
    }
    for (slot, value) in m.d.iter().zip(&d) {
        warp.words[*slot as usize] = *value;
    }
}

/// Eight rows of eight elements: lane 4 g + t holds elements 2 t and 2 t + 1 of row g.
#[inline(always)]
fn spread(rows: &mut [[f32; 16]], word: &Lanes, column: usize, elements: Elements) {
    for (g, row) in rows.iter_mut().enumerate() {
        for t in 0..4 {
            let [low, high] = pair(word[4 * g + t], elements);
            (row[column + 2 * t], row[column + 2 * t + 1]) = (low, high);
        }
    }
}

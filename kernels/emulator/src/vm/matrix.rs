//! `mma.sync` on m16n8 tiles. Lane l = 4 g + t holds A at rows g and g + 8, B at column g, C and D at rows g and g + 8
//! and columns 2 t, 2 t + 1. Products are summed in f32 in the order of k; hardware's own order and truncation are unknown.
//!
//! A plane is what one element of a lane's words adds to the product: A's column and B's row of k = k0 + step t. D's rows
//! are eight floats, so that a row's update by one k is one vector operation, and A's factors are read where they lie.

use super::warp::Warp;
use super::{Lanes, noise};
use crate::ptx::convert::f32_from_f16;
use crate::ptx::op::{Elements, Mma, Slot};

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
fn fill(plane: &mut Plane, [top, bottom, side]: [&Lanes; 3], element: impl Fn(u32) -> f32) {
    for lane in 0..32 {
        plane.a[lane] = element(top[lane]);
        plane.a[lane + 32] = element(bottom[lane]);
    }
    for t in 0..4 {
        for g in 0..8 {
            plane.b[t][g] = element(side[4 * g + t]);
        }
    }
}

impl Default for Tile {
    fn default() -> Self {
        Self { sum: [[0.0; 8]; 16], planes: [EMPTY; 4], count: 0, together: 1 }
    }
}

#[inline(always)]
fn gather(words: &[Lanes], m: &Mma, tile: &mut Tile) {
    let (width, together) = if m.elements == Elements::Tf32 { (4, 1) } else { (8, 2) };
    let parts = m.depth as usize / width;
    (tile.count, tile.together) = (parts * together, together);
    for part in 0..parts {
        let registers =
            [&words[m.a[2 * part] as usize], &words[m.a[2 * part + 1] as usize], &words[m.b[part] as usize]];
        let planes = &mut tile.planes[together * part..together * (part + 1)];
        match m.elements {
            Elements::Bf16 => {
                fill(&mut planes[0], registers, |word| f32::from_bits(word << 16));
                fill(&mut planes[1], registers, |word| f32::from_bits(word & 0xffff_0000));
            }
            Elements::F16 => {
                fill(&mut planes[0], registers, |word| f32_from_f16(word as u16));
                fill(&mut planes[1], registers, |word| f32_from_f16((word >> 16) as u16));
            }
            // Tensor cores see 10 bits of the mantissa.
            Elements::Tf32 => fill(&mut planes[0], registers, |word| f32::from_bits(word & 0xffff_e000)),
        }
    }
    gather_sums(words, &m.c, tile);
}

/// D's rows out of its fragment.
#[inline(always)]
pub fn gather_sums(words: &[Lanes], c: &[Slot; 4], tile: &mut Tile) {
    for half in 0..2 {
        let (even, odd) = (&words[c[2 * half] as usize], &words[c[2 * half + 1] as usize]);
        for g in 0..8 {
            let row = &mut tile.sum[8 * half + g];
            for t in 0..4 {
                (row[2 * t], row[2 * t + 1]) = (f32::from_bits(even[4 * g + t]), f32::from_bits(odd[4 * g + t]));
            }
        }
    }
}

fn accumulate(tile: &mut Tile) {
    for group in tile.planes[..tile.count].chunks_exact(tile.together) {
        for t in 0..4 {
            for plane in group {
                for (row, sum) in tile.sum.iter_mut().enumerate() {
                    for (sum, b) in sum.iter_mut().zip(&plane.b[t]) {
                        *sum = plane.a[4 * row + t].mul_add(*b, *sum);
                    }
                }
            }
        }
    }
}

/// The same in registers, eight rows at a time: compilers do not find this by themselves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn accumulate_vector(tile: &mut Tile) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    for half in 0..2 {
        let mut rows = [_mm256_setzero_ps(); 8];
        for (g, row) in rows.iter_mut().enumerate() {
            // SAFETY: eight floats are read.
            *row = unsafe { _mm256_loadu_ps(tile.sum[8 * half + g].as_ptr()) };
        }
        for group in tile.planes[..tile.count].chunks_exact(tile.together) {
            for t in 0..4 {
                for plane in group {
                    // SAFETY: eight floats are read.
                    let b = unsafe { _mm256_loadu_ps(plane.b[t].as_ptr()) };
                    let factors = &plane.a[32 * half..32 * half + 32];
                    for g in 0..8 {
                        rows[g] = _mm256_fmadd_ps(_mm256_set1_ps(factors[4 * g + t]), b, rows[g]);
                    }
                }
            }
        }
        for (g, row) in rows.iter().enumerate() {
            // SAFETY: eight floats are written.
            unsafe { _mm256_storeu_ps(tile.sum[8 * half + g].as_mut_ptr(), *row) };
        }
    }
}

#[inline(always)]
pub fn multiply(warp: &mut Warp, m: &Mma) {
    let Warp { words, tile, vector, noise, .. } = warp;
    gather(words, m, tile);
    sum(tile, *noise, *vector);
    scatter_sums(words, &m.d, tile);
}

/// Adds the planes' products to the sums.
#[inline(always)]
pub fn sum(tile: &mut Tile, noise: Option<u64>, vector: bool) {
    match (noise, vector) {
        (Some(seed), _) => noise::accumulate(tile, seed),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `vector` is set only where the CPU was found to have these features.
        (None, true) => unsafe { accumulate_vector(tile) },
        _ => accumulate(tile),
    }
}

/// D's rows into its fragment.
#[inline(always)]
pub fn scatter_sums(words: &mut [Lanes], d: &[Slot; 4], tile: &Tile) {
    for half in 0..2 {
        let (mut even, mut odd): (Lanes, Lanes) = ([0; 32], [0; 32]);
        for g in 0..8 {
            let row = &tile.sum[8 * half + g];
            for t in 0..4 {
                (even[4 * g + t], odd[4 * g + t]) = (row[2 * t].to_bits(), row[2 * t + 1].to_bits());
            }
        }
        words[d[2 * half] as usize] = even;
        words[d[2 * half + 1] as usize] = odd;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn rows_in_registers_give_the_same_bits() {
        if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
            return;
        }
        let value = |index: usize| (index * 7919 % 1009) as f32 / 97.0 - 5.0;
        for (count, together) in [(2, 2), (4, 2), (1, 1), (2, 1)] {
            let tile = || {
                let mut tile = Tile { count, together, ..Tile::default() };
                for (index, plane) in tile.planes.iter_mut().enumerate() {
                    (0..64).for_each(|at| plane.a[at] = value(64 * index + at));
                    (0..32).for_each(|at| plane.b[at / 8][at % 8] = value(1000 + 32 * index + at));
                }
                (0..128).for_each(|at| tile.sum[at / 8][at % 8] = value(2000 + at));
                tile
            };
            let (mut plain, mut vector) = (tile(), tile());
            accumulate(&mut plain);
            // SAFETY: the CPU was just found to have these features.
            unsafe { accumulate_vector(&mut vector) };
            assert_eq!(plain.sum.map(|row| row.map(f32::to_bits)), vector.sum.map(|row| row.map(f32::to_bits)));
        }
    }
}

//! The dot-product micro-kernel: both operands contiguous along k, one vector of partial sums an output.
//!
//! Lane l of an output's vector sums the products of all k = l mod LANES, in order; then the lanes are added in
//! [`Simd::sum`]'s order. Which tile an output falls into changes neither.

// Loops over registers by index unroll; iterators over arrays of them may not.
#![allow(clippy::needless_range_loop)]

use crate::device::cpu::simd::{Element, Simd};

/// Columns of a tile.
pub(super) const COLUMNS: usize = 4;

/// One tile's operands: rows `i` of x at `x + i * x_stride`, rows `j` of w at `w + j * w_stride`, outputs at
/// `y + i * y_stride + j`.
#[derive(Clone, Copy)]
pub(super) struct Tile<W> {
    pub k: usize,
    pub x: *const f32,
    pub x_stride: usize,
    pub w: *const W,
    pub w_stride: usize,
    pub y: *mut f32,
    pub y_stride: usize,
    /// Add to y rather than overwrite it.
    pub add: bool,
}

impl<W: Element> Tile<W> {
    /// Computes `rows <= S::DOT_ROWS` rows of [`COLUMNS`] outputs.
    ///
    /// # Safety
    /// The instruction set of `S` is there; rows and outputs are readable and writable, `y` by no one else.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(self, rows: usize) {
        // SAFETY: the contract of this function.
        unsafe {
            match rows {
                1 => self.rows::<S, 1>(),
                2 if S::DOT_ROWS >= 2 => self.rows::<S, 2>(),
                3 if S::DOT_ROWS >= 3 => self.rows::<S, 3>(),
                4 if S::DOT_ROWS >= 4 => self.rows::<S, 4>(),
                5 if S::DOT_ROWS >= 5 => self.rows::<S, 5>(),
                6 if S::DOT_ROWS >= 6 => self.rows::<S, 6>(),
                _ => unreachable!("a tile has 1 to DOT_ROWS rows"),
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<S: Simd, const M: usize>(self) {
        // SAFETY: k elements of each row are readable, the outputs writable, by the contract of `run`.
        unsafe {
            let mut sums = [[S::zero(); COLUMNS]; M];
            let mut p = 0;
            while p + S::LANES <= self.k {
                let mut x = [S::zero(); M];
                for i in 0..M {
                    x[i] = S::load(self.x.add(i * self.x_stride + p));
                }
                for j in 0..COLUMNS {
                    let w = W::load::<S>(self.w.add(j * self.w_stride + p));
                    for i in 0..M {
                        sums[i][j] = S::fma(x[i], w, sums[i][j]);
                    }
                }
                p += S::LANES;
            }
            if p < self.k {
                let count = self.k - p;
                let mut x = [S::zero(); M];
                for i in 0..M {
                    x[i] = S::load_partial(self.x.add(i * self.x_stride + p), count);
                }
                for j in 0..COLUMNS {
                    let w = W::load_partial::<S>(self.w.add(j * self.w_stride + p), count);
                    for i in 0..M {
                        sums[i][j] = S::fma(x[i], w, sums[i][j]);
                    }
                }
            }
            for i in 0..M {
                let y = self.y.add(i * self.y_stride).cast::<[f32; COLUMNS]>();
                let mut sum = S::sum4(sums[i]);
                if self.add {
                    let old = y.read_unaligned();
                    for j in 0..COLUMNS {
                        sum[j] += old[j];
                    }
                }
                y.write_unaligned(sum);
            }
        }
    }

    /// Computes one output (the last columns, where n is no multiple of [`COLUMNS`]).
    ///
    /// # Safety
    /// As for [`Self::run`].
    #[inline(always)]
    pub unsafe fn single<S: Simd>(self) {
        // SAFETY: as in `rows`.
        unsafe {
            let mut sums = S::zero();
            let mut p = 0;
            while p + S::LANES <= self.k {
                sums = S::fma(S::load(self.x.add(p)), W::load::<S>(self.w.add(p)), sums);
                p += S::LANES;
            }
            if p < self.k {
                let count = self.k - p;
                let x = S::load_partial(self.x.add(p), count);
                sums = S::fma(x, W::load_partial::<S>(self.w.add(p), count), sums);
            }
            *self.y = if self.add { *self.y + S::sum(sums) } else { S::sum(sums) };
        }
    }
}

//! The outer-product micro-kernel: columns of a broadcast against rows of b, one register of outputs' sums a pair.
//!
//! An output is the chain `fma(a[i, p], b[p, j], sum)` over a block of k in order, whichever lane and tile hold it.

// Loops over registers by index unroll; iterators over arrays of them may not.
#![allow(clippy::needless_range_loop)]

use crate::device::cpu::simd::{Element, Simd};

/// One tile's operands: `a(i, p)` at `a + i * a_row + p * a_step`, `b(p, j)` at `b + p * b_step + j`, output (i, j) at
/// `c + i * c_stride + j`. Steps of zero-padded panels or of the matrices themselves.
#[derive(Clone, Copy)]
pub(super) struct Tile<B> {
    pub k: usize,
    pub a: *const f32,
    pub a_row: usize,
    pub a_step: usize,
    pub b: *const B,
    pub b_step: usize,
    /// Whether whole registers of b can be read, however few columns are wanted.
    pub b_padded: bool,
    pub c: *mut f32,
    pub c_stride: usize,
    /// Add to c rather than overwrite it.
    pub add: bool,
}

impl<B: Element> Tile<B> {
    /// Computes `rows <= S::OUTER_ROWS` by `columns <= 2 * S::LANES` outputs.
    ///
    /// # Safety
    /// The instruction set of `S` is there; operands are readable and outputs writable, by no one else.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(self, rows: usize, columns: usize) {
        // SAFETY: the contract of this function.
        unsafe {
            if columns == 2 * S::LANES {
                self.height::<S, 2, true>(rows, S::LANES);
            } else if columns > S::LANES {
                self.height::<S, 2, false>(rows, columns - S::LANES);
            } else {
                self.height::<S, 1, false>(rows, columns);
            }
        }
    }

    /// Whole tiles have a height of their own; the last rows are cut into few others, to keep the code small.
    #[inline(always)]
    unsafe fn height<S: Simd, const N: usize, const WHOLE: bool>(mut self, mut rows: usize, last: usize) {
        debug_assert!(rows <= S::OUTER_ROWS, "a tile has at most OUTER_ROWS rows");
        // SAFETY: the contract of `run`; each round computes the next rows.
        unsafe {
            while rows > 0 {
                let height = match rows {
                    12.. if S::OUTER_ROWS >= 12 => {
                        self.sums::<S, 12, N, WHOLE>(last);
                        12
                    }
                    6.. if S::OUTER_ROWS >= 6 => {
                        self.sums::<S, 6, N, WHOLE>(last);
                        6
                    }
                    3.. if S::OUTER_ROWS >= 3 => {
                        self.sums::<S, 3, N, WHOLE>(last);
                        3
                    }
                    _ => {
                        self.sums::<S, 1, N, WHOLE>(last);
                        1
                    }
                };
                self.a = self.a.add(height * self.a_row);
                self.c = self.c.add(height * self.c_stride);
                rows -= height;
            }
        }
    }

    /// `M` rows by `N` registers, of the last of which `last` lanes are outputs.
    #[inline(always)]
    unsafe fn sums<S: Simd, const M: usize, const N: usize, const WHOLE: bool>(self, last: usize) {
        // SAFETY: the contract of `run`.
        unsafe {
            let mut sums = [[S::zero(); N]; M];
            let whole_b = WHOLE || self.b_padded || last == S::LANES;
            for p in 0..self.k {
                let source = self.b.add(p * self.b_step);
                let mut b = [S::zero(); N];
                for j in 0..N - 1 {
                    b[j] = B::load::<S>(source.add(j * S::LANES));
                }
                let source = source.add((N - 1) * S::LANES);
                b[N - 1] = if whole_b { B::load::<S>(source) } else { B::load_partial::<S>(source, last) };
                for i in 0..M {
                    let a = S::splat(*self.a.add(i * self.a_row + p * self.a_step));
                    for j in 0..N {
                        sums[i][j] = S::fma(a, b[j], sums[i][j]);
                    }
                }
            }
            for i in 0..M {
                for j in 0..N {
                    let c = self.c.add(i * self.c_stride + j * S::LANES);
                    if WHOLE || j + 1 < N || last == S::LANES {
                        S::store(c, if self.add { S::add(S::load(c), sums[i][j]) } else { sums[i][j] });
                    } else {
                        let sum = if self.add { S::add(S::load_partial(c, last), sums[i][j]) } else { sums[i][j] };
                        S::store_partial(c, sum, last);
                    }
                }
            }
        }
    }
}

//! The two small products attention is made of, on tiles that stay in cache.
//!
//! Every output is one chain of fused multiply-adds in a fixed order, so it does not matter how many rows or keys a call
//! covers: a query alone and a query in a tile of 32 get the same bits.

// Loops over registers by index unroll; iterators over arrays of them may not.
#![allow(clippy::needless_range_loop)]

use crate::device::cpu::simd::{Kernel, Simd};

/// A matrix operand: element `(i, j)` is at `pointer + i * stride + j`.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub pointer: *const f32,
    pub stride: usize,
}

impl Rows {
    /// The matrix that starts at row `i`.
    ///
    /// # Safety
    /// Row `i` is part of the matrix.
    #[inline(always)]
    pub unsafe fn skip(self, i: usize) -> Self {
        // SAFETY: in bounds by the contract.
        Self { pointer: unsafe { self.pointer.add(i * self.stride) }, stride: self.stride }
    }
}

/// `out[r, j] = scale * sum_d a[r, d] b[j, d]` for `r < rows`, `j < columns`.
///
/// # Safety
/// The operands hold `rows x depth` and `columns x depth` elements, `out` holds `rows` rows of `columns` at `out_stride`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn dot<S: Simd>(
    rows: usize,
    columns: usize,
    depth: usize,
    a: Rows,
    b: Rows,
    scale: f32,
    out: *mut f32,
    out_stride: usize,
) {
    // SAFETY: the contract of this function.
    unsafe { S::call(Dot { rows, columns, depth, a, b, scale, out, out_stride }) }
}

/// [`dot`] in a function of its own: its accumulators fill the register file.
struct Dot {
    rows: usize,
    columns: usize,
    depth: usize,
    a: Rows,
    b: Rows,
    scale: f32,
    out: *mut f32,
    out_stride: usize,
}

/// Columns of a tile of [`Dot`]: as many as [`Simd::sum4`] sums at once.
const COLUMNS: usize = 4;

impl Kernel for Dot {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (mut a, mut out, mut left) = (self.a, self.out, self.rows);
        while left > 0 {
            // SAFETY: strips of 6, 3 or 1 rows cover exactly `rows`.
            unsafe {
                let height = match left {
                    6.. if S::DOT_ROWS >= 6 => self.strip::<S, 6>(a, out),
                    3.. => self.strip::<S, 3>(a, out),
                    _ => self.strip::<S, 1>(a, out),
                };
                a = a.skip(height);
                out = out.add(height * self.out_stride);
                left -= height;
            }
        }
    }
}

impl Dot {
    /// `R` rows against all columns; returns `R`.
    #[inline(always)]
    unsafe fn strip<S: Simd, const R: usize>(&self, a: Rows, out: *mut f32) -> usize {
        // SAFETY: tiles of COLUMNS columns and single ones cover exactly `columns`.
        unsafe {
            let mut j = 0;
            while j + COLUMNS <= self.columns {
                let sums = self.sums::<S, R, COLUMNS>(a, self.b.skip(j));
                for r in 0..R {
                    let target = out.add(r * self.out_stride + j).cast::<[f32; COLUMNS]>();
                    let mut row = S::sum4(sums[r]);
                    for j in 0..COLUMNS {
                        row[j] *= self.scale;
                    }
                    target.write_unaligned(row);
                }
                j += COLUMNS;
            }
            while j < self.columns {
                let sums = self.sums::<S, R, 1>(a, self.b.skip(j));
                for r in 0..R {
                    *out.add(r * self.out_stride + j) = self.scale * S::sum(sums[r][0]);
                }
                j += 1;
            }
        }
        R
    }

    /// The lanes' sums of a tile.
    #[inline(always)]
    unsafe fn sums<S: Simd, const R: usize, const C: usize>(&self, a: Rows, b: Rows) -> [[S::V; C]; R] {
        let depth = self.depth;
        // SAFETY: `R` rows of `a` and `C` rows of `b` exist, by the caller's tiling.
        unsafe {
            let mut sums = [[S::zero(); C]; R];
            let mut d = 0;
            while d + S::LANES <= depth {
                let mut lanes = [S::zero(); R];
                for r in 0..R {
                    lanes[r] = S::load(a.pointer.add(r * a.stride + d));
                }
                // One key at a time: the register file holds no more.
                for j in 0..C {
                    let key = S::load(b.pointer.add(j * b.stride + d));
                    for r in 0..R {
                        sums[r][j] = S::fma(lanes[r], key, sums[r][j]);
                    }
                }
                d += S::LANES;
            }
            if d < depth {
                let rest = depth - d;
                for r in 0..R {
                    let lanes = S::load_partial(a.pointer.add(r * a.stride + d), rest);
                    for j in 0..C {
                        sums[r][j] = S::fma(lanes, S::load_partial(b.pointer.add(j * b.stride + d), rest), sums[r][j]);
                    }
                }
            }
            sums
        }
    }
}

/// `out[r, d] += sum_j p(r, j) v[j, d]` for `r < rows`, `j < inner`, `d < depth`, summed in the order of `j`;
/// `p(r, j)` is at `p + r * p_row + j * p_column`, so either operand order of a product works.
///
/// # Safety
/// `p` holds `rows x inner` elements at its strides, `v` holds `inner x depth`, `out` holds `rows x depth`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn accumulate<S: Simd>(
    rows: usize,
    inner: usize,
    depth: usize,
    p: *const f32,
    p_row: usize,
    p_column: usize,
    v: Rows,
    out: *mut f32,
    out_stride: usize,
) {
    // SAFETY: the contract of this function.
    unsafe { S::call(Accumulate { rows, inner, depth, p, p_row, p_column, v, out, out_stride }) }
}

/// [`accumulate`] in a function of its own.
struct Accumulate {
    rows: usize,
    inner: usize,
    depth: usize,
    p: *const f32,
    p_row: usize,
    p_column: usize,
    v: Rows,
    out: *mut f32,
    out_stride: usize,
}

impl Kernel for Accumulate {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut d = 0;
        while d < self.depth {
            let left = self.depth - d;
            // SAFETY: strips of 4, 2 or 1 registers and a partial one cover exactly `depth`.
            d += unsafe {
                match left / S::LANES {
                    // Six rows of four registers and what feeds them fit 32 registers, not 16.
                    4.. if S::DOT_ROWS >= 6 => self.strip::<S, 4>(d, 0),
                    2.. => self.strip::<S, 2>(d, 0),
                    1 => self.strip::<S, 1>(d, 0),
                    _ => self.strip::<S, 1>(d, left),
                }
            };
        }
    }
}

impl Accumulate {
    /// `C` registers from column `d`, the only one cut to `partial` lanes unless 0; returns how many columns that is.
    #[inline(always)]
    unsafe fn strip<S: Simd, const C: usize>(&self, d: usize, partial: usize) -> usize {
        let mut r = 0;
        while r < self.rows {
            // SAFETY: tiles of 6, 3 or 1 rows cover exactly `rows`.
            r += unsafe {
                match self.rows - r {
                    6.. => self.tile::<S, 6, C>(r, d, partial),
                    3.. => self.tile::<S, 3, C>(r, d, partial),
                    _ => self.tile::<S, 1, C>(r, d, partial),
                }
            };
        }
        if partial == 0 { C * S::LANES } else { partial }
    }

    /// One register tile: `R` rows; returns `R`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const C: usize>(&self, r: usize, d: usize, partial: usize) -> usize {
        let Self { inner, p_row, p_column, v, out_stride, .. } = *self;
        // SAFETY: `R` rows and `C` registers (or `partial` lanes) of `v` and `out` exist, by the caller's tiling.
        unsafe {
            let (p, out) = (self.p.add(r * p_row), self.out.add(r * out_stride + d));
            let (v, stride) = (v.pointer.add(d), v.stride);
            let load =
                |pointer: *const f32| if partial == 0 { S::load(pointer) } else { S::load_partial(pointer, partial) };
            let mut sums = [[S::zero(); C]; R];
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = load(out.add(r * out_stride + c * S::LANES));
                }
            }
            for j in 0..inner {
                let mut values = [S::zero(); C];
                for c in 0..C {
                    values[c] = load(v.add(j * stride + c * S::LANES));
                }
                for r in 0..R {
                    let weight = S::splat(*p.add(r * p_row + j * p_column));
                    for c in 0..C {
                        sums[r][c] = S::fma(weight, values[c], sums[r][c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    let target = out.add(r * out_stride + c * S::LANES);
                    if partial == 0 {
                        S::store(target, sums[r][c])
                    } else {
                        S::store_partial(target, sums[r][c], partial)
                    }
                }
            }
        }
        R
    }
}

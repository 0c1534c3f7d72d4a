//! The two small products attention is made of, on tiles that stay in cache.
//!
//! Every output is one chain of fused multiply-adds in a fixed order, so it does not matter how many rows or keys a call
//! covers: a query alone and a query in a tile of 32 get the same bits.

use crate::device::cpu::simd::Simd;

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
    // SAFETY: tiles of 4 x 2, 4 x 1, 1 x 2 and 1 x 1 cover exactly `rows x columns`.
    unsafe {
        let mut r = 0;
        while r + 4 <= rows {
            let (a, out) = (a.skip(r), out.add(r * out_stride));
            let mut j = 0;
            while j + 2 <= columns {
                dot_tile::<S, 4, 2>(depth, a, b.skip(j), scale, out.add(j), out_stride);
                j += 2;
            }
            if j < columns {
                dot_tile::<S, 4, 1>(depth, a, b.skip(j), scale, out.add(j), out_stride);
            }
            r += 4;
        }
        while r < rows {
            let (a, out) = (a.skip(r), out.add(r * out_stride));
            let mut j = 0;
            while j + 4 <= columns {
                dot_tile::<S, 1, 4>(depth, a, b.skip(j), scale, out.add(j), out_stride);
                j += 4;
            }
            while j < columns {
                dot_tile::<S, 1, 1>(depth, a, b.skip(j), scale, out.add(j), out_stride);
                j += 1;
            }
            r += 1;
        }
    }
}

/// One register tile of [`dot`].
#[inline(always)]
unsafe fn dot_tile<S: Simd, const R: usize, const C: usize>(
    depth: usize,
    a: Rows,
    b: Rows,
    scale: f32,
    out: *mut f32,
    out_stride: usize,
) {
    // SAFETY: `R` rows of `a`, `C` rows of `b` and the `R x C` outputs exist, by the caller's tiling.
    unsafe {
        let mut sums = [[S::zero(); C]; R];
        let mut d = 0;
        while d + S::LANES <= depth {
            let mut keys = [S::zero(); C];
            for (j, key) in keys.iter_mut().enumerate() {
                *key = S::load(b.pointer.add(j * b.stride + d));
            }
            for (r, row) in sums.iter_mut().enumerate() {
                let x = S::load(a.pointer.add(r * a.stride + d));
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = S::fma(x, keys[j], *sum);
                }
            }
            d += S::LANES;
        }
        if d < depth {
            let rest = depth - d;
            for (r, row) in sums.iter_mut().enumerate() {
                let x = S::load_partial(a.pointer.add(r * a.stride + d), rest);
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = S::fma(x, S::load_partial(b.pointer.add(j * b.stride + d), rest), *sum);
                }
            }
        }
        for (r, row) in sums.into_iter().enumerate() {
            for (j, sum) in row.into_iter().enumerate() {
                *out.add(r * out_stride + j) = scale * S::sum(sum);
            }
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
    // SAFETY: tiles of 4 or 1 rows by 2 or 1 registers, and a partial register, cover exactly `rows x depth`.
    unsafe {
        let mut d = 0;
        while d < depth {
            let width = (depth - d).min(2 * S::LANES);
            let v = Rows { pointer: v.pointer.add(d), stride: v.stride };
            let mut r = 0;
            while r < rows {
                let four = r + 4 <= rows;
                let (p, out) = (p.add(r * p_row), out.add(r * out_stride + d));
                match (four, width == 2 * S::LANES) {
                    (true, true) => accumulate_tile::<S, 4, 2>(inner, p, p_row, p_column, v, out, out_stride, 0),
                    (false, true) => accumulate_tile::<S, 1, 2>(inner, p, p_row, p_column, v, out, out_stride, 0),
                    (true, false) => {
                        narrow::<S, 4>(inner, p, p_row, p_column, v, out, out_stride, width);
                    }
                    (false, false) => {
                        narrow::<S, 1>(inner, p, p_row, p_column, v, out, out_stride, width);
                    }
                }
                r += if four { 4 } else { 1 };
            }
            d += width;
        }
    }
}

/// Fewer than two registers of depth: a whole one if there is one, then the partial rest.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn narrow<S: Simd, const R: usize>(
    inner: usize,
    p: *const f32,
    p_row: usize,
    p_column: usize,
    v: Rows,
    out: *mut f32,
    out_stride: usize,
    width: usize,
) {
    // SAFETY: `width` columns exist, by the caller's tiling.
    unsafe {
        let whole = width / S::LANES * S::LANES;
        if whole > 0 {
            accumulate_tile::<S, R, 1>(inner, p, p_row, p_column, v, out, out_stride, 0);
        }
        if width > whole {
            let v = Rows { pointer: v.pointer.add(whole), stride: v.stride };
            accumulate_tile::<S, R, 1>(inner, p, p_row, p_column, v, out.add(whole), out_stride, width - whole);
        }
    }
}

/// One register tile of [`accumulate`]: `R` rows by `C` registers, the only register cut to `partial` lanes unless 0.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn accumulate_tile<S: Simd, const R: usize, const C: usize>(
    inner: usize,
    p: *const f32,
    p_row: usize,
    p_column: usize,
    v: Rows,
    out: *mut f32,
    out_stride: usize,
    partial: usize,
) {
    // SAFETY: `R` rows and `C` registers (or `partial` lanes) of `v` and `out` exist, by the caller's tiling.
    unsafe {
        let load =
            |pointer: *const f32| if partial == 0 { S::load(pointer) } else { S::load_partial(pointer, partial) };
        let mut sums = [[S::zero(); C]; R];
        for (r, row) in sums.iter_mut().enumerate() {
            for (c, sum) in row.iter_mut().enumerate() {
                *sum = load(out.add(r * out_stride + c * S::LANES));
            }
        }
        for j in 0..inner {
            let mut values = [S::zero(); C];
            for (c, value) in values.iter_mut().enumerate() {
                *value = load(v.pointer.add(j * v.stride + c * S::LANES));
            }
            for (r, row) in sums.iter_mut().enumerate() {
                let weight = S::splat(*p.add(r * p_row + j * p_column));
                for (c, sum) in row.iter_mut().enumerate() {
                    *sum = S::fma(weight, values[c], *sum);
                }
            }
        }
        for (r, row) in sums.into_iter().enumerate() {
            for (c, sum) in row.into_iter().enumerate() {
                let target = out.add(r * out_stride + c * S::LANES);
                if partial == 0 { S::store(target, sum) } else { S::store_partial(target, sum, partial) }
            }
        }
    }
}

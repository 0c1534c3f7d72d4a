//! The dot-product micro-kernel: both operands contiguous along k, one vector of partial sums an output.
//!
//! Lane l of an output's vector sums the products of all k = l mod LANES, in order; then the lanes are added in
//! [`Simd::sum`]'s order. Which tile an output falls into changes neither.

// Loops over registers by index unroll; iterators over arrays of them may not.
#![allow(clippy::needless_range_loop)]

use crate::device::cpu::simd::{Element, Kernel, Simd};

/// Columns of a tile.
const COLUMNS: usize = 4;

/// Operands: rows `i` of x at `x + i * x_stride`, rows `j` of w at `w + j * w_stride`, outputs at `y + i * y_stride + j`.
#[derive(Clone, Copy)]
pub(super) struct Dots<W> {
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

impl<W: Element> Dots<W> {
    /// Computes `m` rows of `n` outputs, w outermost.
    ///
    /// # Safety
    /// The instruction set of `S` is there; rows and outputs are readable and writable, `y` by no one else.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(self, m: usize, n: usize) {
        // Tiles of about equal height: few rows still fill the registers.
        let tiles = m.div_ceil(S::DOT_ROWS);
        let (height, higher) = (m / tiles, m % tiles);
        for j in (0..n).step_by(COLUMNS) {
            // SAFETY: within the operands, by the contract of this function.
            unsafe {
                let columns = Self { w: self.w.add(j * self.w_stride), y: self.y.add(j), ..self };
                if j + COLUMNS <= n {
                    columns.strip::<S>(height + 1, higher);
                    columns.down(higher * (height + 1)).strip::<S>(height, tiles - higher);
                } else {
                    S::call(Singles { dots: columns, m, n: n - j });
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn down(self, rows: usize) -> Self {
        // SAFETY: within the operands, by the contract of `run`.
        unsafe { Self { x: self.x.add(rows * self.x_stride), y: self.y.add(rows * self.y_stride), ..self } }
    }

    /// `count` tiles of `height` rows.
    #[inline(always)]
    unsafe fn strip<S: Simd>(self, height: usize, count: usize) {
        if count == 0 {
            return;
        }
        // SAFETY: the contract of `run`.
        unsafe {
            match height {
                1 => S::call(Strip::<W, 1> { dots: self, count }),
                2 if S::DOT_ROWS >= 2 => S::call(Strip::<W, 2> { dots: self, count }),
                3 if S::DOT_ROWS >= 3 => S::call(Strip::<W, 3> { dots: self, count }),
                4 if S::DOT_ROWS >= 4 => S::call(Strip::<W, 4> { dots: self, count }),
                5 if S::DOT_ROWS >= 5 => S::call(Strip::<W, 5> { dots: self, count }),
                6 if S::DOT_ROWS >= 6 => S::call(Strip::<W, 6> { dots: self, count }),
                _ => unreachable!("a tile has 1 to DOT_ROWS rows"),
            }
        }
    }
}

/// `count` tiles of `M` rows below each other.
struct Strip<W, const M: usize> {
    dots: Dots<W>,
    count: usize,
}

impl<W: Element, const M: usize> Kernel for Strip<W, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Dots { k, mut x, x_stride, w, w_stride, mut y, y_stride, add } = self.dots;
        for _ in 0..self.count {
            // SAFETY: k elements of each row are readable, the outputs writable, by the contract of `Dots::run`.
            unsafe {
                let mut sums = [[S::zero(); COLUMNS]; M];
                let mut p = 0;
                while p + S::LANES <= k {
                    let mut lanes = [S::zero(); M];
                    for i in 0..M {
                        lanes[i] = S::load(x.add(i * x_stride + p));
                    }
                    for j in 0..COLUMNS {
                        let w = W::load::<S>(w.add(j * w_stride + p));
                        for i in 0..M {
                            sums[i][j] = S::fma(lanes[i], w, sums[i][j]);
                        }
                    }
                    p += S::LANES;
                }
                if p < k {
                    let mut lanes = [S::zero(); M];
                    for i in 0..M {
                        lanes[i] = S::load_partial(x.add(i * x_stride + p), k - p);
                    }
                    for j in 0..COLUMNS {
                        let w = W::load_partial::<S>(w.add(j * w_stride + p), k - p);
                        for i in 0..M {
                            sums[i][j] = S::fma(lanes[i], w, sums[i][j]);
                        }
                    }
                }
                for i in 0..M {
                    let y = y.add(i * y_stride).cast::<[f32; COLUMNS]>();
                    let mut sum = S::sum4(sums[i]);
                    if add {
                        let old = y.read_unaligned();
                        for j in 0..COLUMNS {
                            sum[j] += old[j];
                        }
                    }
                    y.write_unaligned(sum);
                }
                x = x.add(M * x_stride);
                y = y.add(M * y_stride);
            }
        }
    }
}

/// The last columns, where n is no multiple of [`COLUMNS`], one output at a time.
struct Singles<W> {
    dots: Dots<W>,
    m: usize,
    n: usize,
}

impl<W: Element> Kernel for Singles<W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Dots { k, x, x_stride, w, w_stride, y, y_stride, add } = self.dots;
        for i in 0..self.m {
            for j in 0..self.n {
                // SAFETY: as in `Strip`.
                unsafe {
                    let (x, w, y) = (x.add(i * x_stride), w.add(j * w_stride), y.add(i * y_stride + j));
                    let mut sums = S::zero();
                    let mut p = 0;
                    while p + S::LANES <= k {
                        sums = S::fma(S::load(x.add(p)), W::load::<S>(w.add(p)), sums);
                        p += S::LANES;
                    }
                    if p < k {
                        sums = S::fma(S::load_partial(x.add(p), k - p), W::load_partial::<S>(w.add(p), k - p), sums);
                    }
                    *y = if add { *y + S::sum(sums) } else { S::sum(sums) };
                }
            }
        }
    }
}

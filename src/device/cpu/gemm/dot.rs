//! The dot-product micro-kernel: both operands contiguous along k, one register of partial sums an output.
//!
//! k goes by in steps of two registers. A lane sums the products of its own k in order; at the end the lanes are added
//! in [`Simd::sum`]'s order. Which tile an output falls into changes neither. bf16 weights are split into even and odd
//! k, which costs less than widening them in order: x is [arranged](arrange) to match.

// Loops over registers by index unroll; iterators over arrays of them may not.
#![allow(clippy::needless_range_loop)]

use crate::device::cpu::simd::{Element, Kernel, Simd};
use half::{bf16, f16};

/// Columns of a tile.
const COLUMNS: usize = 4;

/// The longest step of k, elements: two registers of 16 lanes.
pub(super) const LONGEST_STEP: usize = 32;

/// A type of weights, as the kernel reads it.
pub(super) trait Weight: Element {
    /// Whether a step holds even k, then odd k.
    const SPLIT: bool;
    /// The weights as the kernel multiplies them, where that takes no copy.
    fn plain(weights: &[Self]) -> Option<&[f32]>;
    /// Zero.
    const ZERO: Self;
    /// A step.
    ///
    /// # Safety
    /// As for [`Simd`]; `2 * S::LANES` elements are readable.
    unsafe fn step<S: Simd>(source: *const Self) -> [S::V; 2];
}

macro_rules! in_order {
    ($type:ty, $zero:expr, $plain:expr) => {
        impl Weight for $type {
            const SPLIT: bool = false;
            const ZERO: Self = $zero;
            fn plain(weights: &[Self]) -> Option<&[f32]> {
                $plain(weights)
            }
            #[inline(always)]
            unsafe fn step<S: Simd>(source: *const Self) -> [S::V; 2] {
                // SAFETY: the contract of `Weight::step`.
                unsafe { [Self::load::<S>(source), Self::load::<S>(source.add(S::LANES))] }
            }
        }
    };
}

in_order!(f32, 0.0, Some);
in_order!(f16, Self::ZERO, |_| None);

impl Weight for bf16 {
    const SPLIT: bool = true;
    const ZERO: Self = Self::ZERO;
    fn plain(_: &[Self]) -> Option<&[f32]> {
        None
    }
    #[inline(always)]
    unsafe fn step<S: Simd>(source: *const Self) -> [S::V; 2] {
        // SAFETY: the contract of `Weight::step`.
        unsafe { S::load_bf16_split(source) }
    }
}

/// Copies a row's block of k, its steps in the order of `W`, padded with zeros to the length of `target`.
///
/// # Safety
/// The instruction set of `S` is there.
#[inline(always)]
pub(super) unsafe fn arrange<S: Simd, W: Weight>(source: &[f32], target: &mut [f32]) {
    if !W::SPLIT {
        target[..source.len()].copy_from_slice(source);
        target[source.len()..].fill(0.0);
        return;
    }
    let step = 2 * S::LANES;
    let padded = source.len().next_multiple_of(step);
    assert!(padded <= target.len());
    for p in (0..padded).step_by(step) {
        let mut last = [0.0; LONGEST_STEP];
        // SAFETY: whole steps lie within the source or within `last`, and within the target by the assertion.
        unsafe {
            let from = if p + step <= source.len() {
                source.as_ptr().add(p)
            } else {
                last[..source.len() - p].copy_from_slice(&source[p..]);
                last.as_ptr()
            };
            let [even, odd] = S::split(S::load(from), S::load(from.add(S::LANES)));
            S::store(target.as_mut_ptr().add(p), even);
            S::store(target.as_mut_ptr().add(p + S::LANES), odd);
        }
    }
    target[padded..].fill(0.0);
}

/// Copies a row's block of weights as f32, in the order that [`Weight::step`] gives, padded with zeros.
///
/// # Safety
/// The instruction set of `S` is there.
#[inline(always)]
pub(super) unsafe fn widen<S: Simd, W: Weight>(source: &[W], target: &mut [f32]) {
    let step = 2 * S::LANES;
    let padded = source.len().next_multiple_of(step);
    assert!(padded <= target.len());
    for p in (0..padded).step_by(step) {
        let mut last = [W::ZERO; LONGEST_STEP];
        // SAFETY: as in `arrange`.
        unsafe {
            let from = if p + step <= source.len() {
                source.as_ptr().add(p)
            } else {
                last[..source.len() - p].copy_from_slice(&source[p..]);
                last.as_ptr()
            };
            let [first, second] = W::step::<S>(from);
            S::store(target.as_mut_ptr().add(p), first);
            S::store(target.as_mut_ptr().add(p + S::LANES), second);
        }
    }
    target[padded..].fill(0.0);
}

/// Operands: rows `i` of x at `x + i * x_stride`, rows `j` of w at `w + j * w_stride`, outputs at `y + i * y_stride + j`.
#[derive(Clone, Copy)]
pub(super) struct Dots<W> {
    pub k: usize,
    pub x: *const f32,
    pub x_stride: usize,
    /// Whether rows of x are arranged for `W` and padded to whole steps.
    pub x_arranged: bool,
    pub w: *const W,
    pub w_stride: usize,
    pub y: *mut f32,
    pub y_stride: usize,
    /// Add to y rather than overwrite it.
    pub add: bool,
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// What to bring near while a tile is computed: the rows of w that come next, a few cache lines a step. Asked for all
/// at once they would fill the processor's queue of misses, and the tile's own loads would wait behind them.
pub(super) struct Ahead {
    line: *const u8,
    /// Lines left of this row, and after it rows.
    lines: usize,
    rows: usize,
    row_lines: usize,
    row_bytes: usize,
    /// No nearer than the second-level cache.
    far: bool,
}

impl Ahead {
    /// `rows` rows of `k` elements, `stride` elements apart, at least one. They need not be readable.
    pub fn new<W>(w: *const W, rows: usize, k: usize, stride: usize, far: bool) -> Self {
        let row_lines = (k * size_of::<W>()).div_ceil(LINE);
        let row_bytes = stride * size_of::<W>();
        Self { line: w.cast(), lines: row_lines, rows: rows - 1, row_lines, row_bytes, far }
    }

    /// Lines left of all rows.
    fn total(&self) -> usize {
        self.lines + self.rows * self.row_lines
    }

    /// Asks for the next `count` lines.
    ///
    /// # Safety
    /// The instruction set of `S` is there.
    #[inline(always)]
    unsafe fn fetch<S: Simd>(&mut self, count: usize) {
        for _ in 0..count {
            if self.lines == 0 {
                if self.rows == 0 {
                    return;
                }
                self.rows -= 1;
                self.lines = self.row_lines;
                self.line = self.line.wrapping_add(self.row_bytes.wrapping_sub(self.row_lines * LINE));
            }
            // SAFETY: a prefetch of any address is allowed.
            unsafe { if self.far { S::prefetch_far(self.line) } else { S::prefetch(self.line) } };
            self.line = self.line.wrapping_add(LINE);
            self.lines -= 1;
        }
    }
}

impl<W: Weight> Dots<W> {
    /// Computes `m` rows of `n` outputs, w outermost, and meanwhile brings near what `ahead` says.
    ///
    /// # Safety
    /// The instruction set of `S` is there; rows and outputs are readable and writable, `y` by no one else.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(self, m: usize, n: usize, ahead: Option<Ahead>) {
        debug_assert!(self.x_arranged || !W::SPLIT);
        // Tiles of about equal height: few rows still fill the registers.
        let tiles = m.div_ceil(if size_of::<W>() < 4 { S::DOT_ROWS - S::DOT_ROWS / 3 } else { S::DOT_ROWS });
        let (height, higher) = (m / tiles, m % tiles);
        let mut ahead = ahead.map(|ahead| {
            let steps = tiles * self.k.div_ceil(2 * S::LANES) * n.div_ceil(COLUMNS);
            (ahead.total().div_ceil(steps.max(1)), ahead)
        });
        for j in (0..n).step_by(COLUMNS) {
            // SAFETY: within the operands, by the contract of this function.
            unsafe {
                let columns = Self { w: self.w.add(j * self.w_stride), y: self.y.add(j), ..self };
                if j + COLUMNS > n {
                    S::call(Singles { dots: columns, m, n: n - j });
                    return;
                }
                columns.strip::<S>(height + 1, higher, ahead.as_mut());
                columns.down(higher * (height + 1)).strip::<S>(height, tiles - higher, ahead.as_mut());
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
    unsafe fn strip<S: Simd>(self, height: usize, count: usize, ahead: Option<&mut (usize, Ahead)>) {
        if count == 0 {
            return;
        }
        macro_rules! call {
            ($height:literal) => {
                match ahead {
                    Some((lines, ahead)) => {
                        S::call(Strip::<W, $height, true> { dots: self, count, lines: *lines, ahead: Some(ahead) })
                    }
                    None => S::call(Strip::<W, $height, false> { dots: self, count, lines: 0, ahead: None }),
                }
            };
        }
        // SAFETY: the contract of `run`.
        unsafe {
            match height {
                1 => call!(1),
                2 if S::DOT_ROWS >= 2 => call!(2),
                3 if S::DOT_ROWS >= 3 => call!(3),
                4 if S::DOT_ROWS >= 4 => call!(4),
                5 if S::DOT_ROWS >= 5 => call!(5),
                6 if S::DOT_ROWS >= 6 => call!(6),
                _ => unreachable!("a tile has 1 to DOT_ROWS rows"),
            }
        }
    }
}

/// `count` tiles of `M` rows below each other.
struct Strip<'a, W, const M: usize, const AHEAD: bool> {
    dots: Dots<W>,
    count: usize,
    /// Fetched a step, if `AHEAD`.
    lines: usize,
    ahead: Option<&'a mut Ahead>,
}

impl<W: Weight, const M: usize, const AHEAD: bool> Kernel for Strip<'_, W, M, AHEAD> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { dots, count, lines, mut ahead } = self;
        let Dots { k, mut x, x_stride, x_arranged, w, w_stride, mut y, y_stride, add } = dots;
        let step = 2 * S::LANES;
        for _ in 0..count {
            // SAFETY: k elements of each row are readable, the outputs writable, by the contract of `Dots::run`.
            unsafe {
                let mut sums = [[S::zero(); COLUMNS]; M];
                let mut p = 0;
                while p + step <= k {
                    if let (true, Some(ahead)) = (AHEAD, ahead.as_mut()) {
                        ahead.fetch::<S>(lines);
                    }
                    multiply::<S, W, M>(&mut sums, x.add(p), x_stride, w.add(p), w_stride);
                    p += step;
                }
                if p < k {
                    let mut w_last = [W::ZERO; COLUMNS * LONGEST_STEP];
                    for j in 0..COLUMNS {
                        let source = std::slice::from_raw_parts(w.add(j * w_stride + p), k - p);
                        w_last[j * LONGEST_STEP..][..k - p].copy_from_slice(source);
                    }
                    if x_arranged {
                        multiply::<S, W, M>(&mut sums, x.add(p), x_stride, w_last.as_ptr(), LONGEST_STEP);
                    } else {
                        let mut x_last = [0.0; 6 * LONGEST_STEP];
                        for i in 0..M {
                            let source = std::slice::from_raw_parts(x.add(i * x_stride + p), k - p);
                            x_last[i * LONGEST_STEP..][..k - p].copy_from_slice(source);
                        }
                        multiply::<S, W, M>(&mut sums, x_last.as_ptr(), LONGEST_STEP, w_last.as_ptr(), LONGEST_STEP);
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

/// One step of k.
#[inline(always)]
unsafe fn multiply<S: Simd, W: Weight, const M: usize>(
    sums: &mut [[S::V; COLUMNS]; M],
    x: *const f32,
    x_stride: usize,
    w: *const W,
    w_stride: usize,
) {
    // SAFETY: the caller has a whole step left in each row.
    unsafe {
        // A register of each row of x at a time: the file holds no more. Weights that need no work are read again.
        for half in 0..2 {
            let mut lanes = [S::zero(); M];
            for i in 0..M {
                lanes[i] = S::load(x.add(i * x_stride + half * S::LANES));
            }
            for j in 0..COLUMNS {
                let w = W::step::<S>(w.add(j * w_stride))[half];
                for i in 0..M {
                    sums[i][j] = S::fma(lanes[i], w, sums[i][j]);
                }
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

impl<W: Weight> Kernel for Singles<W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Dots { k, x, x_stride, x_arranged, w, w_stride, y, y_stride, add } = self.dots;
        let step = 2 * S::LANES;
        for i in 0..self.m {
            for j in 0..self.n {
                // SAFETY: as in `Strip`.
                unsafe {
                    let (x, w, y) = (x.add(i * x_stride), w.add(j * w_stride), y.add(i * y_stride + j));
                    let mut sums = S::zero();
                    let mut p = 0;
                    while p + step <= k {
                        sums = single::<S, W>(sums, x.add(p), w.add(p));
                        p += step;
                    }
                    if p < k {
                        let mut w_last = [W::ZERO; LONGEST_STEP];
                        w_last[..k - p].copy_from_slice(std::slice::from_raw_parts(w.add(p), k - p));
                        let mut x_last = [0.0; LONGEST_STEP];
                        let x = if x_arranged {
                            x.add(p)
                        } else {
                            x_last[..k - p].copy_from_slice(std::slice::from_raw_parts(x.add(p), k - p));
                            x_last.as_ptr()
                        };
                        sums = single::<S, W>(sums, x, w_last.as_ptr());
                    }
                    *y = if add { *y + S::sum(sums) } else { S::sum(sums) };
                }
            }
        }
    }
}

/// One step of k of one output.
#[inline(always)]
unsafe fn single<S: Simd, W: Weight>(sums: S::V, x: *const f32, w: *const W) -> S::V {
    // SAFETY: the caller has a whole step left.
    unsafe {
        let [first, second] = W::step::<S>(w);
        S::fma(S::load(x.add(S::LANES)), second, S::fma(S::load(x), first, sums))
    }
}

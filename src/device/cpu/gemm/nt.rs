//! `y = x w^T`: cutting the product into blocks that fit the caches, for many rows and for few.

use super::dot::Dots;
use super::{Threads, blocks, span};
use crate::device::cpu::parallel::Shared;
use crate::device::cpu::scratch::with_scratch;
use crate::device::cpu::simd::{Element, Kernel, Simd};
use crate::device::cpu::{Isa, View};
use std::ops::Range;

/// Longest block of k, elements: x rows and w rows of a tile stay in the first-level cache.
const K_BLOCK: usize = 640;

/// Blocks of k are multiples of this, whatever the instruction set.
const K_STEP: usize = 32;

/// Elements left free after each packed row.
const ROW_GAP: usize = 16;

/// Up to this many rows w is read once, in place; above it is packed block by block.
const DIRECT_ROWS: usize = 24;

/// Columns of y between blocks of k, in place.
const DIRECT_COLUMNS: usize = 4;

/// Rows of x packed at a time.
const ROW_CHUNK: usize = 512;

/// Rows of w (columns of y) in a packed block: at most this, to fit half of a 512 KiB second-level cache.
const BLOCK_COLUMNS: usize = 96;

/// x tiles that stay in the first-level cache while a packed block of w passes.
const TILE_GROUP: usize = 3;

/// Multiply-adds below which a second thread is not worth waking.
const SMALL: usize = 1 << 16;

fn k_blocks(k: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    blocks(k, K_BLOCK, K_STEP)
}

/// Elements between packed rows of a block: whole cache lines, an odd number of them, so that rows spread over the sets.
fn packed_width(block: &Range<usize>) -> usize {
    block.len().next_multiple_of(K_STEP) + ROW_GAP
}

/// A product to compute.
pub(super) struct Product<'a> {
    pub isa: Isa,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub x: &'a [f32],
    pub x_stride: usize,
    pub w: View<'a>,
    pub w_stride: usize,
    pub y: Shared<'a, f32>,
    pub y_stride: usize,
    pub accumulate: bool,
}

impl Product<'_> {
    pub fn run(self, threads: Threads) {
        let Self { m, n, k, .. } = self;
        assert!(span(m, k, self.x_stride) <= self.x.len(), "gemm_nt: x is too short");
        assert!(span(n, k, self.w_stride) <= self.w.len(), "gemm_nt: w is too short");
        assert!(span(m, n, self.y_stride) <= self.y.len(), "gemm_nt: y is too short");
        if m == 0 || n == 0 {
            return;
        }
        if k == 0 {
            super::clear(&self.y, m, n, self.y_stride, self.accumulate);
            return;
        }
        let threads = if m * n * k < SMALL { Threads::One } else { threads };
        match self.w {
            View::F32(w) => self.dispatch(w, threads),
            View::BF16(w) => self.dispatch(w, threads),
            View::F16(w) => self.dispatch(w, threads),
        }
    }

    fn dispatch<W: Element>(&self, w: &[W], threads: Threads) {
        if self.m <= DIRECT_ROWS {
            self.direct(w, threads);
        } else {
            for rows in (0..self.m).step_by(ROW_CHUNK) {
                self.packed(w, rows..(rows + ROW_CHUNK).min(self.m), threads);
            }
        }
    }

    /// Few rows: each thread streams a contiguous range of w.
    fn direct<W: Element>(&self, w: &[W], threads: Threads) {
        let tasks = match threads {
            Threads::One => 1,
            // Enough for work stealing to even out, few enough for long streams.
            Threads::Pool => (threads.count() * 4).min(self.n.div_ceil(16)),
        };
        let columns = self.n.div_ceil(tasks).next_multiple_of(4);
        threads.for_each(self.n.div_ceil(columns), |t| {
            let range = t * columns..((t + 1) * columns).min(self.n);
            self.isa.run(Direct { product: self, w, columns: range });
        });
    }

    /// Many rows: x is packed once; a task packs its block of w and passes all rows of x by it.
    fn packed<W: Element>(&self, w: &[W], rows: Range<usize>, threads: Threads) {
        let count = threads.count();
        let most = self.n.div_ceil(count * 2).clamp(16, BLOCK_COLUMNS);
        let blocks = self.n.div_ceil(most).next_multiple_of(count);
        let columns = self.n.div_ceil(blocks).next_multiple_of(4);
        let blocks = self.n.div_ceil(columns);
        let m = rows.len();
        // Where n alone does not keep all threads busy, rows are split too.
        let splits = count.div_ceil(blocks).min(m.div_ceil(DIRECT_ROWS));
        let split = m.div_ceil(splits);
        let width: usize = k_blocks(self.k).map(|block| packed_width(&block)).sum();
        with_scratch(m * width, |packed_x| {
            let shared = Shared::new(&mut *packed_x);
            let chunk = 16;
            threads.for_each(m.div_ceil(chunk), |t| {
                let range = t * chunk..((t + 1) * chunk).min(m);
                self.isa.run(PackX { product: self, first: rows.start, range, m, target: shared });
            });
            let packed_x = &*packed_x;
            threads.for_each(blocks * splits, |t| {
                let (block, part) = (t / splits, t % splits);
                let columns = block * columns..((block + 1) * columns).min(self.n);
                let part = part * split..((part + 1) * split).min(m);
                with_scratch(columns.len() * packed_width(&(0..K_BLOCK)), |packed_w| {
                    self.isa.run(Packed { product: self, w, packed_x, packed_w, m, first: rows.start, part, columns });
                });
            });
        });
    }
}

/// The columns `columns` of y from w in place.
struct Direct<'a, W> {
    product: &'a Product<'a>,
    w: &'a [W],
    columns: Range<usize>,
}

impl<W: Element> Kernel for Direct<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Product { m, k, x_stride, w_stride, y_stride, accumulate, .. } = *self.product;
        let Range { start, end } = self.columns;
        for j in (start..end).step_by(DIRECT_COLUMNS) {
            for block in k_blocks(k) {
                // SAFETY: rows and columns lie within the operands (asserted in `Product::run`); tasks have disjoint
                // columns.
                unsafe {
                    Dots {
                        k: block.len(),
                        x: self.product.x.as_ptr().add(block.start),
                        x_stride,
                        w: self.w.as_ptr().add(j * w_stride + block.start),
                        w_stride,
                        y: self.product.y.pointer().add(j),
                        y_stride,
                        add: accumulate || block.start > 0,
                    }
                    .run::<S>(m, (end - j).min(DIRECT_COLUMNS));
                }
            }
        }
    }
}

/// Copies rows of x so that a block of k is contiguous: `[block of k][row][k]`, padded with zeros to [`K_STEP`].
struct PackX<'a> {
    product: &'a Product<'a>,
    first: usize,
    range: Range<usize>,
    m: usize,
    target: Shared<'a, f32>,
}

impl Kernel for PackX<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Product { k, x, x_stride, .. } = *self.product;
        let mut place = 0;
        for block in k_blocks(k) {
            let width = packed_width(&block);
            for i in self.range.clone() {
                let at = place + i * width;
                // SAFETY: each row has a place of its own.
                let target = unsafe { self.target.range(at..at + width) };
                let source = (self.first + i) * x_stride;
                target[..block.len()].copy_from_slice(&x[source + block.start..source + block.end]);
                target[block.len()..].fill(0.0);
            }
            place += self.m * width;
        }
    }
}

/// The rows `part` and columns `columns` of y from packed x, packing w.
struct Packed<'a, W> {
    product: &'a Product<'a>,
    w: &'a [W],
    packed_x: &'a [f32],
    packed_w: &'a mut [f32],
    m: usize,
    first: usize,
    part: Range<usize>,
    columns: Range<usize>,
}

impl<W: Element> Kernel for Packed<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Product { k, w_stride, y_stride, accumulate, .. } = *self.product;
        let n = self.columns.len();
        let mut place = 0;
        for block in k_blocks(k) {
            let width = packed_width(&block);
            for j in 0..n {
                let source = (self.columns.start + j) * w_stride + block.start;
                widen::<S, W>(&self.w[source..source + block.len()], &mut self.packed_w[j * width..(j + 1) * width]);
            }
            let group = TILE_GROUP * S::DOT_ROWS;
            for i in self.part.clone().step_by(group) {
                // SAFETY: packed rows are `width` long; y is in bounds (asserted in `Product::run`) and tasks have
                // disjoint rows or columns.
                unsafe {
                    Dots {
                        k: block.len().next_multiple_of(K_STEP),
                        x: self.packed_x.as_ptr().add(place + i * width),
                        x_stride: width,
                        w: self.packed_w.as_ptr(),
                        w_stride: width,
                        y: self.product.y.pointer().add((self.first + i) * y_stride + self.columns.start),
                        y_stride,
                        add: accumulate || block.start > 0,
                    }
                    .run::<S>((self.part.end - i).min(group), n);
                }
            }
            place += self.m * width;
        }
    }
}

/// Copies a row as f32, padded with zeros.
#[inline(always)]
fn widen<S: Simd, W: Element>(source: &[W], target: &mut [f32]) {
    let mut p = 0;
    // SAFETY: every access is within the slices.
    unsafe {
        while p + S::LANES <= source.len() {
            S::store(target.as_mut_ptr().add(p), W::load::<S>(source.as_ptr().add(p)));
            p += S::LANES;
        }
        if p < source.len() {
            S::store(target.as_mut_ptr().add(p), W::load_partial::<S>(source.as_ptr().add(p), source.len() - p));
            p += S::LANES;
        }
    }
    if p < target.len() {
        target[p..].fill(0.0);
    }
}

//! `y = x w^T`: cutting the product into blocks that fit the caches, for many rows and for few.

use super::dot::{Ahead, Dots, LONGEST_STEP, Weight, arrange, widen};
use super::{Threads, blocks, span};
use crate::device::cpu::parallel::Shared;
use crate::device::cpu::scratch::with_scratch;
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::cpu::{Isa, View};
use std::marker::PhantomData;
use std::ops::Range;

/// Longest block of k, elements: a few rows of x stay in the first-level cache beside rows of w.
const K_BLOCK: usize = 640;

/// Elements left free after each packed row, so that rows spread over the cache's sets.
const ROW_GAP: usize = 16;

/// Up to this many rows w is read once, in place; above it is packed block by block.
const DIRECT_ROWS: usize = 24;

/// Above [`DIRECT_ROWS`], and up to this many rows, blocks of w are read in place where they can be: more pay for a copy.
const IN_PLACE_ROWS: usize = 160;

/// An f32 w of up to this many elements (a first-level cache) is read in place whatever the rows.
const DIRECT_WEIGHTS: usize = 1 << 13;

/// Columns of y between blocks of k, in place.
const DIRECT_COLUMNS: usize = 4;

/// Rows whose addresses are this many elements apart, or a multiple, meet in a few sets of a first-level cache.
const CROWDED_ROWS: usize = 1 << 10;

/// The same of a second-level cache, for as many rows as [`BLOCK_COLUMNS`].
const CROWDED_BLOCKS: usize = 1 << 11;

/// Bytes of w that may well lie in a second-level cache.
const NEAR_BYTES: usize = 256 << 10;

/// Rows of x packed at a time.
const ROW_CHUNK: usize = 512;

/// Rows of w (columns of y) in a packed block: it takes a third of a 512 KiB second-level cache.
const BLOCK_COLUMNS: usize = 64;

/// Tiles of x that stay in the first-level cache while a packed block of w passes.
const TILE_GROUP: usize = 3;

/// Rows of x a packing task.
const PACK_ROWS: usize = 16;

/// Multiply-adds below which a second thread is not worth waking.
const SMALL: usize = 1 << 16;

/// The blocks of k; no instruction set's step straddles two.
fn k_blocks(k: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    blocks(k, K_BLOCK, LONGEST_STEP)
}

/// Elements between packed rows of a block of k.
fn packed_width(block: &Range<usize>) -> usize {
    block.len().next_multiple_of(LONGEST_STEP) + ROW_GAP
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

    fn dispatch<W: Weight>(&self, w: &[W], threads: Threads) {
        let Self { m, n, .. } = *self;
        let little = size_of::<W>() == 4 && n * self.w_stride <= DIRECT_WEIGHTS;
        if little || (m == 1 && !W::SPLIT) {
            self.direct(w, None, 0..m, threads);
            return;
        }
        // Whether the kernel can read x where it is.
        let x_in_place =
            !W::SPLIT && self.k.is_multiple_of(LONGEST_STEP) && !self.x_stride.is_multiple_of(CROWDED_ROWS);
        for rows in (0..m).step_by(ROW_CHUNK) {
            let rows = rows..(rows + ROW_CHUNK).min(m);
            if x_in_place {
                self.rows(w, None, rows, threads);
                continue;
            }
            let width: usize = k_blocks(self.k).map(|block| packed_width(&block)).sum();
            with_scratch(rows.len() * width, |packed_x| {
                let target = Shared::new(&mut *packed_x);
                let pack = |t: usize| {
                    let range = t * PACK_ROWS..((t + 1) * PACK_ROWS).min(rows.len());
                    let pack = PackX { product: self, rows: rows.clone(), range, target, weight: PhantomData::<W> };
                    self.isa.run(pack);
                };
                threads.for_each(rows.len().div_ceil(PACK_ROWS), pack);
                self.rows(w, Some(packed_x), rows, threads);
            });
        }
    }

    fn rows<W: Weight>(&self, w: &[W], packed_x: Option<&[f32]>, rows: Range<usize>, threads: Threads) {
        if self.m <= DIRECT_ROWS {
            self.direct(w, packed_x, rows, threads);
        } else {
            self.blocked(w, packed_x, rows, threads);
        }
    }

    /// Few rows: each thread streams a contiguous range of w.
    fn direct<W: Weight>(&self, w: &[W], packed_x: Option<&[f32]>, rows: Range<usize>, threads: Threads) {
        let tasks = match threads {
            Threads::One => 1,
            // Enough for work stealing to even out, few enough for long streams.
            Threads::Pool => (threads.count() * 4).min(self.n.div_ceil(16)),
        };
        let columns = self.n.div_ceil(tasks).next_multiple_of(DIRECT_COLUMNS);
        threads.for_each(self.n.div_ceil(columns), |t| {
            let columns = t * columns..((t + 1) * columns).min(self.n);
            self.isa.run(Direct { product: self, w, packed_x, rows: rows.clone(), columns });
        });
    }

    /// Many rows: a task passes all rows of x by its block of w, packed unless it can be multiplied where it is.
    fn blocked<W: Weight>(&self, w: &[W], packed_x: Option<&[f32]>, rows: Range<usize>, threads: Threads) {
        let count = threads.count();
        let most = self.n.div_ceil(count * 2).clamp(16, BLOCK_COLUMNS);
        let blocks = self.n.div_ceil(most).next_multiple_of(count);
        let columns = self.n.div_ceil(blocks).next_multiple_of(4);
        let blocks = self.n.div_ceil(columns);
        let m = rows.len();
        // Where n alone does not keep all threads busy, rows are split too.
        let splits = count.div_ceil(blocks).min(m.div_ceil(DIRECT_ROWS));
        let split = m.div_ceil(splits);
        let fits =
            m <= IN_PLACE_ROWS && self.k.is_multiple_of(LONGEST_STEP) && !self.w_stride.is_multiple_of(CROWDED_BLOCKS);
        let plain = W::plain(w).filter(|_| fits);
        threads.for_each(blocks * splits, |t| {
            let (block, part) = (t / splits, t % splits);
            let columns = block * columns..((block + 1) * columns).min(self.n);
            let part = part * split..((part + 1) * split).min(m);
            let rows = rows.clone();
            if let Some(w) = plain {
                self.isa.run(InPlace { product: self, w, packed_x, rows, part, columns });
                return;
            }
            with_scratch(columns.len() * packed_width(&(0..K_BLOCK)), |packed_w| {
                self.isa.run(Packed { product: self, w, packed_x, packed_w, rows, part, columns });
            });
        });
    }

    /// The block of k of the row `i` of `rows`, and elements to the next row's: in packed x, where blocks before this one
    /// take `place` rows' worth of elements, or where it is.
    ///
    /// # Safety
    /// There is such a row.
    unsafe fn block_of_x(
        &self,
        packed_x: Option<&[f32]>,
        rows: &Range<usize>,
        place: usize,
        block: &Range<usize>,
        i: usize,
    ) -> (*const f32, usize) {
        let width = packed_width(block);
        // SAFETY: packed rows are `width` long; x holds these rows and columns (asserted in `run`).
        unsafe {
            match packed_x {
                Some(packed_x) => (packed_x.as_ptr().add(place + i * width), width),
                None => (self.x.as_ptr().add((rows.start + i) * self.x_stride + block.start), self.x_stride),
            }
        }
    }
}

/// Copies rows of x in blocks of k, arranged for `W`: `[block of k][row][k]`.
struct PackX<'a, W> {
    product: &'a Product<'a>,
    /// All rows to pack, and the part of them to pack here.
    rows: Range<usize>,
    range: Range<usize>,
    target: Shared<'a, f32>,
    weight: PhantomData<W>,
}

impl<W: Weight> Kernel for PackX<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Product { k, x, x_stride, .. } = *self.product;
        let mut place = 0;
        for block in k_blocks(k) {
            let width = packed_width(&block);
            for i in self.range.clone() {
                let source = (self.rows.start + i) * x_stride;
                let source = &x[source + block.start..source + block.end];
                let at = place + i * width;
                // SAFETY: each row has a place of its own.
                unsafe { arrange::<S, W>(source, self.target.range(at..at + width)) };
            }
            place += self.rows.len() * width;
        }
    }
}

/// The columns `columns` of y from w in place.
struct Direct<'a, W> {
    product: &'a Product<'a>,
    w: &'a [W],
    packed_x: Option<&'a [f32]>,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl<W: Weight> Kernel for Direct<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Product { k, w_stride, y_stride, accumulate, .. } = *self.product;
        let Range { start, end } = self.columns;
        let m = self.rows.len();
        // With one row there is nothing to do meanwhile: the processor's own prefetcher serves long streams better.
        let far = m > 1 && self.product.n * w_stride * size_of::<W>() > NEAR_BYTES;
        let first = k_blocks(k).next().unwrap_or(0..0);
        for j in (start..end).step_by(DIRECT_COLUMNS) {
            let mut place = 0;
            let mut rest = k_blocks(k).peekable();
            while let Some(block) = rest.next() {
                // SAFETY: rows and columns lie within the operands (asserted in `Product::run`); tasks have disjoint
                // columns.
                unsafe {
                    let (x, x_stride) = self.product.block_of_x(self.packed_x, &self.rows, place, &block, 0);
                    let dots = Dots {
                        k: block.len(),
                        x,
                        x_stride,
                        x_arranged: self.packed_x.is_some() || k.is_multiple_of(LONGEST_STEP),
                        w: self.w.as_ptr().add(j * w_stride + block.start),
                        w_stride,
                        y: self.product.y.pointer().add(self.rows.start * y_stride + j),
                        y_stride,
                        add: accumulate || block.start > 0,
                    };
                    // What is multiplied next: these columns' next block of k, or the next columns' first.
                    let (column, next) = rest.peek().map_or((j + DIRECT_COLUMNS, &first), |next| (j, next));
                    let ahead = (far && column < end).then(|| {
                        let next_w = self.w.as_ptr().wrapping_add(column * w_stride + next.start);
                        Ahead::new(next_w, DIRECT_COLUMNS, next.len(), w_stride, false)
                    });
                    dots.run::<S>(m, (end - j).min(DIRECT_COLUMNS), ahead);
                }
                place += m * packed_width(&block);
            }
        }
    }
}

/// The rows `part` (of `rows`) and columns `columns` of y from packed x, packing w.
struct Packed<'a, W> {
    product: &'a Product<'a>,
    w: &'a [W],
    packed_x: Option<&'a [f32]>,
    packed_w: &'a mut [f32],
    rows: Range<usize>,
    part: Range<usize>,
    columns: Range<usize>,
}

impl<W: Weight> Kernel for Packed<'_, W> {
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
                let source = &self.w[source..source + block.len()];
                // SAFETY: the instruction set is there.
                unsafe { widen::<S, W>(source, &mut self.packed_w[j * width..(j + 1) * width]) };
            }
            let group = TILE_GROUP * S::DOT_ROWS;
            for i in self.part.clone().step_by(group) {
                // SAFETY: packed rows are `width` long; y is in bounds (asserted in `Product::run`) and tasks have
                // disjoint rows or columns.
                unsafe {
                    let (x, x_stride) = self.product.block_of_x(self.packed_x, &self.rows, place, &block, i);
                    Dots {
                        k: block.len().next_multiple_of(2 * S::LANES),
                        x,
                        x_stride,
                        x_arranged: true,
                        w: self.packed_w.as_ptr(),
                        w_stride: width,
                        y: self.product.y.pointer().add((self.rows.start + i) * y_stride + self.columns.start),
                        y_stride,
                        add: accumulate || block.start > 0,
                    }
                    .run::<S>((self.part.end - i).min(group), n, None);
                }
            }
            place += self.rows.len() * width;
        }
    }
}

/// The rows `part` (of `rows`) and columns `columns` of y from w in place, which is f32 and whole steps long.
struct InPlace<'a> {
    product: &'a Product<'a>,
    w: &'a [f32],
    packed_x: Option<&'a [f32]>,
    rows: Range<usize>,
    part: Range<usize>,
    columns: Range<usize>,
}

impl Kernel for InPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Product { n, k, w_stride, y_stride, accumulate, .. } = *self.product;
        let Range { start, end } = self.columns;
        let first = k_blocks(k).next().unwrap_or(0..0);
        let group = TILE_GROUP * S::DOT_ROWS;
        let groups = self.part.len().div_ceil(group);
        let mut place = 0;
        let mut rest = k_blocks(k).peekable();
        while let Some(block) = rest.next() {
            // What is multiplied next: these columns' next block of k, or the first of those after them. Every group of
            // rows brings a share of it near.
            let (next_start, next_end, next) = match rest.peek() {
                Some(next) => (start, end, next),
                None => (end, n.min(end + (end - start)), &first),
            };
            let share = (next_end - next_start).div_ceil(groups);
            for (index, i) in self.part.clone().step_by(group).enumerate() {
                let columns =
                    (next_start + index * share).min(next_end)..(next_start + (index + 1) * share).min(next_end);
                // SAFETY: rows and columns lie within the operands (asserted in `Product::run`); tasks have disjoint rows or
                // columns.
                unsafe {
                    let ahead = (!columns.is_empty()).then(|| {
                        let next_w = self.w.as_ptr().wrapping_add(columns.start * w_stride + next.start);
                        Ahead::new(next_w, columns.len(), next.len(), w_stride, true)
                    });
                    let (x, x_stride) = self.product.block_of_x(self.packed_x, &self.rows, place, &block, i);
                    Dots {
                        k: block.len(),
                        x,
                        x_stride,
                        x_arranged: true,
                        w: self.w.as_ptr().add(start * w_stride + block.start),
                        w_stride,
                        y: self.product.y.pointer().add((self.rows.start + i) * y_stride + start),
                        y_stride,
                        add: accumulate || block.start > 0,
                    }
                    .run::<S>((self.part.end - i).min(group), end - start, ahead);
                }
            }
            place += self.rows.len() * packed_width(&block);
        }
    }
}

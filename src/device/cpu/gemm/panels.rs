//! `c = a b` and `c = a^T b`: packing both operands into panels that fit the caches, and passing them by the
//! outer-product kernel.

use super::outer::Tile;
use super::{Threads, blocks, span};
use crate::device::cpu::parallel::Shared;
use crate::device::cpu::scratch::with_scratch;
use crate::device::cpu::simd::{Element, Kernel, Simd};
use crate::device::cpu::{Isa, View};
use std::ops::Range;

/// Longest block of k: a panel of b, two registers wide, takes half of a 32 KiB first-level cache (with 8 lanes).
const K_BLOCK: usize = 256;

/// Blocks of k packed at a time.
const K_GROUP: usize = 4;

/// Columns of b, and rows of a, packed at a time.
const CHUNK: usize = 2040;

/// Rows of a task: a block of a takes half of a 512 KiB second-level cache. A multiple of all tile heights.
const ROWS: usize = 240;

/// An operand that spans at most this many elements is read in place.
const SMALL_OPERAND: usize = 1 << 14;

/// Multiply-adds below which a second thread is not worth waking.
const SMALL_PRODUCT: usize = 1 << 16;

/// A product to compute: `a(i, p)` is at `i * a_row + p * a_step`; one of the two steps is 1.
pub(super) struct Product<'a> {
    pub isa: Isa,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: &'a [f32],
    pub a_row: usize,
    pub a_step: usize,
    pub b: View<'a>,
    pub b_stride: usize,
    pub c: Shared<'a, f32>,
    pub c_stride: usize,
    pub accumulate: bool,
}

impl Product<'_> {
    pub fn run(self, threads: Threads) {
        let Self { m, n, k, .. } = self;
        assert!(span(k, n, self.b_stride) <= self.b.len(), "gemm: b is too short");
        assert!(span(m, n, self.c_stride) <= self.c.len(), "gemm: c is too short");
        if m == 0 || n == 0 {
            return;
        }
        if k == 0 {
            super::clear(&self.c, m, n, self.c_stride, self.accumulate);
            return;
        }
        let threads = if m * n * k < SMALL_PRODUCT { Threads::One } else { threads };
        match self.b {
            View::F32(b) => self.dispatch(b, threads),
            View::BF16(b) => self.dispatch(b, threads),
            View::F16(b) => self.dispatch(b, threads),
        }
    }

    fn dispatch<B: Element>(&self, b: &[B], threads: Threads) {
        let Self { m, n, k, .. } = *self;
        let height = self.isa.run(TileShape).0;
        // A panel is worth packing if several tiles use it, or if reading it in place would thrash the cache.
        let pack_a = n > 16 && (m - 1) * self.a_row + (k - 1) * self.a_step + 1 > SMALL_OPERAND;
        let pack_b = m > height && (k - 1) * self.b_stride + n > SMALL_OPERAND;
        for group in (0..k.div_ceil(K_BLOCK)).step_by(K_GROUP) {
            for columns in (0..n).step_by(CHUNK) {
                let columns = columns..(columns + CHUNK).min(n);
                for rows in (0..m).step_by(CHUNK) {
                    let rows = rows..(rows + CHUNK).min(m);
                    let area = Area { group, rows, columns: columns.clone() };
                    self.area(b, &area, pack_a, pack_b, threads);
                }
            }
        }
    }

    /// Adds the products over one group of blocks of k to one area of c.
    fn area<B: Element>(&self, b: &[B], area: &Area, pack_a: bool, pack_b: bool, threads: Threads) {
        let (height, width) = self.isa.run(TileShape);
        let depth: usize = self.blocks(area).map(|block| block.len()).sum();
        let padded_rows = if self.a_step == 1 { area.rows.len() } else { area.rows.len().next_multiple_of(height) };
        let padded_columns = area.columns.len().next_multiple_of(width);
        let a_len = if pack_a { depth * padded_rows } else { 0 };
        let b_len = if pack_b { depth * padded_columns } else { 0 };
        with_scratch(a_len.next_multiple_of(16) + b_len, |scratch| {
            let (packed_a, packed_b) = scratch.split_at_mut(a_len.next_multiple_of(16));
            let a_target = Shared::new(&mut *packed_a);
            let b_target = Shared::new(&mut *packed_b);
            let chunk = 8 * width;
            let b_tasks = if pack_b { padded_columns.div_ceil(chunk) } else { 0 };
            let a_tasks = if pack_a { area.rows.len().div_ceil(ROWS / 5) } else { 0 };
            threads.for_each(a_tasks + b_tasks, |t| {
                if t < b_tasks {
                    let columns = t * chunk..((t + 1) * chunk).min(area.columns.len());
                    self.isa.run(PackB { product: self, b, area, columns, stride: padded_columns, target: b_target });
                } else {
                    let t = t - b_tasks;
                    let rows = t * (ROWS / 5)..((t + 1) * (ROWS / 5)).min(area.rows.len());
                    self.isa.run(PackA { product: self, area, rows, stride: padded_rows, target: a_target });
                }
            });
            let packed_a = pack_a.then_some((&*packed_a, padded_rows));
            let packed_b = pack_b.then_some((&*packed_b, padded_columns));

            let row_tasks = area.rows.len().div_ceil(ROWS);
            let rows = area.rows.len().div_ceil(row_tasks).next_multiple_of(height);
            let row_tasks = area.rows.len().div_ceil(rows);
            let column_tasks = match threads {
                Threads::One => 1,
                Threads::Pool => (threads.count() * 4).div_ceil(row_tasks),
            };
            let columns = area.columns.len().div_ceil(column_tasks).next_multiple_of(width);
            let column_tasks = area.columns.len().div_ceil(columns);
            threads.for_each(row_tasks * column_tasks, |t| {
                let (r, c) = (t / column_tasks, t % column_tasks);
                let rows = r * rows..((r + 1) * rows).min(area.rows.len());
                let columns = c * columns..((c + 1) * columns).min(area.columns.len());
                self.isa.run(Multiply { product: self, b, area, rows, columns, packed_a, packed_b });
            });
        });
    }

    fn blocks(&self, area: &Area) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
        blocks(self.k, K_BLOCK, 1).skip(area.group).take(K_GROUP)
    }
}

/// Rows and columns of c, and the first block of k of a group.
struct Area {
    group: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

/// Height and width of the instruction set's tile.
struct TileShape;

impl Kernel for TileShape {
    type Output = (usize, usize);

    #[inline(always)]
    fn run<S: Simd>(self) -> (usize, usize) {
        (S::OUTER_ROWS, 2 * S::LANES)
    }
}

/// Copies columns of b as f32: `[block of k][panel][k][width of a tile]`, the last panel padded with zeros.
struct PackB<'a, B> {
    product: &'a Product<'a>,
    b: &'a [B],
    area: &'a Area,
    columns: Range<usize>,
    stride: usize,
    target: Shared<'a, f32>,
}

impl<B: Element> Kernel for PackB<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = 2 * S::LANES;
        let mut done = 0;
        for block in self.product.blocks(self.area) {
            for (step, p) in block.clone().enumerate() {
                let row = p * self.product.b_stride + self.area.columns.start;
                for j in self.columns.clone().step_by(width) {
                    let at = done * self.stride + j * block.len() + step * width;
                    let count = (self.columns.end - j).min(width);
                    // SAFETY: b holds `count` elements there (asserted in `Product::run`); a panel has one packer.
                    unsafe {
                        let target = self.target.range(at..at + width).as_mut_ptr();
                        let source = self.b[row + j..row + j + count].as_ptr();
                        if count == width {
                            S::store(target, B::load::<S>(source));
                            S::store(target.add(S::LANES), B::load::<S>(source.add(S::LANES)));
                        } else if count > S::LANES {
                            S::store(target, B::load::<S>(source));
                            let rest = B::load_partial::<S>(source.add(S::LANES), count - S::LANES);
                            S::store(target.add(S::LANES), rest);
                        } else {
                            let rest = if count == S::LANES {
                                B::load::<S>(source)
                            } else {
                                B::load_partial::<S>(source, count)
                            };
                            S::store(target, rest);
                            S::store(target.add(S::LANES), S::zero());
                        }
                    }
                }
            }
            done += block.len();
        }
    }
}

/// Copies rows of a: `[block of k][row][k]` where k is contiguous, else `[block of k][tile][k][height of a tile]`.
struct PackA<'a> {
    product: &'a Product<'a>,
    area: &'a Area,
    rows: Range<usize>,
    stride: usize,
    target: Shared<'a, f32>,
}

impl Kernel for PackA<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Product { a, a_row, a_step, .. } = *self.product;
        let mut done = 0;
        for block in self.product.blocks(self.area) {
            let length = block.len();
            let part = done * self.stride;
            if a_step == 1 {
                for i in self.rows.clone() {
                    let source = (self.area.rows.start + i) * a_row + block.start;
                    // SAFETY: a row has one packer.
                    let target = unsafe { self.target.range(part + i * length..part + (i + 1) * length) };
                    target.copy_from_slice(&a[source..source + length]);
                }
            } else {
                for (step, p) in block.enumerate() {
                    let row = p * a_step + self.area.rows.start;
                    for i in self.rows.clone().step_by(S::OUTER_ROWS) {
                        let at = part + i * length + step * S::OUTER_ROWS;
                        // SAFETY: a tile has one packer.
                        let target = unsafe { self.target.range(at..at + S::OUTER_ROWS) };
                        let source = &a[row + i..row + self.rows.end];
                        if source.len() >= S::OUTER_ROWS {
                            target.copy_from_slice(&source[..S::OUTER_ROWS]);
                        } else {
                            target[..source.len()].copy_from_slice(source);
                        }
                    }
                }
            }
            done += length;
        }
    }
}

/// Adds the product of some rows and columns of an area to c.
struct Multiply<'a, B> {
    product: &'a Product<'a>,
    b: &'a [B],
    area: &'a Area,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Panels, with the number of rows of a (columns of b) they hold.
    packed_a: Option<(&'a [f32], usize)>,
    packed_b: Option<(&'a [f32], usize)>,
}

impl<B: Element> Kernel for Multiply<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Product { b_stride, .. } = *self.product;
        let mut done = 0;
        for block in self.product.blocks(self.area) {
            for j in self.columns.clone().step_by(2 * S::LANES) {
                let columns = (self.columns.end - j).min(2 * S::LANES);
                // SAFETY: panels and matrices hold these rows and columns (asserted in `Product::run`).
                unsafe {
                    if let Some((panels, stride)) = self.packed_b {
                        let b = panels.as_ptr().add(done * stride + j * block.len());
                        self.column::<S, f32>(&block, done, b, 2 * S::LANES, true, j, columns);
                    } else {
                        let b = self.b.as_ptr().add(block.start * b_stride + self.area.columns.start + j);
                        self.column::<S, B>(&block, done, b, b_stride, false, j, columns);
                    }
                }
            }
            done += block.len();
        }
    }
}

impl<B: Element> Multiply<'_, B> {
    /// All rows of a against one panel of b.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    unsafe fn column<S: Simd, P: Element>(
        &self,
        block: &Range<usize>,
        done: usize,
        b: *const P,
        b_step: usize,
        b_padded: bool,
        j: usize,
        columns: usize,
    ) {
        let Product { a, a_row, a_step, c_stride, accumulate, .. } = *self.product;
        let length = block.len();
        for i in self.rows.clone().step_by(S::OUTER_ROWS) {
            // SAFETY: the operands hold these rows and columns; tasks write disjoint places of c.
            unsafe {
                let (a, a_row, a_step) = match self.packed_a {
                    None => (a.as_ptr().add((self.area.rows.start + i) * a_row + block.start * a_step), a_row, a_step),
                    Some((panels, stride)) if a_step == 1 => {
                        (panels.as_ptr().add(done * stride + i * length), length, 1)
                    }
                    Some((panels, stride)) => (panels.as_ptr().add(done * stride + i * length), 1, S::OUTER_ROWS),
                };
                let place = (self.area.rows.start + i) * c_stride + self.area.columns.start + j;
                let c = self.product.c.pointer().add(place);
                let add = accumulate || block.start > 0;
                Tile { k: length, a, a_row, a_step, b, b_step, b_padded, c, c_stride, add }
                    .run::<S>((self.rows.end - i).min(S::OUTER_ROWS), columns);
            }
        }
    }
}

//! Attention on the CPU: one task a (sequence, key/value head, tile of queries), online softmax over key blocks.

use super::tile::{Rows, accumulate, dot};
use super::{Attention, AttentionParams, KEY_BLOCK, PAGE, Paged, Ragged};
use crate::Result;
use crate::device::cpu::parallel::{Shared, for_each_task};
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::{Cpu, DType, Tensor};
use std::cell::RefCell;

/// Rows of a query tile, at most: positions times the heads that share a key/value head.
const QUERY_ROWS: usize = 32;

thread_local! {
    /// Working memory of the thread's current task; grows to the largest tile and stays.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

fn with_scratch<T>(len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        work(&mut scratch[..len])
    })
}

/// Where the keys (or values) of one sequence and head lie.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// Row `j` is at `base + j * stride`.
    Contiguous { base: *const f32, stride: usize },
    /// Pages of `PAGE` rows, `page_stride` elements apart, the head's rows at `base` within page 0.
    Paged { base: *const f32, page_stride: usize, pages: &'a [u32], head_dim: usize },
}

impl Source<'_> {
    /// Rows that lie evenly spaced from a multiple of this on.
    #[inline(always)]
    fn stretch(self) -> usize {
        match self {
            Source::Contiguous { .. } => KEY_BLOCK,
            Source::Paged { .. } => PAGE,
        }
    }

    /// The rows from position `j`, evenly spaced up to the next multiple of [`Source::stretch`].
    ///
    /// # Safety
    /// Position `j` exists.
    #[inline(always)]
    unsafe fn rows(self, j: usize) -> Rows {
        // SAFETY: in bounds by the contract.
        unsafe {
            match self {
                Source::Contiguous { base, stride } => Rows { pointer: base.add(j * stride), stride },
                Source::Paged { base, page_stride, pages, head_dim } => Rows {
                    pointer: base.add(pages[j / PAGE] as usize * page_stride + j % PAGE * head_dim),
                    stride: head_dim,
                },
            }
        }
    }
}

/// One tile of queries against all keys they may see.
struct ForwardTile<'a> {
    params: &'a AttentionParams,
    keys: Source<'a>,
    values: Source<'a>,
    /// Row 0 of the tile's queries: `positions` rows of `group` adjacent heads, `q_stride` elements apart.
    q: *const f32,
    out: *mut f32,
    q_stride: usize,
    /// `[positions, num_heads]` at this tile's first row and head, if wanted.
    lse: Option<*mut f32>,
    /// Position of the first query in its sequence.
    start: usize,
    positions: usize,
    scratch: &'a mut [f32],
}

/// Scratch elements a forward tile needs: queries, scores, outputs, maxima and sums.
fn forward_scratch(rows: usize, head_dim: usize) -> usize {
    rows * (2 * head_dim + KEY_BLOCK + 2)
}

impl Kernel for ForwardTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { params, keys, values, q, out, q_stride, lse, start, positions, scratch } = self;
        let depth = params.head_dim;
        let group = params.num_heads / params.num_key_value_heads;
        let rows = positions * group;
        let (queries, rest) = scratch.split_at_mut(rows * depth);
        let (scores, rest) = rest.split_at_mut(rows * KEY_BLOCK);
        let (sums, rest) = rest.split_at_mut(rows * depth);
        let (maxima, totals) = rest.split_at_mut(rows);
        sums.fill(0.0);
        maxima.fill(f32::NEG_INFINITY);
        totals[..rows].fill(0.0);
        // SAFETY: the caller hands pointers to `positions` rows of `group * depth` elements, and keys and values exist
        // for every position up to `start + positions`.
        unsafe {
            for position in 0..positions {
                let source = std::slice::from_raw_parts(q.add(position * q_stride), group * depth);
                queries[position * group * depth..][..group * depth].copy_from_slice(source);
            }
            let end = start + positions;
            let first = params.window.map_or(0, |window| (start + 1).saturating_sub(window)) / KEY_BLOCK * KEY_BLOCK;
            for block in (first..end).step_by(KEY_BLOCK) {
                let count = KEY_BLOCK.min(end - block);
                let queries = Rows { pointer: queries.as_ptr(), stride: depth };
                for page in (0..count).step_by(keys.stretch()) {
                    let width = keys.stretch().min(count - page);
                    let keys = keys.rows(block + page);
                    let target = scores.as_mut_ptr().add(page);
                    dot::<S>(rows, width, depth, queries, keys, params.scale, target, KEY_BLOCK);
                }
                for row in 0..rows {
                    let scores = &mut scores[row * KEY_BLOCK..][..KEY_BLOCK];
                    let visible = visible_keys(start + row / group, params.window, block, count);
                    if let Some(correction) =
                        softmax_block::<S>(scores, visible, params.softcap, &mut maxima[row], &mut totals[row])
                    {
                        scale_row::<S>(&mut sums[row * depth..][..depth], correction);
                    }
                }
                for page in (0..count).step_by(values.stretch()) {
                    let width = values.stretch().min(count - page);
                    let values = values.rows(block + page);
                    let weights = scores.as_ptr().add(page);
                    accumulate::<S>(rows, width, depth, weights, KEY_BLOCK, 1, values, sums.as_mut_ptr(), depth);
                }
            }
            for row in 0..rows {
                scale_row::<S>(&mut sums[row * depth..][..depth], 1.0 / totals[row]);
                let (position, head) = (row / group, row % group);
                let target = out.add(position * q_stride + head * depth);
                std::slice::from_raw_parts_mut(target, depth).copy_from_slice(&sums[row * depth..][..depth]);
                if let Some(lse) = lse {
                    *lse.add(position * params.num_heads + head) = maxima[row] + totals[row].ln();
                }
            }
        }
    }
}

/// Keys of a block (as offsets from its start) that the query at `position` sees.
#[inline(always)]
fn visible_keys(position: usize, window: Option<usize>, block: usize, count: usize) -> std::ops::Range<usize> {
    let last = (position + 1).saturating_sub(block).min(count);
    let first = window.map_or(0, |window| (position + 1).saturating_sub(window).saturating_sub(block)).min(last);
    first..last
}

/// One step of the online softmax on a row: scores become `exp(s - max)`, 0 where masked; returns the factor for the sums
/// so far, or `None` where nothing is visible (the row is then all zeros).
#[inline(always)]
unsafe fn softmax_block<S: Simd>(
    scores: &mut [f32],
    visible: std::ops::Range<usize>,
    softcap: Option<f32>,
    maximum: &mut f32,
    total: &mut f32,
) -> Option<f32> {
    if visible.is_empty() {
        scores.fill(0.0);
        return None;
    }
    scores[..visible.start].fill(f32::NEG_INFINITY);
    scores[visible.end..].fill(f32::NEG_INFINITY);
    if let Some(cap) = softcap {
        for score in &mut scores[visible] {
            *score = cap * (*score / cap).tanh();
        }
    }
    // SAFETY: whole registers of a row of KEY_BLOCK elements, a multiple of every LANES.
    unsafe {
        let pointer = scores.as_mut_ptr();
        let mut highest = S::splat(f32::NEG_INFINITY);
        for j in (0..KEY_BLOCK).step_by(S::LANES) {
            highest = S::max(highest, S::load(pointer.add(j)));
        }
        let new_maximum = maximum.max(S::max_lane(highest));
        let mut sum = S::zero();
        for j in (0..KEY_BLOCK).step_by(S::LANES) {
            let weight = S::exp(S::sub(S::load(pointer.add(j)), S::splat(new_maximum)));
            S::store(pointer.add(j), weight);
            sum = S::add(sum, weight);
        }
        // exp(-inf) = 0 on the first block, whose sums are zeros.
        let correction = (*maximum - new_maximum).exp();
        *total = *total * correction + S::sum(sum);
        *maximum = new_maximum;
        Some(correction)
    }
}

#[inline(always)]
unsafe fn scale_row<S: Simd>(row: &mut [f32], factor: f32) {
    if factor == 1.0 {
        return;
    }
    let mut chunks = row.chunks_exact_mut(S::LANES);
    for chunk in &mut chunks {
        // SAFETY: a chunk has LANES elements.
        unsafe { S::store(chunk.as_mut_ptr(), S::mul(S::load(chunk.as_ptr()), S::splat(factor))) }
    }
    for value in chunks.into_remainder() {
        *value *= factor;
    }
}

/// A pointer that tasks share; each writes rows of its own.
#[derive(Clone, Copy)]
struct Output(*mut f32);
// SAFETY: tasks write disjoint (row, head) cells.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// # Safety
    /// `offset` is within the tensor.
    unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: by the contract.
        unsafe { self.0.add(offset) }
    }
}

/// Positions in a query tile.
fn tile_positions(params: &AttentionParams) -> usize {
    (QUERY_ROWS / (params.num_heads / params.num_key_value_heads)).max(1)
}

/// Calls `task(sequence, first position, positions, key/value head)` for every tile of a batch, in parallel.
fn for_each_tile(
    params: &AttentionParams,
    offsets: &[u32],
    count: usize,
    task: impl Fn(usize, usize, usize, usize) + Send + Sync,
) {
    let step = tile_positions(params);
    let tiles = |s: usize| ((offsets[s + 1] - offsets[s]) as usize).div_ceil(step);
    // With one row a sequence (decoding) a tile is a sequence, and no search is needed.
    let total: usize = (0..count).map(tiles).sum();
    let heads = params.num_key_value_heads;
    for_each_task(total * heads, |index| {
        let (mut tile, head) = (index / heads, index % heads);
        let mut sequence = 0;
        while tile >= tiles(sequence) {
            tile -= tiles(sequence);
            sequence += 1;
        }
        let length = (offsets[sequence + 1] - offsets[sequence]) as usize;
        let first = tile * step;
        task(sequence, first, step.min(length - first), head);
    });
}

fn check_shapes(params: &AttentionParams, q: &Tensor<Cpu>, k: &Tensor<Cpu>) {
    assert!(params.num_heads.is_multiple_of(params.num_key_value_heads), "heads share key/value heads evenly");
    assert_eq!(q.cols(), params.num_heads * params.head_dim, "q columns");
    assert_eq!(k.cols(), params.num_key_value_heads * params.head_dim, "k columns");
}

impl Attention for Cpu {
    fn branch_dtype(&self, _weights: DType, _head_dim: usize) -> DType {
        DType::F32
    }

    fn attention(
        &self,
        params: &AttentionParams,
        batch: &Ragged<Self>,
        q: &Tensor<Self>,
        k: &Tensor<Self>,
        v: &Tensor<Self>,
        out: &mut Tensor<Self>,
        lse: &mut Tensor<Self>,
    ) -> Result<()> {
        check_shapes(params, q, k);
        assert_eq!(q.shape(), out.shape(), "out is like q");
        assert_eq!(lse.shape(), [q.rows(), params.num_heads], "lse is [T, num_heads]");
        assert_eq!(batch.offsets[batch.count] as usize, q.rows(), "offsets cover all rows");
        let (depth, group) = (params.head_dim, params.num_heads / params.num_key_value_heads);
        let (q_stride, kv_stride) = (q.cols(), k.cols());
        let (q, k, v) = (q.buffer.f32(), k.buffer.f32(), v.buffer.f32());
        let out = Output(out.buffer.f32_mut().as_mut_ptr());
        let lse = Output(lse.buffer.f32_mut().as_mut_ptr());
        for_each_tile(params, &batch.offsets, batch.count, |sequence, first, positions, head| {
            let base = batch.offsets[sequence] as usize;
            let source = |x: &[f32]| Source::Contiguous {
                base: x[base * kv_stride + head * depth..].as_ptr(),
                stride: kv_stride,
            };
            let offset = (base + first) * q_stride + head * group * depth;
            with_scratch(forward_scratch(positions * group, depth), |scratch| {
                self.isa().run(ForwardTile {
                    params,
                    keys: source(k),
                    values: source(v),
                    q: q[offset..].as_ptr(),
                    // SAFETY: rows and heads of this tile, by the shape assertions above.
                    out: unsafe { out.at(offset) },
                    q_stride,
                    // SAFETY: as above.
                    lse: Some(unsafe { lse.at((base + first) * params.num_heads + head * group) }),
                    start: first,
                    positions,
                    scratch,
                });
            });
        });
        Ok(())
    }

    fn attention_backward(
        &self,
        params: &AttentionParams,
        batch: &Ragged<Self>,
        q: &Tensor<Self>,
        k: &Tensor<Self>,
        v: &Tensor<Self>,
        out: &Tensor<Self>,
        lse: &Tensor<Self>,
        dout: &Tensor<Self>,
        dq: &mut Tensor<Self>,
        dk: &mut Tensor<Self>,
        dv: &mut Tensor<Self>,
    ) -> Result<()> {
        check_shapes(params, q, k);
        dq.buffer.f32_mut().fill(0.0);
        dk.buffer.f32_mut().fill(0.0);
        dv.buffer.f32_mut().fill(0.0);
        let heads = params.num_key_value_heads;
        let (q_stride, kv_stride) = (q.cols(), k.cols());
        let group = params.num_heads / heads;
        let (dq, dk, dv) = (
            Output(dq.buffer.f32_mut().as_mut_ptr()),
            Output(dk.buffer.f32_mut().as_mut_ptr()),
            Output(dv.buffer.f32_mut().as_mut_ptr()),
        );
        let inputs = [q, k, v, out, lse, dout].map(|tensor| tensor.buffer.f32());
        for_each_task(batch.count * heads, |index| {
            let (sequence, head) = (index / heads, index % heads);
            let base = batch.offsets[sequence] as usize;
            let length = batch.offsets[sequence + 1] as usize - base;
            if length == 0 {
                return;
            }
            let q_offset = base * q_stride + head * group * params.head_dim;
            let kv_offset = base * kv_stride + head * params.head_dim;
            let [q, k, v, out, lse, dout] = inputs;
            with_scratch(backward_scratch(length, group), |scratch| {
                self.isa().run(BackwardHead {
                    params,
                    length,
                    q_stride,
                    kv_stride,
                    q: &q[q_offset..],
                    k: &k[kv_offset..],
                    v: &v[kv_offset..],
                    out: &out[q_offset..],
                    dout: &dout[q_offset..],
                    lse: &lse[base * params.num_heads + head * group..],
                    // SAFETY: the rows of this sequence and the columns of this head; no other task writes them.
                    dq: unsafe { dq.at(q_offset) },
                    // SAFETY: as above.
                    dk: unsafe { dk.at(kv_offset) },
                    // SAFETY: as above.
                    dv: unsafe { dv.at(kv_offset) },
                    scratch,
                });
            });
        });
        Ok(())
    }

    fn cache_write(
        &self,
        params: &AttentionParams,
        batch: &Paged<Self>,
        rows: &Tensor<Self>,
        cache: &mut Tensor<Self>,
    ) -> Result<()> {
        let (depth, heads) = (params.head_dim, params.num_key_value_heads);
        assert_eq!(cache.cols(), heads * PAGE * depth, "cache page size");
        let source = rows.buffer.f32();
        let cache = Shared::new(cache.buffer.f32_mut());
        for_each_task(batch.count, |sequence| {
            let range = batch.offsets[sequence] as usize..batch.offsets[sequence + 1] as usize;
            let start = batch.starts[sequence] as usize;
            for (position, row) in (start..).zip(range) {
                let page = batch.pages[sequence * batch.max_pages + position / PAGE] as usize;
                for head in 0..heads {
                    let target = (page * heads + head) * PAGE * depth + position % PAGE * depth;
                    let values = &source[(row * heads + head) * depth..][..depth];
                    // SAFETY: a sequence writes only slots of pages it owns, and only its own positions.
                    unsafe { cache.range(target..target + depth) }.copy_from_slice(values);
                }
            }
        });
        Ok(())
    }

    fn cache_copy_page(&self, cache: &mut Tensor<Self>, from: usize, to: usize) -> Result<()> {
        let size = cache.cols();
        cache.buffer.f32_mut().copy_within(from * size..(from + 1) * size, to * size);
        Ok(())
    }

    fn cache_grow(&self, cache: &Tensor<Self>, num_pages: usize) -> Result<Tensor<Self>> {
        let mut grown = Tensor::zeros(self, DType::F32, num_pages, cache.cols())?;
        grown.buffer.f32_mut()[..cache.len()].copy_from_slice(cache.buffer.f32());
        Ok(grown)
    }

    fn attention_paged(
        &self,
        params: &AttentionParams,
        batch: &Paged<Self>,
        q: &Tensor<Self>,
        cache_k: &Tensor<Self>,
        cache_v: &Tensor<Self>,
        out: &mut Tensor<Self>,
    ) -> Result<()> {
        assert_eq!(q.cols(), params.num_heads * params.head_dim, "q columns");
        assert_eq!(q.shape(), out.shape(), "out is like q");
        let (depth, group) = (params.head_dim, params.num_heads / params.num_key_value_heads);
        let (q_stride, page_stride) = (q.cols(), cache_k.cols());
        let (q, k, v) = (q.buffer.f32(), cache_k.buffer.f32(), cache_v.buffer.f32());
        let out = Output(out.buffer.f32_mut().as_mut_ptr());
        for_each_tile(params, &batch.offsets, batch.count, |sequence, first, positions, head| {
            let start = batch.starts[sequence] as usize + first;
            let pages = &batch.pages[sequence * batch.max_pages..][..batch.max_pages];
            let needed = (start + positions).div_ceil(PAGE);
            assert!(pages[..needed].iter().all(|&page| (page as usize) < k.len() / page_stride), "page out of range");
            let source = |x: &[f32]| Source::Paged {
                base: x[head * PAGE * depth..].as_ptr(),
                page_stride,
                pages,
                head_dim: depth,
            };
            let offset = (batch.offsets[sequence] as usize + first) * q_stride + head * group * depth;
            with_scratch(forward_scratch(positions * group, depth), |scratch| {
                self.isa().run(ForwardTile {
                    params,
                    keys: source(k),
                    values: source(v),
                    q: q[offset..].as_ptr(),
                    // SAFETY: rows and heads of this tile, by the shape assertions above.
                    out: unsafe { out.at(offset) },
                    q_stride,
                    lse: None,
                    start,
                    positions,
                    scratch,
                });
            });
        });
        Ok(())
    }
}

/// All gradients that one key/value head of one sequence takes part in.
struct BackwardHead<'a> {
    params: &'a AttentionParams,
    length: usize,
    q_stride: usize,
    kv_stride: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: &'a [f32],
    dout: &'a [f32],
    lse: &'a [f32],
    dq: *mut f32,
    dk: *mut f32,
    dv: *mut f32,
    scratch: &'a mut [f32],
}

/// Scratch elements of the backward pass: D_i for each query of the group, and the tiles P and dP.
fn backward_scratch(length: usize, group: usize) -> usize {
    length * group + 2 * QUERY_ROWS * KEY_BLOCK
}

impl Kernel for BackwardHead<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { params, length, q_stride, kv_stride, q, k, v, out, dout, lse, dq, dk, dv, scratch } = self;
        let depth = params.head_dim;
        let group = params.num_heads / params.num_key_value_heads;
        let (deltas, tiles) = scratch.split_at_mut(length * group);
        let (p, dp) = tiles.split_at_mut(QUERY_ROWS * KEY_BLOCK);
        // D_i = dout_i . out_i
        for position in 0..length {
            for head in 0..group {
                let at = position * q_stride + head * depth;
                let row = |x: &[f32]| Rows { pointer: x[at..at + depth].as_ptr(), stride: depth };
                let delta = &mut deltas[position * group + head];
                // SAFETY: both rows have `depth` elements.
                unsafe { dot::<S>(1, 1, depth, row(out), row(dout), 1.0, delta, 1) };
            }
        }
        for block in (0..length).step_by(KEY_BLOCK) {
            let count = KEY_BLOCK.min(length - block);
            for head in 0..group {
                // Queries before the block see none of its keys; beyond the window they see none either.
                let last = params.window.map_or(length, |window| length.min(block + count + window - 1));
                for first in (block..last).step_by(QUERY_ROWS) {
                    let rows = QUERY_ROWS.min(last - first);
                    let at = first * q_stride + head * depth;
                    // SAFETY: `rows` queries from `first` and `count` keys from `block` lie within the sequence, whose
                    // slices start at this head; the gradients have the same shapes.
                    unsafe {
                        let queries = Rows { pointer: q[at..].as_ptr(), stride: q_stride };
                        let douts = Rows { pointer: dout[at..].as_ptr(), stride: q_stride };
                        let keys = Rows { pointer: k[block * kv_stride..].as_ptr(), stride: kv_stride };
                        let values = Rows { pointer: v[block * kv_stride..].as_ptr(), stride: kv_stride };
                        dot::<S>(rows, count, depth, queries, keys, params.scale, p.as_mut_ptr(), KEY_BLOCK);
                        dot::<S>(rows, count, depth, douts, values, 1.0, dp.as_mut_ptr(), KEY_BLOCK);
                        for row in 0..rows {
                            let position = first + row;
                            score_gradient::<S>(
                                &mut p[row * KEY_BLOCK..][..KEY_BLOCK],
                                &mut dp[row * KEY_BLOCK..][..KEY_BLOCK],
                                visible_keys(position, params.window, block, count),
                                params,
                                lse[position * params.num_heads + head],
                                deltas[position * group + head],
                            );
                        }
                        let (p, dp) = (p.as_ptr(), dp.as_ptr());
                        let (dk, dv) = (dk.add(block * kv_stride), dv.add(block * kv_stride));
                        accumulate::<S>(count, rows, depth, p, 1, KEY_BLOCK, douts, dv, kv_stride);
                        accumulate::<S>(count, rows, depth, dp, 1, KEY_BLOCK, queries, dk, kv_stride);
                        accumulate::<S>(rows, count, depth, dp, KEY_BLOCK, 1, keys, dq.add(at), q_stride);
                    }
                }
            }
        }
    }
}

/// A row of scaled scores becomes P, and the row of dP becomes the gradient of q.k:
/// `scale * P_ij (dP_ij - D_i)`, times `1 - (s / c)^2` under a softcap; both 0 where masked.
#[inline(always)]
unsafe fn score_gradient<S: Simd>(
    p: &mut [f32],
    dp: &mut [f32],
    visible: std::ops::Range<usize>,
    params: &AttentionParams,
    lse: f32,
    delta: f32,
) {
    p[..visible.start].fill(f32::NEG_INFINITY);
    p[visible.end..].fill(f32::NEG_INFINITY);
    dp[..visible.start].fill(0.0);
    dp[visible.end..].fill(0.0);
    if let Some(cap) = params.softcap {
        // ds passes through the softcap's derivative before P is formed: fold it into dP - D.
        for (score, gradient) in p[visible.clone()].iter_mut().zip(&mut dp[visible]) {
            let tanh = (*score / cap).tanh();
            *score = cap * tanh;
            *gradient = (*gradient - delta) * (1.0 - tanh * tanh) + delta;
        }
    }
    // SAFETY: whole registers of rows of KEY_BLOCK elements.
    unsafe {
        for j in (0..KEY_BLOCK).step_by(S::LANES) {
            let weight = S::exp(S::sub(S::load(p.as_ptr().add(j)), S::splat(lse)));
            let centred = S::sub(S::load(dp.as_ptr().add(j)), S::splat(delta));
            S::store(p.as_mut_ptr().add(j), weight);
            S::store(dp.as_mut_ptr().add(j), S::mul(S::splat(params.scale), S::mul(weight, centred)));
        }
    }
}

//! Matrix products on the CPU whose rows do not depend on the batch.
//!
//! Three products, in f32 with f32 accumulation:
//! - [`gemm_nt`]: `y = x w^T`, a linear layer's forward pass and attention's scores (dot-product kernel, `dot.rs`);
//! - [`gemm_nn`]: `c = a b`, the gradient of a layer's input and attention's output (outer-product kernel, `outer.rs`);
//! - [`gemm_tn`]: `c = a^T b`, the gradient of a layer's weight (the same).
//!
//! Law of all three: the bits of an output depend on its row of the left operand, its column of the right operand, k
//! and the instruction set, and on nothing else: not on m or n, the place in the matrix, or the number of threads.
//! So k is cut into blocks by k alone, an output's sum within a block has one order in every kernel, and blocks are
//! added to the output in order.
//!
//! Each has a `_serial` twin for callers that are parallel themselves: it runs on the calling thread. Working memory
//! comes from the thread's [`scratch`](super::scratch).

mod dot;
mod nt;
mod outer;
mod panels;

use super::parallel::Shared;
use super::{Isa, View};
use std::ops::Range;

/// Who computes.
#[derive(Clone, Copy)]
enum Threads {
    /// The rayon pool of the calling thread.
    Pool,
    /// The calling thread.
    One,
}

impl Threads {
    fn count(self) -> usize {
        match self {
            Self::Pool => rayon::current_num_threads(),
            Self::One => 1,
        }
    }

    /// Runs `task(0) .. task(count - 1)` in any order.
    fn for_each(self, count: usize, task: impl Fn(usize) + Send + Sync) {
        match self {
            Self::Pool => super::parallel::for_each_task(count, task),
            Self::One => (0..count).for_each(task),
        }
    }
}

/// Elements that a `[rows, cols]` matrix with a row stride spans.
fn span(rows: usize, cols: usize, stride: usize) -> usize {
    if rows == 0 || cols == 0 {
        return 0;
    }
    assert!(rows == 1 || stride >= cols, "gemm: a row stride is shorter than a row");
    (rows - 1) * stride + cols
}

/// Cuts `0..k` into blocks of about equal length, at most `most`, multiples of `step` but for the last. They depend on k
/// alone: they fix the order of every output's sum.
fn blocks(k: usize, most: usize, step: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let length = k.div_ceil(k.div_ceil(most).max(1)).next_multiple_of(step).max(1);
    (0..k.div_ceil(length)).map(move |b| b * length..((b + 1) * length).min(k))
}

/// An empty sum: zeros, unless it is to be added.
fn clear(y: &Shared<'_, f32>, m: usize, n: usize, stride: usize, accumulate: bool) {
    if !accumulate {
        for i in 0..m {
            // SAFETY: the caller has `y` to itself.
            unsafe { y.range(i * stride..i * stride + n) }.fill(0.0);
        }
    }
}

/// `y[m, n] (+)= sum_k x[m, k] w[n, k]`: a linear layer's forward pass. Row strides are in elements.
#[allow(clippy::too_many_arguments)]
pub fn gemm_nt(
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    x: &[f32],
    x_stride: usize,
    w: View<'_>,
    w_stride: usize,
    y: &mut [f32],
    y_stride: usize,
    accumulate: bool,
) {
    let y = Shared::new(y);
    nt::Product { isa, m, n, k, x, x_stride, w, w_stride, y, y_stride, accumulate }.run(Threads::Pool);
}

/// [`gemm_nt`] on the calling thread.
#[allow(clippy::too_many_arguments)]
pub fn gemm_nt_serial(
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    x: &[f32],
    x_stride: usize,
    w: View<'_>,
    w_stride: usize,
    y: &mut [f32],
    y_stride: usize,
    accumulate: bool,
) {
    let y = Shared::new(y);
    nt::Product { isa, m, n, k, x, x_stride, w, w_stride, y, y_stride, accumulate }.run(Threads::One);
}

/// `c[m, n] (+)= sum_k a[m, k] b[k, n]`: the gradient of a linear layer's input, attention's output. Row strides are in elements.
#[allow(clippy::too_many_arguments)]
pub fn gemm_nn(
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    a_stride: usize,
    b: View<'_>,
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
    accumulate: bool,
) {
    assert!(span(m, k, a_stride) <= a.len(), "gemm_nn: a is too short");
    let (a_row, a_step) = (a_stride, 1);
    let c = Shared::new(c);
    panels::Product { isa, m, n, k, a, a_row, a_step, b, b_stride, c, c_stride, accumulate }.run(Threads::Pool);
}

/// [`gemm_nn`] on the calling thread.
#[allow(clippy::too_many_arguments)]
pub fn gemm_nn_serial(
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    a_stride: usize,
    b: View<'_>,
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
    accumulate: bool,
) {
    assert!(span(m, k, a_stride) <= a.len(), "gemm_nn: a is too short");
    let (a_row, a_step) = (a_stride, 1);
    let c = Shared::new(c);
    panels::Product { isa, m, n, k, a, a_row, a_step, b, b_stride, c, c_stride, accumulate }.run(Threads::One);
}

/// `c[m, n] (+)= sum_k a[k, m] b[k, n]`: the gradient of a linear layer's weight. Row strides are in elements.
#[allow(clippy::too_many_arguments)]
pub fn gemm_tn(
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
    accumulate: bool,
) {
    assert!(span(k, m, a_stride) <= a.len(), "gemm_tn: a is too short");
    let (a_row, a_step) = (1, a_stride);
    let c = Shared::new(c);
    panels::Product { isa, m, n, k, a, a_row, a_step, b: View::F32(b), b_stride, c, c_stride, accumulate }
        .run(Threads::Pool);
}

/// [`gemm_tn`] on the calling thread.
#[allow(clippy::too_many_arguments)]
pub fn gemm_tn_serial(
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
    accumulate: bool,
) {
    assert!(span(k, m, a_stride) <= a.len(), "gemm_tn: a is too short");
    let (a_row, a_step) = (1, a_stride);
    let c = Shared::new(c);
    panels::Product { isa, m, n, k, a, a_row, a_step, b: View::F32(b), b_stride, c, c_stride, accumulate }
        .run(Threads::One);
}

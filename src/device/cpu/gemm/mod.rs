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

use super::parallel::Shared;
use super::{Isa, View};

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

//! Picking rows of a matrix, and the gradient of that.

mod cpu;
mod cuda;

pub(in crate::ops) use cuda::add_sum_of_rows;

use crate::Result;
use crate::device::{Backend, Tensor};

/// Rows by number: the response tokens of a batch, or the last token of each sequence.
pub trait Rows: Backend {
    /// `y[i] = x[rows[i]]`.
    fn gather_rows(&self, x: &Tensor<Self>, rows: &Self::Indices, y: &mut Tensor<Self>) -> Result<()>;

    /// `x[rows[i]] = y[i]` for distinct rows; the other rows of `x` become 0. The gradient of [`Rows::gather_rows`].
    fn scatter_rows(&self, y: &Tensor<Self>, rows: &Self::Indices, x: &mut Tensor<Self>) -> Result<()>;
}

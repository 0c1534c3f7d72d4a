//! Elementwise sums.

mod cpu;

use crate::Result;
use crate::device::{Backend, Tensor};

/// Elementwise operations on tensors of equal shape.
pub trait Elementwise: Backend {
    /// `y += x`.
    fn add(&self, x: &Tensor<Self>, y: &mut Tensor<Self>) -> Result<()>;
}

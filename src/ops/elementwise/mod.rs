//! Elementwise sums, scaling and the softcap.

mod cpu;
mod cuda;

pub(in crate::ops) use cpu::CHUNK;

use crate::Result;
use crate::device::{Backend, Tensor};

/// Elementwise operations in place; `x` and `y` are of equal shape.
pub trait Elementwise: Backend {
    /// `y += x`.
    fn add(&self, x: &Tensor<Self>, y: &mut Tensor<Self>) -> Result<()>;

    /// `y *= factor`.
    fn scale(&self, factor: f32, y: &mut Tensor<Self>) -> Result<()>;

    /// `y = cap * tanh(y / cap)` (Gemma 2's softcaps).
    fn softcap(&self, cap: f32, y: &mut Tensor<Self>) -> Result<()>;
}

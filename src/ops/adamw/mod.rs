//! The AdamW update and the gradient norm.

mod cpu;
mod cuda;

use crate::Result;
use crate::device::{Backend, Tensor};

/// Hyper-parameters of one AdamW step, in PyTorch's names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// Number of this step, from 1 (for the bias correction).
    pub step: u32,
    /// Factor on every gradient: 1, or `max_norm / norm` where clipping binds.
    pub grad_scale: f32,
}

/// Decoupled weight decay (Loshchilov & Hutter 2019), in PyTorch's order of operations.
pub trait AdamW: Backend {
    /// With g = grad_scale * grad:
    /// `param *= 1 - lr weight_decay; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;`
    /// `param -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)`.
    /// All four tensors are f32 and of equal shape.
    fn adamw(
        &self,
        hyper: &AdamWStep,
        grad: &Tensor<Self>,
        param: &mut Tensor<Self>,
        m: &mut Tensor<Self>,
        v: &mut Tensor<Self>,
    ) -> Result<()>;

    /// `sum_i x_i^2` in f64, in a fixed order.
    fn sum_squares(&self, x: &Tensor<Self>) -> Result<f64>;
}

//! The AdamW update and the gradient norm.

mod cpu;
mod cuda;

use crate::Result;
use crate::device::{Backend, Tensor};
use crate::rng::philox4x32_10;
use half::bf16;

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
    /// Names the draws that round a bf16 parameter and its moments: each parameter has a stream of its own.
    pub stream: u64,
}

impl AdamWStep {
    /// The draws for an element of a bf16 parameter: 16 random bits each for the parameter, m and v, from Philox keyed by
    /// the stream, at (element, step). They depend on no batch, thread or earlier step.
    fn noise(&self, element: u64) -> [u16; 3] {
        let counter = [element as u32, (element >> 32) as u32, self.step, 0];
        let words = philox4x32_10(counter, [self.stream as u32, (self.stream >> 32) as u32]);
        [words[0], words[1], words[2]].map(|word| (word >> 16) as u16)
    }
}

/// `x` in bf16, up or down with the probability that makes the result `x` on average: `noise` is uniform. A small update
/// of a large weight, which rounding to nearest would always lose, then happens as often as it should.
///
/// What is not finite stays as it is.
pub fn round_stochastically(x: f32, noise: u16) -> bf16 {
    if !x.is_finite() {
        return bf16::from_f32(x);
    }
    bf16::from_bits(((x.to_bits() + u32::from(noise)) >> 16) as u16)
}

/// Decoupled weight decay (Loshchilov & Hutter 2019), in PyTorch's order of operations.
pub trait AdamW: Backend {
    /// With g = grad_scale * grad:
    /// `param *= 1 - lr weight_decay; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;`
    /// `param -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)`.
    /// All four tensors are of equal shape; `grad` is f32, the others all f32, or all bf16: then the arithmetic is f32 and
    /// each result is rounded by [`round_stochastically`].
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

//! The AdamW update and the gradient norm.

mod cpu;
mod cuda;

use crate::Result;
use crate::device::{Backend, Tensor};
use crate::rng::philox4x32_10_together;
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
    /// The draws for `N` elements of a bf16 parameter from `first` on: 16 random bits each for the parameter, m and v, from
    /// Philox keyed by the stream, at (element, step). They depend on no batch, thread or earlier step.
    // Loops by index become vectors.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn noise<const N: usize>(&self, first: u64) -> [[u32; N]; 3] {
        let mut counters = [[0; N], [0; N], [self.step; N], [0; N]];
        for i in 0..N {
            let element = first + i as u64;
            (counters[0][i], counters[1][i]) = (element as u32, (element >> 32) as u32);
        }
        let [mut a, mut b, mut c, _] =
            philox4x32_10_together(counters, [self.stream as u32, (self.stream >> 32) as u32]);
        for i in 0..N {
            (a[i], b[i], c[i]) = (a[i] >> 16, b[i] >> 16, c[i] >> 16);
        }
        [a, b, c]
    }
}

/// `x` in bf16, up or down with the probability that makes the result `x` on average: `noise` is uniform. A small update
/// of a large weight, which rounding to nearest would always lose, then happens as often as it should.
///
/// What is not finite stays as it is.
#[inline(always)]
pub fn round_stochastically(x: f32, noise: u16) -> bf16 {
    let bits = x.to_bits();
    // Without branches. A NaN that loses its lower bits stays one.
    let as_it_is = (bits >> 16) | (u32::from(x.is_nan()) << 6);
    let rounded = bits.wrapping_add(u32::from(noise)) >> 16;
    bf16::from_bits(if x.is_finite() { rounded } else { as_it_is } as u16)
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

//! Linear layers: `y = x W^T + b`, and both their gradients.

mod cpu;
mod cuda;

use crate::Result;
use crate::device::{Backend, Tensor};

/// `y[t, n] = sum_k x[t, k] w[n, k] + bias[n]`. Weights are stored as Hugging Face stores them, `[out, in]`.
///
/// Laws: a row of `y` does not depend on the other rows of `x`, bit for bit; linear in `x` and in `w`.
pub trait Linear: Backend {
    /// Forward: `x [T, K]`, `w [N, K]` of any dtype, `bias [1, N]`, `y [T, N]`. Activations and their gradients, here
    /// and below, are f32, or on a GPU what [`super::attention::Attention::branch_dtype`] says.
    fn linear(
        &self,
        x: &Tensor<Self>,
        w: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        y: &mut Tensor<Self>,
    ) -> Result<()>;

    /// `dx[t, k] = sum_n dy[t, n] w[n, k]`, added to `dx` if `accumulate`.
    fn linear_backward_input(
        &self,
        dy: &Tensor<Self>,
        w: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        accumulate: bool,
    ) -> Result<()>;

    /// `dw[n, k] = sum_t dy[t, n] x[t, k]` and `dbias[n] = sum_t dy[t, n]`, both f32, added to what is there if `accumulate`.
    fn linear_backward_weight(
        &self,
        dy: &Tensor<Self>,
        x: &Tensor<Self>,
        dw: &mut Tensor<Self>,
        dbias: Option<&mut Tensor<Self>>,
        accumulate: bool,
    ) -> Result<()>;
}

//! RMSNorm over groups of `weight.len()` consecutive elements.

mod cpu;
mod cuda;

use crate::Result;
use crate::device::{Backend, Tensor};

/// `y_i = x_i / sqrt(mean_j x_j^2 + eps) * (offset + w_i)`.
///
/// `offset` is 0 for Llama-like models and 1 for Gemma's `(1 + w)`. A group is `weight.len()` elements: a whole row of
/// hidden states, or one head of q or k (Qwen3's QK norm), so `x.len()` is any multiple of it.
///
/// Law: scaling a group of `x` by `c > 0` leaves `y` unchanged as `eps -> 0`.
pub trait RmsNorm: Backend {
    /// `x` and `y` are f32; where a device has bf16 branches, `y` or both may be bf16. `weight` is f32.
    fn rms_norm(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        y: &mut Tensor<Self>,
    ) -> Result<()>;

    /// With r = 1 / sqrt(mean x^2 + eps), g_i = dy_i (offset + w_i):
    /// `dx_i (+)= r g_i - r^3 x_i mean_j(g_j x_j)` (added to `dx` if `accumulate`); `dweight_i += sum_groups dy_i x_i r`.
    /// `x`, `dy` and `dx` have one dtype, f32 or a branch's; `dweight` is f32.
    #[allow(clippy::too_many_arguments)]
    fn rms_norm_backward(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        dy: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        accumulate: bool,
        dweight: Option<&mut Tensor<Self>>,
    ) -> Result<()>;
}

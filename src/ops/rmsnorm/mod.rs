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

    /// The residual stream after a branch, and its rows normed for the next one, in one pass: `sum += x`, then
    /// [`Self::rms_norm`] of `sum` into `y`. `x`, the stream so far, and `sum`, the branch's output and then the stream, are
    /// f32; `y` and `weight` as there.
    ///
    /// Law: the bits of an addition and a norm, one after the other.
    fn add_rms_norm(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        sum: &mut Tensor<Self>,
        y: &mut Tensor<Self>,
    ) -> Result<()>;

    /// With r = 1 / sqrt(mean x^2 + eps), g_i = dy_i (offset + w_i):
    /// `dx_i = r g_i - r^3 x_i mean_j(g_j x_j)`; `dweight_i += sum_groups dy_i x_i r`.
    /// `x`, `dy` and `dx` have one dtype, f32 or a branch's, but that `dx` of f32 `x` and `dy` may have a branch's;
    /// `dweight` is f32.
    #[allow(clippy::too_many_arguments)]
    fn rms_norm_backward(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        dy: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        dweight: Option<&mut Tensor<Self>>,
    ) -> Result<()>;

    /// [`Self::rms_norm_backward`] where `x` is the residual stream: the rows' gradient is added to `dx`, the stream's own,
    /// and `rounded`, if given, receives the sum in a branch's dtype. All others are f32.
    #[allow(clippy::too_many_arguments)]
    fn add_rms_norm_backward(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        dy: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        rounded: Option<&mut Tensor<Self>>,
        dweight: Option<&mut Tensor<Self>>,
    ) -> Result<()>;
}

//! Rotary position embedding, in the half-split layout that Hugging Face checkpoints use.

mod cpu;
mod cuda;

use crate::Result;
use crate::device::{Backend, Tensor};

/// Rotates each head's pairs `(x_i, x_{i + d/2})` by the angle `position * inv_freq_i`.
///
/// Laws: keeps the norm of every pair; `inverse` undoes it (and is its gradient).
pub trait Rope: Backend {
    /// `cos[t, i] = cos(positions[t] * inv_freq[i])` and likewise `sin`; angles in f32, as transformers computes them.
    /// `inv_freq` has `d/2` entries; `cos` and `sin` are `[T, d/2]` in f32.
    fn rope_table(
        &self,
        positions: &Self::Indices,
        inv_freq: &[f32],
        cos: &mut Tensor<Self>,
        sin: &mut Tensor<Self>,
    ) -> Result<()>;

    /// In place on `x [T, heads * d]`, in f32 or a branch's dtype, with `d = 2 * cos.cols()`:
    /// `x_i' = x_i cos_i - x_{i+d/2} sin_i`, `x_{i+d/2}' = x_{i+d/2} cos_i + x_i sin_i`; `inverse` negates `sin`.
    fn rope(&self, x: &mut Tensor<Self>, cos: &Tensor<Self>, sin: &Tensor<Self>, inverse: bool) -> Result<()>;
}

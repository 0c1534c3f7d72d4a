//! Rotary position embedding, in the half-split layout that Hugging Face checkpoints use.

mod cpu;
mod cuda;

use crate::Result;
use crate::device::{Backend, Tensor};
use crate::ops::attention::{AttentionParams, Paged};

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

    /// In place on every head of `q [T, num_heads * d]` and `k [T, num_key_value_heads * d]`, both in f32 or a branch's
    /// dtype, with `d = 2 * cos.cols()`: `x_i' = x_i cos_i - x_{i+d/2} sin_i`, `x_{i+d/2}' = x_{i+d/2} cos_i + x_i sin_i`;
    /// `inverse` negates `sin`.
    fn rope(
        &self,
        q: &mut Tensor<Self>,
        k: &mut Tensor<Self>,
        cos: &Tensor<Self>,
        sin: &Tensor<Self>,
        inverse: bool,
    ) -> Result<()>;

    /// [`Self::rope`] of new rows whose keys and values go into a cache: rotates `q` in place, `k` on its way to `cache_k`,
    /// and stores `v` in `cache_v`, as [`cache_write`](crate::ops::attention::Attention::cache_write) does. `k` itself is
    /// unspecified afterwards.
    #[allow(clippy::too_many_arguments)]
    fn rope_to_cache(
        &self,
        params: &AttentionParams,
        batch: &Paged<Self>,
        q: &mut Tensor<Self>,
        k: &mut Tensor<Self>,
        v: &Tensor<Self>,
        cos: &Tensor<Self>,
        sin: &Tensor<Self>,
        cache_k: &mut Tensor<Self>,
        cache_v: &mut Tensor<Self>,
    ) -> Result<()>;
}

//! Per-token KL divergence of two models, both vocabularies streamed in tiles: no logits in memory.

mod cpu;
mod cuda;

use crate::Result;
use crate::device::{Backend, Tensor};

/// One model's side of the comparison.
pub struct KlSide<'a, D: Backend> {
    /// Final hidden states, `[T, H]`; H may differ between the sides.
    pub hidden: &'a Tensor<D>,
    /// Unembedding, `[V, H]`, any dtype; V is the same on both sides.
    pub w: &'a Tensor<D>,
    pub softcap: Option<f32>,
}

/// What is known of each token after one pass, `[1, T]` in f32.
pub struct KlOutput<D: Backend> {
    /// D_KL(p || q) = sum_v p_v (log p_v - log q_v), nats.
    pub kl: Tensor<D>,
    pub entropy_p: Tensor<D>,
    pub entropy_q: Tensor<D>,
    /// The most likely token of each side, as exact integers in f32 (V < 2^24).
    pub argmax_p: Tensor<D>,
    pub argmax_q: Tensor<D>,
}

/// `log sum_v exp z_v` of each side, `[1, T]` in f32: what the backward pass needs beside the divergence itself.
pub struct KlNormalizers<D: Backend> {
    pub lse_p: Tensor<D>,
    pub lse_q: Tensor<D>,
}

/// Where a side's gradients go.
pub struct KlGradient<'a, D: Backend> {
    /// Of the hidden states, `[T, H]`: overwritten.
    pub hidden: &'a mut Tensor<D>,
    /// Of the unembedding, `[V, H]` in f32: added to.
    pub w: Option<&'a mut Tensor<D>>,
}

/// D_KL(p || q) a token (paper, Figure 1: p is the aligned model, q the base model).
///
/// With online softmax over vocabulary tiles: KL = sum_v p_v (z^p_v - z^q_v) - lse_p + lse_q.
///
/// Laws: never negative beyond rounding; 0 for equal sides; unchanged when a constant is added to a side's logits. Of the
/// gradient: exactly 0 for equal sides; `sum_v dz_v = 0` for each token and side; a token's does not depend on the others.
pub trait LinearKl: Backend {
    fn linear_kl(&self, p: KlSide<'_, Self>, q: KlSide<'_, Self>) -> Result<KlOutput<Self>> {
        Ok(self.linear_kl_forward(p, q)?.0)
    }

    /// [`LinearKl::linear_kl`] that keeps what its backward pass needs.
    fn linear_kl_forward(
        &self,
        p: KlSide<'_, Self>,
        q: KlSide<'_, Self>,
    ) -> Result<(KlOutput<Self>, KlNormalizers<Self>)>;

    /// Gradient of `sum_t coefficient[t] KL_t`, of either side or both, in one more pass over the vocabulary: with
    ///
    /// `dz^p_v = coefficient p_v (log p_v - log q_v - KL)`, `dz^q_v = coefficient (q_v - p_v)`
    ///
    /// (times `1 - (z / c)^2` under a side's softcap), `dhidden = dz W` and `dw += dz^T hidden`. `kl` and `normalizers` are
    /// what [`LinearKl::linear_kl_forward`] returned for the same sides. A token of coefficient 0 gives exactly 0.
    #[allow(clippy::too_many_arguments)]
    fn linear_kl_backward(
        &self,
        p: KlSide<'_, Self>,
        q: KlSide<'_, Self>,
        kl: &Tensor<Self>,
        normalizers: &KlNormalizers<Self>,
        coefficient: &Tensor<Self>,
        dp: Option<KlGradient<'_, Self>>,
        dq: Option<KlGradient<'_, Self>>,
    ) -> Result<()>;
}

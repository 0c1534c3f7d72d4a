//! Per-token KL divergence of two models, both vocabularies streamed in tiles: no logits in memory.

mod cpu;

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

/// D_KL(p || q) a token (paper, Figure 1: p is the aligned model, q the base model).
///
/// With online softmax over vocabulary tiles: KL = sum_v p_v (z^p_v - z^q_v) - lse_p + lse_q.
///
/// Laws: never negative beyond rounding; 0 for equal sides; unchanged when a constant is added to a side's logits.
pub trait LinearKl: Backend {
    fn linear_kl(&self, p: KlSide<'_, Self>, q: KlSide<'_, Self>) -> Result<KlOutput<Self>>;
}

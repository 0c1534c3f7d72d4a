//! Unembedding and (weighted) cross-entropy in one, the vocabulary streamed in tiles: no logits in memory.

mod cpu;
pub(in crate::ops) mod cuda;
pub(in crate::ops) mod tiles;

use crate::Result;
use crate::device::{Backend, DType, Tensor};

/// A label that counts for nothing (PyTorch's `ignore_index`).
pub const IGNORE: u32 = u32::MAX;

/// What one pass over the vocabulary says about each token. Vectors are `[1, T]` in f32; `None` is not computed.
pub struct CeOutput<'a, D: Backend> {
    /// `logsumexp_v logit_v`.
    pub lse: &'a mut Tensor<D>,
    /// `logit_label - lse`; 0 where the label is [`IGNORE`].
    pub logprob: &'a mut Tensor<D>,
    /// `-sum_v p_v log p_v`, nats.
    pub entropy: Option<&'a mut Tensor<D>>,
    /// Number of vocabulary entries with a larger logit than the label (0: the label is the argmax); 0 where the label
    /// is [`IGNORE`].
    pub rank: Option<&'a mut Tensor<D>>,
}

/// With `z = softcap(hidden W^T)` and `p = softmax(z)`.
///
/// `softcap(z) = c tanh(z / c)` where a model has one (Gemma 2's `final_logit_softcapping`).
///
/// Laws: log-probabilities are unchanged when a constant is added to all logits; `sum_v dlogits_v = 0` for each token;
/// a row's results do not depend on the other rows.
pub trait LinearCe: Backend {
    /// Bytes of tiles that the loss and its gradient work on, for `tokens` labels and `vocab` rows of an unembedding in
    /// `weights`: what takes the place of the logits.
    fn tile_bytes(&self, tokens: usize, vocab: usize, weights: DType) -> usize;

    /// `hidden [T, H]`, `w [V, H]` of any dtype, `labels` of length T.
    fn linear_ce(
        &self,
        hidden: &Tensor<Self>,
        w: &Tensor<Self>,
        softcap: Option<f32>,
        labels: &Self::Indices,
        output: CeOutput<'_, Self>,
    ) -> Result<()>;

    /// Gradient of `sum_t coefficient[t] * (-log p_label[t])`: with
    /// `dz_v = coefficient (p_v - [v = label])` (times `1 - (z / c)^2` under a softcap),
    /// `dhidden = dz W` (overwritten) and `dw += dz^T hidden`. Rows with label [`IGNORE`] give 0.
    ///
    /// Plain cross-entropy has coefficient 1/count; the constrained objective has w_t/count (paper, after Eq. 5).
    /// `lse` is what [`LinearCe::linear_ce`] returned for the same inputs.
    #[allow(clippy::too_many_arguments)]
    fn linear_ce_backward(
        &self,
        hidden: &Tensor<Self>,
        w: &Tensor<Self>,
        softcap: Option<f32>,
        labels: &Self::Indices,
        lse: &Tensor<Self>,
        coefficient: &Tensor<Self>,
        dhidden: &mut Tensor<Self>,
        dw: Option<&mut Tensor<Self>>,
    ) -> Result<()>;
}

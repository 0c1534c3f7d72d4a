//! Unembedding and (weighted) cross-entropy in one, the vocabulary streamed in tiles: no logits in memory, but
//! for a bounded part that a training step may keep for its gradient.

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
    /// Where logits of the first so many entries stay for the gradient, f32; how many are worth it says
    /// [`LinearCe::kept_logits`].
    pub kept: Option<&'a mut Tensor<D>>,
}

/// Where the gradients of a cross-entropy go.
pub struct CeGradient<'a, D: Backend> {
    /// Overwritten.
    pub hidden: &'a mut Tensor<D>,
    /// f32; `None` is not computed.
    pub w: Option<&'a mut Tensor<D>>,
    /// Whether the gradient of `w` is added to what is there.
    pub accumulate: bool,
}

/// Room for the logits worth keeping from the loss to its gradient, if any are.
pub fn room_for_kept<D: LinearCe>(device: &D, tokens: usize, vocab: usize) -> Result<Option<Tensor<D>>> {
    let kept = device.kept_logits(tokens, vocab);
    (kept > 0).then(|| Tensor::empty(device, DType::F32, 1, kept)).transpose()
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

    /// Elements of logits worth keeping from the loss to its gradient, which makes the others again: bounded whatever T and V
    /// are, 0 where a product costs less than memory.
    fn kept_logits(&self, tokens: usize, vocab: usize) -> usize;

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
    /// `dhidden = dz W` and `dw (+)= dz^T hidden`. Rows with label [`IGNORE`] give 0.
    ///
    /// Plain cross-entropy has coefficient 1/count; the constrained objective has w_t/count (paper, after Eq. 5).
    /// `lse` and `kept` (its contents are lost) are what [`LinearCe::linear_ce`] returned for the same inputs.
    #[allow(clippy::too_many_arguments)]
    fn linear_ce_backward(
        &self,
        hidden: &Tensor<Self>,
        w: &Tensor<Self>,
        softcap: Option<f32>,
        labels: &Self::Indices,
        lse: &Tensor<Self>,
        coefficient: &Tensor<Self>,
        kept: Option<&mut Tensor<Self>>,
        gradient: CeGradient<'_, Self>,
    ) -> Result<()>;
}

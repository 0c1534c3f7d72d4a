//! Causal attention over ragged batches, forward and backward, and over a paged cache.

mod cpu;
mod cuda;
mod tile;

use crate::Result;
use crate::device::{Backend, DType, Tensor};

/// Keys are summed in blocks of this many positions, counted from position 0 of a sequence, wherever the queries start:
/// prefill and decode add the same numbers in the same order.
pub const KEY_BLOCK: usize = 64;

/// Positions in a page of the key/value cache; divides [`KEY_BLOCK`].
pub const PAGE: usize = 16;

/// Shape and variant of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionParams {
    pub num_heads: usize,
    /// Divides `num_heads` (grouped-query attention).
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// Factor on q.k: 1/sqrt(head_dim), or 1/sqrt(query_pre_attn_scalar).
    pub scale: f32,
    /// `c tanh(s / c)` on scaled scores (Gemma 2's `attn_logit_softcapping`).
    pub softcap: Option<f32>,
    /// A query at position i sees keys j with `i - window < j <= i`.
    pub window: Option<usize>,
}

/// A ragged batch without a cache: sequence s has the rows `offsets[s]..offsets[s + 1]` of q, k and v, from position 0.
pub struct Ragged<D: Backend> {
    /// `count + 1` row offsets.
    pub offsets: D::Indices,
    /// Number of sequences.
    pub count: usize,
    /// Longest sequence, rows.
    pub max_length: usize,
}

/// New rows of sequences whose earlier positions lie in a paged cache.
pub struct Paged<D: Backend> {
    /// `count + 1` row offsets of the new rows.
    pub offsets: D::Indices,
    /// Positions before the new rows, for each sequence.
    pub starts: D::Indices,
    /// Page numbers, `[count, max_pages]` row-major; unused entries are 0.
    pub pages: D::Indices,
    pub max_pages: usize,
    pub count: usize,
}

/// `o_i = sum_j softmax_j(softcap(scale q_i . k_j)) v_j` over the keys that i may see, with an online softmax over blocks
/// of keys: the score matrix is never built.
///
/// Laws: an output is a convex combination of the values; a row does not depend on other sequences or on later rows.
pub trait Attention: Backend {
    /// The dtype in which this device wants queries, keys and values of heads of `head_dim`, and with them all that lies
    /// between a model's residual streams, where its weights are `weights`: f32, or bf16 for tensor cores.
    fn branch_dtype(&self, weights: DType, head_dim: usize) -> DType;

    /// `q [T, num_heads * head_dim]`, `k` and `v` `[T, num_key_value_heads * head_dim]`, `out` like `q`;
    /// `lse [T, num_heads]` receives `log sum_j exp(score_ij)` for the backward pass.
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        params: &AttentionParams,
        batch: &Ragged<Self>,
        q: &Tensor<Self>,
        k: &Tensor<Self>,
        v: &Tensor<Self>,
        out: &mut Tensor<Self>,
        lse: &mut Tensor<Self>,
    ) -> Result<()>;

    /// Gradients (overwritten) from `dout`. With P_ij = exp(s_ij - lse_i), D_i = dout_i . out_i:
    /// `dv_j = sum_i P_ij dout_i`, `ds_ij = P_ij (dout_i . v_j - D_i)`, `dq_i = scale sum_j ds_ij k_j`, `dk_j = scale sum_i ds_ij q_i`.
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
        params: &AttentionParams,
        batch: &Ragged<Self>,
        q: &Tensor<Self>,
        k: &Tensor<Self>,
        v: &Tensor<Self>,
        out: &Tensor<Self>,
        lse: &Tensor<Self>,
        dout: &Tensor<Self>,
        dq: &mut Tensor<Self>,
        dk: &mut Tensor<Self>,
        dv: &mut Tensor<Self>,
    ) -> Result<()>;

    /// Stores new rows of `k` or `v` in a cache of `[num_pages, num_key_value_heads * PAGE * head_dim]`
    /// (within a page: head, then slot, then dimension).
    fn cache_write(
        &self,
        params: &AttentionParams,
        batch: &Paged<Self>,
        rows: &Tensor<Self>,
        cache: &mut Tensor<Self>,
    ) -> Result<()>;

    /// Copies page `from` of a cache to page `to` (copy on write, where a branch splits a page).
    fn cache_copy_page(&self, cache: &mut Tensor<Self>, from: usize, to: usize) -> Result<()>;

    /// A cache of `num_pages` pages that starts with the pages of `cache`.
    fn cache_grow(&self, cache: &Tensor<Self>, num_pages: usize) -> Result<Tensor<Self>>;

    /// Attention of new rows over the cache, which already holds their own keys and values.
    /// Equal to [`Attention::attention`] bit for bit.
    fn attention_paged(
        &self,
        params: &AttentionParams,
        batch: &Paged<Self>,
        q: &Tensor<Self>,
        cache_k: &Tensor<Self>,
        cache_v: &Tensor<Self>,
        out: &mut Tensor<Self>,
    ) -> Result<()>;
}

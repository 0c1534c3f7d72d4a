//! Token embeddings.

mod cpu;
mod cuda;

use crate::Result;
use crate::device::{Backend, Tensor};

/// `y[t] = scale * table[ids[t]]`; `scale` is 1, or sqrt(hidden_size) for Gemma.
pub trait Embedding: Backend {
    /// `table [V, H]` of any dtype, `y [T, H]`. Ids are `< V` (checked where prompts are built).
    fn embedding(&self, ids: &Self::Indices, table: &Tensor<Self>, scale: f32, y: &mut Tensor<Self>) -> Result<()>;

    /// `dtable[v] += scale * sum_{t: ids[t] = v} dy[t]`, summed in the order of `t` whatever the thread count.
    fn embedding_backward(
        &self,
        ids: &Self::Indices,
        dy: &Tensor<Self>,
        scale: f32,
        dtable: &mut Tensor<Self>,
    ) -> Result<()>;
}

//! Embedding on a GPU: not yet.

use super::Embedding;
use crate::Result;
use crate::device::{Cuda, Tensor};

impl Embedding for Cuda {
    fn embedding(&self, _ids: &Self::Indices, _table: &Tensor<Self>, _scale: f32, _y: &mut Tensor<Self>) -> Result<()> {
        Err(crate::device::cuda::missing("embedding"))
    }

    fn embedding_backward(
        &self,
        _ids: &Self::Indices,
        _dy: &Tensor<Self>,
        _scale: f32,
        _dtable: &mut Tensor<Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("embedding"))
    }
}

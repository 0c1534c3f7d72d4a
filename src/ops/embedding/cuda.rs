//! Embedding on a GPU: kernels/embedding.cu.

use super::Embedding;
use crate::device::cuda::{Indices, Shape, THREADS, by_dtype};
use crate::device::{Cuda, DType, Tensor};
use crate::{Result, args};

impl Embedding for Cuda {
    fn embedding(&self, ids: &Indices, table: &Tensor<Self>, scale: f32, y: &mut Tensor<Self>) -> Result<()> {
        let cols = table.cols();
        assert_eq!(y.shape(), [ids.len(), cols], "y has a row a token");
        assert_eq!(y.dtype(), DType::F32);
        let kernel = by_dtype(table.dtype(), ["embedding_f32", "embedding_bf16", "embedding_f16"]);
        self.launch(kernel, Shape::new(ids.len(), THREADS), args![ids, table, y, cols, scale])
    }

    fn embedding_backward(
        &self,
        ids: &Indices,
        dy: &Tensor<Self>,
        scale: f32,
        dtable: &mut Tensor<Self>,
    ) -> Result<()> {
        let cols = dtable.cols();
        assert_eq!(dy.shape(), [ids.len(), cols], "dy has a row a token");
        assert!(dy.dtype() == DType::F32 && dtable.dtype() == DType::F32, "f32");
        let shape = Shape::new(ids.len(), THREADS);
        self.launch("embedding_backward", shape, args![ids, dy, dtable, ids.len(), cols, scale])
    }
}

//! RoPE on a GPU: kernels/rope.cu.

use super::Rope;
use crate::device::cuda::{Indices, Shape, THREADS, by_activation};
use crate::device::{Backend, Cuda, DType, Tensor};
use crate::{Result, args};

impl Rope for Cuda {
    fn rope_table(
        &self,
        positions: &Indices,
        inv_freq: &[f32],
        cos: &mut Tensor<Self>,
        sin: &mut Tensor<Self>,
    ) -> Result<()> {
        let half = inv_freq.len();
        assert!(cos.shape() == [positions.len(), half] && sin.shape() == cos.shape(), "a row a position");
        assert!(cos.dtype() == DType::F32 && sin.dtype() == DType::F32, "f32");
        let frequencies = self.upload(DType::F32, inv_freq)?;
        let shape = Shape::covering(cos.len(), THREADS);
        self.launch("rope_table", shape, args![positions, frequencies, cos, sin, half, cos.len() as u64])
    }

    fn rope(&self, x: &mut Tensor<Self>, cos: &Tensor<Self>, sin: &Tensor<Self>, inverse: bool) -> Result<()> {
        let (cols, half) = (x.cols(), cos.cols());
        assert!(cos.rows() == x.rows() && sin.shape() == cos.shape(), "a row of angles a row of x");
        assert!(cols.is_multiple_of(2 * half), "whole heads");
        assert!(cos.dtype() == DType::F32 && sin.dtype() == DType::F32, "angles are f32");
        let (sign, pairs) = (if inverse { -1.0_f32 } else { 1.0 }, x.len() / 2);
        let arguments = args![x, cos, sin, sign, cols / (2 * half), half, pairs as u64];
        self.launch(by_activation(x.dtype(), ["rope_f32", "rope_bf16"]), Shape::covering(pairs, THREADS), arguments)
    }
}

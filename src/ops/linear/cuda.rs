//! Linear layers on a GPU: cuBLASLt's products, and biases by kernels/linear.cu.
//!
//! Where the weights are bf16 the other factor is rounded to bf16 for the product; sums are f32. f16 weights are widened
//! to f32, because activations may be too large for f16.

use super::Linear;
use crate::device::cuda::blas::{Layout, Product};
use crate::device::cuda::{Buffer, Shape, THREADS};
use crate::device::{Backend, Cuda, DType, Tensor};
use crate::ops::rows::add_sum_of_rows;
use crate::{Result, args};

/// `c (+)= x w` or `x w^T`, with both factors brought to one dtype.
fn multiply(device: &Cuda, product: Product, x: &Buffer, w: &Buffer, c: &mut Buffer) -> Result<()> {
    let converted = |source: &Buffer, dtype: DType| -> Result<Buffer> {
        let mut target = device.alloc(dtype, source.len())?;
        device.copy(source, &mut target)?;
        Ok(target)
    };
    match w.dtype() {
        DType::F32 => device.multiply(product, x, w, c),
        DType::BF16 => device.multiply(product, &converted(x, DType::BF16)?, w, c),
        DType::F16 => device.multiply(product, x, &converted(w, DType::F32)?, c),
    }
}

impl Linear for Cuda {
    fn linear(
        &self,
        x: &Tensor<Self>,
        w: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        y: &mut Tensor<Self>,
    ) -> Result<()> {
        let (t, k, n) = (x.rows(), x.cols(), w.rows());
        assert!(w.cols() == k && y.shape() == [t, n], "linear: [T, K] x [N, K] gives [T, N]");
        let product = Product { layout: Layout::Nt, m: t, n, k, accumulate: false };
        multiply(self, product, &x.buffer, &w.buffer, &mut y.buffer)?;
        let Some(bias) = bias else { return Ok(()) };
        assert!(bias.len() == n && bias.dtype() == DType::F32, "a bias for each output");
        self.launch("add_bias", Shape::covering(y.len(), THREADS), args![bias, y, n, y.len() as u64])
    }

    fn linear_backward_input(
        &self,
        dy: &Tensor<Self>,
        w: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        accumulate: bool,
    ) -> Result<()> {
        let (t, n, k) = (dy.rows(), dy.cols(), w.cols());
        assert!(w.rows() == n && dx.shape() == [t, k], "linear_backward_input: [T, N] x [N, K] gives [T, K]");
        let product = Product { layout: Layout::Nn, m: t, n: k, k: n, accumulate };
        multiply(self, product, &dy.buffer, &w.buffer, &mut dx.buffer)
    }

    fn linear_backward_weight(
        &self,
        dy: &Tensor<Self>,
        x: &Tensor<Self>,
        dw: &mut Tensor<Self>,
        dbias: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        let (t, n, k) = (dy.rows(), dy.cols(), x.cols());
        assert!(x.rows() == t && dw.shape() == [n, k], "linear_backward_weight: [T, N]' x [T, K] gives [N, K]");
        let product = Product { layout: Layout::Tn, m: n, n: k, k: t, accumulate: true };
        self.multiply(product, &dy.buffer, &x.buffer, &mut dw.buffer)?;
        let Some(dbias) = dbias else { return Ok(()) };
        add_sum_of_rows(self, &dy.buffer, t, &mut dbias.buffer)
    }
}

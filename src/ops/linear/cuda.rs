//! Linear layers on a GPU: cuBLASLt's products, and biases by kernels/linear.cu.
//!
//! Both factors of a product have one dtype: where one is bf16 the other is rounded to it; f16 weights are widened to
//! f32, because activations may be too large for f16. Sums are f32; a result is in the dtype of its tensor.

use super::Linear;
use crate::device::cuda::blas::{Layout, Product};
use crate::device::cuda::{Buffer, Shape, THREADS, by_activation};
use crate::device::{Backend, Cuda, DType, Tensor};
use crate::ops::rows::add_sum_of_rows;
use crate::{Result, args};

/// `c (+)=` a product of `a` and `b`, both brought to one dtype.
fn multiply(device: &Cuda, product: Product, a: &Buffer, b: &Buffer, c: &mut Buffer) -> Result<()> {
    let dtype = if a.dtype() == DType::BF16 || b.dtype() == DType::BF16 { DType::BF16 } else { DType::F32 };
    let converted = |source: &Buffer| -> Result<Option<Buffer>> {
        if source.dtype() == dtype {
            return Ok(None);
        }
        let mut target = device.alloc(dtype, source.len())?;
        device.copy(source, &mut target)?;
        Ok(Some(target))
    };
    let (own_a, own_b) = (converted(a)?, converted(b)?);
    device.multiply(product, own_a.as_ref().unwrap_or(a), own_b.as_ref().unwrap_or(b), c)
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
        let kernel = by_activation(y.dtype(), ["add_bias_f32", "add_bias_bf16"]);
        self.launch(kernel, Shape::covering(y.len(), THREADS), args![bias, y, n, y.len() as u64])
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
        accumulate: bool,
    ) -> Result<()> {
        let (t, n, k) = (dy.rows(), dy.cols(), x.cols());
        assert!(x.rows() == t && dw.shape() == [n, k], "linear_backward_weight: [T, N]' x [T, K] gives [N, K]");
        let product = Product { layout: Layout::Tn, m: n, n: k, k: t, accumulate };
        multiply(self, product, &dy.buffer, &x.buffer, &mut dw.buffer)?;
        let Some(dbias) = dbias else { return Ok(()) };
        if !accumulate {
            dbias.zero(self)?;
        }
        add_sum_of_rows(self, &dy.buffer, t, &mut dbias.buffer)
    }
}

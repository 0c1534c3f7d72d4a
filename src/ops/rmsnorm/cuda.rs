//! RMSNorm on a GPU: kernels/rmsnorm.cu.

use super::RmsNorm;
use crate::device::cuda::{Buffer, Shape, THREADS, by_activation};
use crate::device::{Backend, Cuda, DType, Tensor};
use crate::ops::rows::add_sum_of_rows;
use crate::{Result, args};

/// Groups whose weight gradients one thread sums.
const PART: usize = 64;

/// Threads for a group of `n`: whole warps.
fn threads(n: usize) -> usize {
    n.next_multiple_of(32).min(THREADS)
}

impl RmsNorm for Cuda {
    fn rms_norm(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        y: &mut Tensor<Self>,
    ) -> Result<()> {
        let n = weight.len();
        assert!(x.shape() == y.shape() && x.len().is_multiple_of(n), "y is like x, in whole groups");
        assert_eq!(weight.dtype(), DType::F32, "weights of norms are f32");
        let kernel = match x.dtype() {
            DType::F32 => by_activation(y.dtype(), ["rms_norm_f32_f32", "rms_norm_f32_bf16"]),
            _ => {
                assert!(x.dtype() == DType::BF16 && y.dtype() == DType::BF16, "from bf16 to bf16");
                "rms_norm_bf16_bf16"
            }
        };
        self.launch(kernel, Shape::new(x.len() / n, threads(n)), args![x, weight, offset, eps, y, n])
    }

    fn add_rms_norm(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        sum: &mut Tensor<Self>,
        y: &mut Tensor<Self>,
    ) -> Result<()> {
        let n = weight.len();
        assert!(x.shape() == sum.shape() && x.shape() == y.shape(), "sum and y are like x");
        assert!(x.len().is_multiple_of(n), "in whole groups");
        assert!([x, sum, weight].iter().all(|tensor| tensor.dtype() == DType::F32), "the stream and weights are f32");
        let kernel = by_activation(y.dtype(), ["add_rms_norm_f32", "add_rms_norm_bf16"]);
        let shape = Shape::new(x.len() / n, threads(n)).shared(n * size_of::<f32>());
        self.launch(kernel, shape, args![x, weight, offset, eps, sum, y, n])
    }

    fn rms_norm_backward(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        dy: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        dweight: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        let n = weight.len();
        assert!(x.shape() == dy.shape() && x.shape() == dx.shape(), "dy and dx are like x");
        assert!(weight.dtype() == DType::F32 && dy.dtype() == x.dtype(), "weights are f32, dy has x's dtype");
        let kernel = match x.dtype() {
            DType::F32 => by_activation(dx.dtype(), ["rms_norm_backward_f32_f32", "rms_norm_backward_f32_bf16"]),
            _ => {
                assert!(x.dtype() == DType::BF16 && dx.dtype() == DType::BF16, "from bf16 to bf16");
                "rms_norm_backward_bf16_bf16"
            }
        };
        let groups = x.len() / n;
        let inverse_rms = self.alloc(DType::F32, groups)?;
        let arguments = args![x, weight, offset, eps, dy, dx, inverse_rms, n];
        self.launch(kernel, Shape::new(groups, threads(n)), arguments)?;
        self.norm_weight_gradient(x, dy, &inverse_rms, dweight)
    }

    fn add_rms_norm_backward(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        dy: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        rounded: Option<&mut Tensor<Self>>,
        dweight: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        let n = weight.len();
        assert!(x.shape() == dy.shape() && x.shape() == dx.shape(), "dy and dx are like x");
        assert!(
            [x, weight, dy, dx].iter().all(|tensor| tensor.dtype() == DType::F32),
            "the stream and weights are f32"
        );
        if let Some(rounded) = &rounded {
            assert!(rounded.shape() == dx.shape() && rounded.dtype() == DType::BF16, "rounded is like dx, in bf16");
        }
        let groups = x.len() / n;
        let inverse_rms = self.alloc(DType::F32, groups)?;
        let arguments = args![x, weight, offset, eps, dy, dx, rounded, inverse_rms, n];
        self.launch("add_rms_norm_backward", Shape::new(groups, threads(n)), arguments)?;
        self.norm_weight_gradient(x, dy, &inverse_rms, dweight)
    }
}

impl Cuda {
    /// `dweight_i += sum_groups dy_i x_i r`, from each group's r.
    fn norm_weight_gradient(
        &self,
        x: &Tensor<Self>,
        dy: &Tensor<Self>,
        inverse_rms: &Buffer,
        dweight: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        let Some(dweight) = dweight else { return Ok(()) };
        let (n, groups) = (dweight.len(), inverse_rms.len());
        let parts = groups.div_ceil(PART);
        let sums = self.alloc(DType::F32, parts * n)?;
        let shape = Shape::grid([n.div_ceil(THREADS), parts, 1], THREADS);
        let kernel = by_activation(x.dtype(), ["rms_norm_backward_weight_f32", "rms_norm_backward_weight_bf16"]);
        self.launch(kernel, shape, args![x, dy, inverse_rms, sums, groups, n, PART])?;
        add_sum_of_rows(self, &sums, parts, &mut dweight.buffer)
    }
}

//! AdamW on a GPU: kernels/adamw.cu.

use super::{AdamW, AdamWStep};
use crate::device::cuda::{Shape, THREADS, by_activation};
use crate::device::{Cuda, DType, Tensor};
use crate::{Result, args};

/// Blocks whose sums of squares the host adds up in order.
const BLOCKS: usize = 256;

impl AdamW for Cuda {
    fn adamw(
        &self,
        hyper: &AdamWStep,
        grad: &Tensor<Self>,
        param: &mut Tensor<Self>,
        m: &mut Tensor<Self>,
        v: &mut Tensor<Self>,
    ) -> Result<()> {
        let all = [grad, param, m, v];
        assert!(all.iter().all(|tensor| tensor.shape() == grad.shape()), "all are like the gradient");
        let dtype = all[1].dtype();
        assert!(all[0].dtype() == DType::F32 && all[1..].iter().all(|tensor| tensor.dtype() == dtype), "dtypes");
        // Scalars in f64, as Python has them.
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(hyper.step as i32);
        let step_size = (f64::from(hyper.lr) / correction(hyper.beta1)) as f32;
        let root = correction(hyper.beta2).sqrt() as f32;
        let decay = (1.0 - f64::from(hyper.lr) * f64::from(hyper.weight_decay)) as f32;
        let (rest1, rest2) = (1.0 - hyper.beta1, 1.0 - hyper.beta2);
        let count = grad.len() as u64;
        self.launch(
            by_activation(dtype, ["adamw_f32", "adamw_bf16"]),
            Shape::covering(grad.len(), THREADS),
            args![
                grad,
                param,
                m,
                v,
                count,
                hyper.grad_scale,
                rest1,
                hyper.beta2,
                rest2,
                step_size,
                root,
                hyper.eps,
                decay,
                hyper.step,
                hyper.stream
            ],
        )
    }

    fn sum_squares(&self, x: &Tensor<Self>) -> Result<f64> {
        assert_eq!(x.dtype(), DType::F32);
        let sums = self.workspace(BLOCKS * size_of::<f64>())?;
        self.launch("sum_squares", Shape::new(BLOCKS, THREADS), args![x, sums, x.len() as u64])?;
        let mut parts = [0.0_f64; BLOCKS];
        self.read_bytes(&sums, &mut parts)?;
        Ok(parts.iter().sum())
    }
}

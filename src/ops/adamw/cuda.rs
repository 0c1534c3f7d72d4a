//! AdamW on a GPU: not yet.

use super::{AdamW, AdamWStep};
use crate::Result;
use crate::device::{Cuda, Tensor};

impl AdamW for Cuda {
    fn adamw(
        &self,
        _hyper: &AdamWStep,
        _grad: &Tensor<Self>,
        _param: &mut Tensor<Self>,
        _m: &mut Tensor<Self>,
        _v: &mut Tensor<Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("adamw"))
    }

    fn sum_squares(&self, _x: &Tensor<Self>) -> Result<f64> {
        Err(crate::device::cuda::missing("adamw"))
    }
}

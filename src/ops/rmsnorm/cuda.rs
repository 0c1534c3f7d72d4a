//! RmsNorm on a GPU: not yet.

use super::RmsNorm;
use crate::Result;
use crate::device::{Cuda, Tensor};

impl RmsNorm for Cuda {
    fn rms_norm(
        &self,
        _x: &Tensor<Self>,
        _weight: &Tensor<Self>,
        _offset: f32,
        _eps: f32,
        _y: &mut Tensor<Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("rmsnorm"))
    }

    #[allow(clippy::too_many_arguments)]
    fn rms_norm_backward(
        &self,
        _x: &Tensor<Self>,
        _weight: &Tensor<Self>,
        _offset: f32,
        _eps: f32,
        _dy: &Tensor<Self>,
        _dx: &mut Tensor<Self>,
        _accumulate: bool,
        _dweight: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("rmsnorm"))
    }
}

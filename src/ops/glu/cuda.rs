//! Glu on a GPU: not yet.

use super::{Activation, Glu};
use crate::Result;
use crate::device::{Cuda, Tensor};

impl Glu for Cuda {
    fn glu(
        &self,
        _activation: Activation,
        _gate: &Tensor<Self>,
        _up: &Tensor<Self>,
        _y: &mut Tensor<Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("glu"))
    }

    fn glu_backward(
        &self,
        _activation: Activation,
        _gate: &Tensor<Self>,
        _up: &Tensor<Self>,
        _dy: &Tensor<Self>,
        _dgate: &mut Tensor<Self>,
        _dup: &mut Tensor<Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("glu"))
    }
}

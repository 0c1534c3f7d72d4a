//! Linear on a GPU: not yet.

use super::Linear;
use crate::Result;
use crate::device::{Cuda, Tensor};

impl Linear for Cuda {
    fn linear(
        &self,
        _x: &Tensor<Self>,
        _w: &Tensor<Self>,
        _bias: Option<&Tensor<Self>>,
        _y: &mut Tensor<Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("linear"))
    }

    fn linear_backward_input(
        &self,
        _dy: &Tensor<Self>,
        _w: &Tensor<Self>,
        _dx: &mut Tensor<Self>,
        _accumulate: bool,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("linear"))
    }

    fn linear_backward_weight(
        &self,
        _dy: &Tensor<Self>,
        _x: &Tensor<Self>,
        _dw: &mut Tensor<Self>,
        _dbias: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("linear"))
    }
}

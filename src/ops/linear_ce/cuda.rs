//! LinearCe on a GPU: not yet.

use super::{CeOutput, LinearCe};
use crate::Result;
use crate::device::{Cuda, Tensor};

impl LinearCe for Cuda {
    fn linear_ce(
        &self,
        _hidden: &Tensor<Self>,
        _w: &Tensor<Self>,
        _softcap: Option<f32>,
        _labels: &Self::Indices,
        _output: CeOutput<'_, Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("linear_ce"))
    }

    #[allow(clippy::too_many_arguments)]
    fn linear_ce_backward(
        &self,
        _hidden: &Tensor<Self>,
        _w: &Tensor<Self>,
        _softcap: Option<f32>,
        _labels: &Self::Indices,
        _lse: &Tensor<Self>,
        _coefficient: &Tensor<Self>,
        _dhidden: &mut Tensor<Self>,
        _dw: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("linear_ce"))
    }
}

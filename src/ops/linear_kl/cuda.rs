//! LinearKl on a GPU: not yet.

use super::{KlGradient, KlNormalizers, KlOutput, KlSide, LinearKl};
use crate::Result;
use crate::device::{Cuda, Tensor};

impl LinearKl for Cuda {
    fn linear_kl_forward(
        &self,
        _p: KlSide<'_, Self>,
        _q: KlSide<'_, Self>,
    ) -> Result<(KlOutput<Self>, KlNormalizers<Self>)> {
        Err(crate::device::cuda::missing("linear_kl"))
    }

    #[allow(clippy::too_many_arguments)]
    fn linear_kl_backward(
        &self,
        _p: KlSide<'_, Self>,
        _q: KlSide<'_, Self>,
        _kl: &Tensor<Self>,
        _normalizers: &KlNormalizers<Self>,
        _coefficient: &Tensor<Self>,
        _dp: Option<KlGradient<'_, Self>>,
        _dq: Option<KlGradient<'_, Self>>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("linear_kl"))
    }
}

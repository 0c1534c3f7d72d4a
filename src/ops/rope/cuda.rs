//! Rope on a GPU: not yet.

use super::Rope;
use crate::Result;
use crate::device::{Cuda, Tensor};

impl Rope for Cuda {
    fn rope_table(
        &self,
        _positions: &Self::Indices,
        _inv_freq: &[f32],
        _cos: &mut Tensor<Self>,
        _sin: &mut Tensor<Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("rope"))
    }

    fn rope(&self, _x: &mut Tensor<Self>, _cos: &Tensor<Self>, _sin: &Tensor<Self>, _inverse: bool) -> Result<()> {
        Err(crate::device::cuda::missing("rope"))
    }
}

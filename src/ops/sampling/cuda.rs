//! Sampling on a GPU: not yet.

use super::{Sampling, SamplingRow};
use crate::Result;
use crate::device::{Cuda, Tensor};

impl Sampling for Cuda {
    fn sample<'a>(
        &self,
        _logits: &mut Tensor<Self>,
        _row: impl Fn(usize) -> SamplingRow<'a> + Send + Sync,
        _tokens: &mut Vec<u32>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("sampling"))
    }
}

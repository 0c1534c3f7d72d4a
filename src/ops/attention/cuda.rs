//! Attention on a GPU: not yet.

use super::{Attention, AttentionParams, Paged, Ragged};
use crate::Result;
use crate::device::{Cuda, Tensor};

impl Attention for Cuda {
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        _params: &AttentionParams,
        _batch: &Ragged<Self>,
        _q: &Tensor<Self>,
        _k: &Tensor<Self>,
        _v: &Tensor<Self>,
        _out: &mut Tensor<Self>,
        _lse: &mut Tensor<Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("attention"))
    }

    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
        _params: &AttentionParams,
        _batch: &Ragged<Self>,
        _q: &Tensor<Self>,
        _k: &Tensor<Self>,
        _v: &Tensor<Self>,
        _out: &Tensor<Self>,
        _lse: &Tensor<Self>,
        _dout: &Tensor<Self>,
        _dq: &mut Tensor<Self>,
        _dk: &mut Tensor<Self>,
        _dv: &mut Tensor<Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("attention"))
    }

    fn cache_write(
        &self,
        _params: &AttentionParams,
        _batch: &Paged<Self>,
        _rows: &Tensor<Self>,
        _cache: &mut Tensor<Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("attention"))
    }

    fn cache_copy_page(&self, _cache: &mut Tensor<Self>, _from: usize, _to: usize) -> Result<()> {
        Err(crate::device::cuda::missing("attention"))
    }

    fn cache_grow(&self, _cache: &Tensor<Self>, _num_pages: usize) -> Result<Tensor<Self>> {
        Err(crate::device::cuda::missing("attention"))
    }

    fn attention_paged(
        &self,
        _params: &AttentionParams,
        _batch: &Paged<Self>,
        _q: &Tensor<Self>,
        _cache_k: &Tensor<Self>,
        _cache_v: &Tensor<Self>,
        _out: &mut Tensor<Self>,
    ) -> Result<()> {
        Err(crate::device::cuda::missing("attention"))
    }
}

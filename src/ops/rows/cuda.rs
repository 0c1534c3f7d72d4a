//! Rows on a GPU: not yet.

use super::Rows;
use crate::Result;
use crate::device::{Cuda, Tensor};

impl Rows for Cuda {
    fn gather_rows(&self, _x: &Tensor<Self>, _rows: &Self::Indices, _y: &mut Tensor<Self>) -> Result<()> {
        Err(crate::device::cuda::missing("rows"))
    }

    fn scatter_rows(&self, _y: &Tensor<Self>, _rows: &Self::Indices, _x: &mut Tensor<Self>) -> Result<()> {
        Err(crate::device::cuda::missing("rows"))
    }
}

//! Elementwise on a GPU: not yet.

use super::Elementwise;
use crate::Result;
use crate::device::{Cuda, Tensor};

impl Elementwise for Cuda {
    fn add(&self, _x: &Tensor<Self>, _y: &mut Tensor<Self>) -> Result<()> {
        Err(crate::device::cuda::missing("elementwise"))
    }

    fn scale(&self, _factor: f32, _y: &mut Tensor<Self>) -> Result<()> {
        Err(crate::device::cuda::missing("elementwise"))
    }

    fn softcap(&self, _cap: f32, _y: &mut Tensor<Self>) -> Result<()> {
        Err(crate::device::cuda::missing("elementwise"))
    }
}

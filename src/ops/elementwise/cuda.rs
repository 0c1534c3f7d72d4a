//! Elementwise operations on a GPU: kernels/elementwise.cu.

use super::Elementwise;
use crate::device::cuda::{Shape, THREADS};
use crate::device::{Cuda, DType, Tensor};
use crate::{Result, args};

impl Elementwise for Cuda {
    fn add(&self, x: &Tensor<Self>, y: &mut Tensor<Self>) -> Result<()> {
        assert_eq!(x.shape(), y.shape(), "x is like y");
        assert!(x.dtype() == DType::F32 && y.dtype() == DType::F32, "f32");
        self.launch("add", Shape::covering(y.len(), THREADS), args![x, y, y.len() as u64])
    }

    fn scale(&self, factor: f32, y: &mut Tensor<Self>) -> Result<()> {
        assert_eq!(y.dtype(), DType::F32);
        self.launch("scale", Shape::covering(y.len(), THREADS), args![factor, y, y.len() as u64])
    }

    fn softcap(&self, cap: f32, y: &mut Tensor<Self>) -> Result<()> {
        assert_eq!(y.dtype(), DType::F32);
        self.launch("softcap", Shape::covering(y.len(), THREADS), args![cap, y, y.len() as u64])
    }
}

use super::Elementwise;
use crate::Result;
use crate::device::{Cpu, Tensor};
impl Elementwise for Cpu {
    fn add(&self, x: &Tensor<Self>, y: &mut Tensor<Self>) -> Result<()> {
        for (y, x) in y.buffer.f32_mut().iter_mut().zip(x.buffer.f32()) {
            *y += x;
        }
        Ok(())
    }
    fn scale(&self, factor: f32, y: &mut Tensor<Self>) -> Result<()> {
        for y in y.buffer.f32_mut() {
            *y *= factor;
        }
        Ok(())
    }
    fn softcap(&self, cap: f32, y: &mut Tensor<Self>) -> Result<()> {
        for y in y.buffer.f32_mut() {
            *y = cap * (*y / cap).tanh();
        }
        Ok(())
    }
}

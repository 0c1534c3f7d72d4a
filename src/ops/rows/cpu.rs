use super::Rows;
use crate::Result;
use crate::device::{Cpu, Tensor};
impl Rows for Cpu {
    fn gather_rows(&self, x: &Tensor<Self>, rows: &Vec<u32>, y: &mut Tensor<Self>) -> Result<()> {
        let n = x.cols();
        for (y, &r) in y.buffer.f32_mut().chunks_mut(n).zip(rows) {
            y.copy_from_slice(&x.buffer.f32()[r as usize * n..(r as usize + 1) * n]);
        }
        Ok(())
    }
    fn scatter_rows(&self, y: &Tensor<Self>, rows: &Vec<u32>, x: &mut Tensor<Self>) -> Result<()> {
        let n = x.cols();
        let x = x.buffer.f32_mut();
        x.fill(0.0);
        for (y, &r) in y.buffer.f32().chunks(n).zip(rows) {
            x[r as usize * n..(r as usize + 1) * n].copy_from_slice(y);
        }
        Ok(())
    }
}

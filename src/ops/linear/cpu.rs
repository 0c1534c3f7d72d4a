use super::Linear;
use crate::Result;
use crate::device::cpu::{View, gemm::*};
use crate::device::{Cpu, Tensor};
impl Linear for Cpu {
    fn linear(
        &self,
        x: &Tensor<Self>,
        w: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        y: &mut Tensor<Self>,
    ) -> Result<()> {
        let (t, k, n) = (x.rows(), x.cols(), w.rows());
        gemm_nt(self.isa(), t, n, k, x.buffer.f32(), k, w.buffer.view(), k, y.buffer.f32_mut(), n, false);
        if let Some(b) = bias {
            let b = b.buffer.f32();
            for row in y.buffer.f32_mut().chunks_mut(n) {
                for (y, b) in row.iter_mut().zip(b) {
                    *y += b;
                }
            }
        }
        Ok(())
    }
    fn linear_backward_input(
        &self,
        dy: &Tensor<Self>,
        w: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        accumulate: bool,
    ) -> Result<()> {
        let (t, n, k) = (dy.rows(), dy.cols(), w.cols());
        gemm_nn(self.isa(), t, k, n, dy.buffer.f32(), n, w.buffer.view(), k, dx.buffer.f32_mut(), k, accumulate);
        Ok(())
    }
    fn linear_backward_weight(
        &self,
        dy: &Tensor<Self>,
        x: &Tensor<Self>,
        dw: &mut Tensor<Self>,
        dbias: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        let (t, n, k) = (dy.rows(), dy.cols(), x.cols());
        gemm_tn(self.isa(), n, k, t, dy.buffer.f32(), n, x.buffer.f32(), k, dw.buffer.f32_mut(), k, true);
        if let Some(b) = dbias {
            let b = b.buffer.f32_mut();
            for row in dy.buffer.f32().chunks(n) {
                for (b, y) in b.iter_mut().zip(row) {
                    *b += y;
                }
            }
        }
        let _ = View::F32(&[]);
        Ok(())
    }
}

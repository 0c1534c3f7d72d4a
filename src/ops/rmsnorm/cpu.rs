use super::RmsNorm;
use crate::Result;
use crate::device::{Cpu, Tensor};
impl RmsNorm for Cpu {
    fn rms_norm(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        y: &mut Tensor<Self>,
    ) -> Result<()> {
        let w = weight.buffer.f32();
        let n = w.len();
        for (x, y) in x.buffer.f32().chunks(n).zip(y.buffer.f32_mut().chunks_mut(n)) {
            let r = 1.0 / (x.iter().map(|v| v * v).sum::<f32>() / n as f32 + eps).sqrt();
            for i in 0..n {
                y[i] = x[i] * r * (offset + w[i]);
            }
        }
        Ok(())
    }
    fn rms_norm_backward(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        dy: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        accumulate: bool,
        mut dweight: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        let w = weight.buffer.f32();
        let n = w.len();
        for ((x, dy), dx) in
            x.buffer.f32().chunks(n).zip(dy.buffer.f32().chunks(n)).zip(dx.buffer.f32_mut().chunks_mut(n))
        {
            let r = 1.0 / (x.iter().map(|v| v * v).sum::<f32>() / n as f32 + eps).sqrt();
            let d: f32 = (0..n).map(|i| dy[i] * (offset + w[i]) * x[i]).sum::<f32>() / n as f32;
            for i in 0..n {
                let g = r * dy[i] * (offset + w[i]) - r * r * r * x[i] * d;
                dx[i] = if accumulate { dx[i] + g } else { g };
            }
            if let Some(dw) = &mut dweight {
                let dw = dw.buffer.f32_mut();
                for i in 0..n {
                    dw[i] += dy[i] * x[i] * r;
                }
            }
        }
        Ok(())
    }
}

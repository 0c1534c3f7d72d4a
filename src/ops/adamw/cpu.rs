use super::{AdamW, AdamWStep};
use crate::Result;
use crate::device::{Cpu, Tensor};
impl AdamW for Cpu {
    fn adamw(
        &self,
        h: &AdamWStep,
        grad: &Tensor<Self>,
        param: &mut Tensor<Self>,
        m: &mut Tensor<Self>,
        v: &mut Tensor<Self>,
    ) -> Result<()> {
        let (b1, b2) = (1.0 - f64::from(h.beta1).powi(h.step as i32), 1.0 - f64::from(h.beta2).powi(h.step as i32));
        let (g, p, m, v) = (grad.buffer.f32(), param.buffer.f32_mut(), m.buffer.f32_mut(), v.buffer.f32_mut());
        let (s, d) = ((f64::from(h.lr) / b1) as f32, b2.sqrt() as f32);
        for i in 0..g.len() {
            let g = g[i] * h.grad_scale;
            p[i] *= 1.0 - h.lr * h.weight_decay;
            m[i] = h.beta1 * m[i] + (1.0 - h.beta1) * g;
            v[i] = h.beta2 * v[i] + (1.0 - h.beta2) * g * g;
            p[i] -= s * m[i] / (v[i].sqrt() / d + h.eps);
        }
        Ok(())
    }
    fn sum_squares(&self, x: &Tensor<Self>) -> Result<f64> {
        Ok(x.buffer.f32().iter().map(|&v| f64::from(v) * f64::from(v)).sum())
    }
}

use super::{Activation, Glu};
use crate::Result;
use crate::device::{Cpu, Tensor};
fn act(a: Activation, x: f32) -> (f32, f32) {
    match a {
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Activation::GeluTanh => {
            let k = (2.0 / std::f32::consts::PI).sqrt();
            let t = (k * (x + 0.044715 * x * x * x)).tanh();
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * k * (1.0 + 3.0 * 0.044715 * x * x))
        }
    }
}
impl Glu for Cpu {
    fn glu(&self, a: Activation, gate: &Tensor<Self>, up: &Tensor<Self>, y: &mut Tensor<Self>) -> Result<()> {
        for ((g, u), y) in gate.buffer.f32().iter().zip(up.buffer.f32()).zip(y.buffer.f32_mut()) {
            *y = act(a, *g).0 * u;
        }
        Ok(())
    }
    fn glu_backward(
        &self,
        a: Activation,
        gate: &Tensor<Self>,
        up: &Tensor<Self>,
        dy: &Tensor<Self>,
        dgate: &mut Tensor<Self>,
        dup: &mut Tensor<Self>,
    ) -> Result<()> {
        let (g, u, dy, dg, du) =
            (gate.buffer.f32(), up.buffer.f32(), dy.buffer.f32(), dgate.buffer.f32_mut(), dup.buffer.f32_mut());
        for i in 0..g.len() {
            let (f, d) = act(a, g[i]);
            dg[i] = dy[i] * u[i] * d;
            du[i] = dy[i] * f;
        }
        Ok(())
    }
}

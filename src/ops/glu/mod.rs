//! Gated linear units: SwiGLU and GeGLU.

mod cpu;
mod cuda;

use crate::Result;
use crate::device::{Backend, Tensor};

/// The gate's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `silu(x) = x sigmoid(x)` (Llama, Mistral, Qwen).
    Silu,
    /// `gelu_tanh(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` (Gemma's `gelu_pytorch_tanh`).
    GeluTanh,
}

/// `y = act(gate) * up`, elementwise; all of the same shape and dtype, f32 or a branch's.
pub trait Glu: Backend {
    fn glu(&self, activation: Activation, gate: &Tensor<Self>, up: &Tensor<Self>, y: &mut Tensor<Self>) -> Result<()>;

    /// `dgate = dy * up * act'(gate)`, `dup = dy * act(gate)` (overwritten).
    fn glu_backward(
        &self,
        activation: Activation,
        gate: &Tensor<Self>,
        up: &Tensor<Self>,
        dy: &Tensor<Self>,
        dgate: &mut Tensor<Self>,
        dup: &mut Tensor<Self>,
    ) -> Result<()>;
}

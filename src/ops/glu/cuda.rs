//! SwiGLU and GeGLU on a GPU: kernels/glu.cu.

use super::{Activation, Glu};
use crate::device::cuda::{Shape, THREADS, by_activation};
use crate::device::{Cuda, Tensor};
use crate::{Result, args};

impl Glu for Cuda {
    fn glu(&self, activation: Activation, gate: &Tensor<Self>, up: &Tensor<Self>, y: &mut Tensor<Self>) -> Result<()> {
        assert!(gate.shape() == up.shape() && up.shape() == y.shape(), "gate, up and y are alike");
        assert!([up, y].iter().all(|tensor| tensor.dtype() == gate.dtype()), "gate, up and y have one dtype");
        let kernel = match activation {
            Activation::Silu => ["glu_silu_f32", "glu_silu_bf16"],
            Activation::GeluTanh => ["glu_gelu_f32", "glu_gelu_bf16"],
        };
        let kernel = by_activation(gate.dtype(), kernel);
        self.launch(kernel, Shape::covering(y.len(), THREADS), args![gate, up, y, y.len() as u64])
    }

    fn glu_backward(
        &self,
        activation: Activation,
        gate: &Tensor<Self>,
        up: &Tensor<Self>,
        dy: &Tensor<Self>,
        dgate: &mut Tensor<Self>,
        dup: &mut Tensor<Self>,
    ) -> Result<()> {
        let all = [gate, up, dy, dgate, dup];
        assert!(all.iter().all(|tensor| tensor.shape() == gate.shape()), "all are like gate");
        assert!(all.iter().all(|tensor| tensor.dtype() == gate.dtype()), "all have one dtype");
        let kernel = match activation {
            Activation::Silu => ["glu_backward_silu_f32", "glu_backward_silu_bf16"],
            Activation::GeluTanh => ["glu_backward_gelu_f32", "glu_backward_gelu_bf16"],
        };
        let kernel = by_activation(gate.dtype(), kernel);
        let shape = Shape::covering(gate.len(), THREADS);
        self.launch(kernel, shape, args![gate, up, dy, dgate, dup, gate.len() as u64])
    }
}

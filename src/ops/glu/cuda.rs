//! SwiGLU and GeGLU on a GPU: kernels/glu.cu.

use super::{Activation, Glu};
use crate::device::cuda::{Shape, THREADS};
use crate::device::{Cuda, DType, Tensor};
use crate::{Result, args};

impl Glu for Cuda {
    fn glu(&self, activation: Activation, gate: &Tensor<Self>, up: &Tensor<Self>, y: &mut Tensor<Self>) -> Result<()> {
        assert!(gate.shape() == up.shape() && up.shape() == y.shape(), "gate, up and y are alike");
        assert!([gate, up, y].iter().all(|tensor| tensor.dtype() == DType::F32), "f32");
        let kernel = match activation {
            Activation::Silu => "glu_silu",
            Activation::GeluTanh => "glu_gelu",
        };
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
        assert!(all.iter().all(|tensor| tensor.dtype() == DType::F32), "f32");
        let kernel = match activation {
            Activation::Silu => "glu_silu_backward",
            Activation::GeluTanh => "glu_gelu_backward",
        };
        let shape = Shape::covering(gate.len(), THREADS);
        self.launch(kernel, shape, args![gate, up, dy, dgate, dup, gate.len() as u64])
    }
}

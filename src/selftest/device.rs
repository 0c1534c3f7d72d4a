//! The devices that laws are tried on.

use super::{
    Law, adamw_bf16, attention, attention_bf16, attention_long, gemm, linear_ce, linear_kl, replay, sampling, small,
    small_bf16,
};
use crate::device::cpu::Isa;
use crate::device::{Cpu, Cuda, DType};
use crate::ops::Ops;

/// A device under test.
pub trait TestDevice: Ops {
    /// Each variant of the device that this machine has.
    ///
    /// # Panics
    /// If it has none.
    fn all() -> Vec<Self>;

    /// Unit roundoff of products with weights of this dtype: what one factor may be off by, relatively.
    fn roundoff(&self, weights: DType) -> f64;

    /// Every law that it answers to. (A method, so that they are compiled once, in this crate.)
    fn laws() -> Vec<Law<Self>>;
}

/// The laws that all devices answer to.
fn common_laws<D: TestDevice>() -> Vec<Law<D>> {
    let common = [
        attention::laws(),
        attention_long::laws(),
        linear_ce::laws(),
        linear_kl::laws(),
        replay::laws(),
        sampling::laws(),
        small::laws(),
    ];
    common.into_iter().flatten().chain(adamw_bf16::laws()).collect()
}

/// Every instruction set this machine can run.
pub(super) fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// A rayon pool of `threads`.
pub(super) fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start")
}

impl TestDevice for Cpu {
    /// One a instruction set.
    fn all() -> Vec<Self> {
        available().map(Cpu::with_isa).collect()
    }

    fn roundoff(&self, _weights: DType) -> f64 {
        // Weights are widened, products made in f32.
        f64::from(f32::EPSILON)
    }

    /// Its matrix products too, which a GPU leaves to cuBLASLt; and, since they need no device, that the references'
    /// gradients are derivatives of the references.
    fn laws() -> Vec<Law<Self>> {
        let own = [
            gemm::laws(),
            attention::laws_of_the_reference(),
            linear_ce::laws_of_the_reference(),
            linear_kl::laws_of_the_reference(),
            sampling::laws_of_the_filters(),
        ];
        common_laws().into_iter().chain(own.into_iter().flatten()).collect()
    }
}

impl TestDevice for Cuda {
    fn all() -> Vec<Self> {
        vec![Cuda::new(0).unwrap_or_else(|error| panic!("{error}"))]
    }

    fn roundoff(&self, weights: DType) -> f64 {
        match weights {
            // Tensor cores take both factors in bf16: 8 bits.
            DType::BF16 => 1.0 / 256.0,
            DType::F32 | DType::F16 => f64::from(f32::EPSILON),
        }
    }

    /// Those of activations in bf16 too, which the CPU does not have.
    fn laws() -> Vec<Law<Self>> {
        common_laws().into_iter().chain(attention_bf16::laws()).chain(small_bf16::laws()).collect()
    }
}

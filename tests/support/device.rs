//! The devices that numeric tests run on. A test is a function generic over [`TestDevice`]; [`on_every_device`] makes a
//! `#[test]` of it for each device, so that every device answers to the same laws.

use super::available;
use safedepth::device::{Cpu, DType};
use safedepth::ops::Ops;

/// A device under test.
pub trait TestDevice: Ops {
    /// Each variant of the device that this machine has.
    fn all() -> Vec<Self>;

    /// Unit roundoff of products with weights of this dtype: what one factor may be off by, relatively.
    fn roundoff(&self, weights: DType) -> f64;
}

impl TestDevice for Cpu {
    /// One a instruction set.
    fn all() -> Vec<Self> {
        available().map(Cpu::with_isa).collect()
    }

    fn roundoff(&self, weights: DType) -> f64 {
        match (self.isa(), weights) {
            // `vdpbf16ps` takes both factors in bf16: 8 bits.
            (safedepth::device::cpu::Isa::Avx512Bf16, DType::BF16) => 1.0 / 256.0,
            _ => f64::from(f32::EPSILON),
        }
    }
}

/// Makes tests of generic functions `fn name<D: TestDevice>()`.
#[macro_export]
macro_rules! on_every_device {
    ($($name:ident),+ $(,)?) => {
        mod cpu {
            $(#[test] fn $name() { super::$name::<safedepth::device::Cpu>() })+
        }
    };
}

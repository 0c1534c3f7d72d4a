//! The devices that numeric tests run on. A test is a function generic over [`TestDevice`]; [`on_every_device`] makes a
//! `#[test]` of it for each device, so that every device answers to the same laws.
//!
//! A GPU's tests run on the emulator: the dynamic loader reads its search path when a program starts, so one ordinary
//! test, `cuda::on_the_emulator`, runs this test binary again as a child with the tests that are ignored otherwise. On a
//! machine with a GPU, `cargo test --release -- --ignored cuda::` runs them there.

use super::available;
use safedepth::device::{Cpu, Cuda, DType, cuda};
use safedepth::ops::Ops;
use std::process::Command;

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

    fn roundoff(&self, _weights: DType) -> f64 {
        // Weights are widened, products made in f32.
        f64::from(f32::EPSILON)
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
}

/// Set for the tests that run on the emulator: it takes a thousand times a GPU's time, so there are fewer cases.
pub const EMULATED: &str = "SAFEDEPTH_TEST_EMULATED";

/// Runs the ignored tests of module `module` of this binary on the emulator. A fault that it reports is a failure.
pub fn on_the_emulator(module: &str) {
    if !cuda::has_kernels() {
        eprintln!("no nvcc when this was built: GPU kernels are not tested");
        return;
    }
    let module = module.split_once("::").map_or(module, |(_, inner)| inner);
    let mut command = Command::new(std::env::current_exe().expect("a test binary has a path"));
    command.args(["--ignored", "--test-threads", "2", &format!("{module}::")]);
    // New memory each time, exactly as long as asked for: what the emulator can watch.
    command.env("SAFEDEPTH_CUDA_POOL", "0").env(EMULATED, "1");
    let code = safedepth_emulator::run::run(&mut command).unwrap_or_else(|error| panic!("{error}"));
    assert_ne!(code, safedepth_emulator::run::FAULTS, "the emulator reported faults");
    assert_eq!(code, 0, "tests failed on the emulator");
}

/// Makes tests of generic functions `fn name<D: TestDevice>()`.
#[macro_export]
macro_rules! on_every_device {
    ($($name:ident),+ $(,)?) => {
        mod cpu {
            $(#[test] fn $name() { super::$name::<safedepth::device::Cpu>() })+
        }
        mod cuda {
            #[test] fn on_the_emulator() { super::support::device::on_the_emulator(module_path!()) }
            $(#[test] #[ignore = "needs a GPU or the emulator"] fn $name() { super::$name::<safedepth::device::Cuda>() })+
        }
    };
}

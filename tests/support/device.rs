//! The laws of [`safedepth::selftest`] as tests: [`on_every_device`] makes a `#[test]` of each for each device.
//!
//! A GPU's tests run on the emulator: the dynamic loader reads its search path when a program starts, so one ordinary
//! test, `cuda::on_the_emulator`, runs this test binary again as a child with the tests that are ignored otherwise. On a
//! machine with a GPU, `cargo test --release -- --ignored cuda::` runs them there.

use safedepth::device::cuda;
use safedepth::selftest::{Effort, TestDevice, Trial};
use std::process::Command;

/// Set for the tests that run on the emulator: it takes a thousand times a GPU's time, so there are fewer cases.
pub const EMULATED: &str = "SAFEDEPTH_TEST_EMULATED";

/// Holds every variant of a device to a law.
pub fn hold<D: TestDevice>(op: &str, name: &str) {
    let all = D::laws();
    let law = all.iter().find(|law| law.op == op && law.name == name).unwrap_or_else(|| panic!("no law {op} {name}"));
    let divisor = if std::env::var_os(EMULATED).is_some() { 8 } else { 1 };
    (law.check)(&Trial::new(D::all(), Effort { divisor, ..Effort::default() }));
}

/// The tests of a file are all of its laws.
pub fn none_is_missing<D: TestDevice>(op: &str, tests: &[&str]) {
    let mut names: Vec<&str> = D::laws().iter().filter(|law| law.op == op).map(|law| law.name).collect();
    names.retain(|name| !tests.contains(name));
    assert!(names.is_empty(), "laws of {op} without a test: {names:?}");
}

/// Runs the ignored tests of module `module` of this binary on the emulator. A fault that it reports is a failure.
pub fn on_the_emulator(module: &str) {
    on_the_emulator_as(module, "80");
}

/// The same on an emulator of this compute capability: 90 has kernels of its own.
pub fn on_the_emulator_as(module: &str, architecture: &str) {
    if !cuda::has_kernels() {
        eprintln!("no nvcc when this was built: GPU kernels are not tested");
        return;
    }
    let module = module.split_once("::").map_or(module, |(_, inner)| inner);
    let mut command = Command::new(std::env::current_exe().expect("a test binary has a path"));
    command.args(["--ignored", "--test-threads", "2", &format!("{module}::")]);
    // New memory each time, exactly as long as asked for: what the emulator can watch.
    command.env("SAFEDEPTH_CUDA_POOL", "0").env(EMULATED, "1").env("SAFEDEPTH_EMULATOR_ARCH", architecture);
    let code = safedepth_emulator::run::run(&mut command).unwrap_or_else(|error| panic!("{error}"));
    assert_ne!(code, safedepth_emulator::run::FAULTS, "the emulator reported faults");
    assert_eq!(code, 0, "tests failed on the emulator");
}

/// Makes tests of an operation's laws: of those that all devices answer to, and after a semicolon of the CPU's own.
#[macro_export]
macro_rules! on_every_device {
    ($op:literal: $($name:ident),+ $(; $($own:ident),+)? $(,)?) => {
        mod cpu {
            $(#[test] fn $name() { super::support::device::hold::<safedepth::device::Cpu>($op, stringify!($name)) })+
        }
        $($(#[test] fn $own() { support::device::hold::<safedepth::device::Cpu>($op, stringify!($own)) })+)?
        on_cuda!($op: $($name),+);
        #[test]
        fn no_law_is_missing() {
            let tests = [$(stringify!($name),)+ $($(stringify!($own)),+)?];
            support::device::none_is_missing::<safedepth::device::Cpu>($op, &tests);
        }
    };
}

/// Makes tests of the laws that GPUs answer to.
#[macro_export]
macro_rules! on_cuda {
    ($op:literal: $($name:ident),+ $(,)?) => {
        mod cuda {
            #[test] fn on_the_emulator() { super::support::device::on_the_emulator(module_path!()) }
            #[test] fn no_law_is_missing() {
                super::support::device::none_is_missing::<safedepth::device::Cuda>($op, &[$(stringify!($name)),+]);
            }
            $(#[test] #[ignore = "needs a GPU or the emulator"] fn $name() {
                super::support::device::hold::<safedepth::device::Cuda>($op, stringify!($name))
            })+
        }
    };
}

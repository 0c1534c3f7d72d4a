//! The laws of the operations: each in f32, and in bf16 where a device has it, against plain f64 loops on random
//! shapes and values, with the identities that its trait states. `cargo test` and `safedepth selftest` run the same
//! functions, so a machine without Rust can hold its own device to them.

/// The laws of one file, by the names of their functions.
macro_rules! law_table {
    ($op:literal: $($name:ident),+ $(,)?) => {
        vec![$($crate::selftest::Law { op: $op, name: stringify!($name), check: $name }),+]
    };
}

mod adamw_bf16;
mod attention;
mod attention_bf16;
mod attention_cached;
mod attention_long;
mod device;
mod gemm;
pub mod golden;
mod linear_ce;
mod linear_kl;
mod measure;
mod reference;
mod replay;
mod sampling;
mod small;
mod small_bf16;
mod values;

pub use device::TestDevice;
pub use measure::{bits, relative_error};
pub use values::Random;

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A property that random cases are held to.
pub struct Law<D: TestDevice> {
    /// The operation: the name of its file here.
    pub op: &'static str,
    pub name: &'static str,
    /// Panics where the law does not hold, with the failing case.
    pub check: fn(&Trial<D>),
}

/// How many random cases a law is tried on, and which.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// So many for every law, instead of each law's own number.
    pub cases: Option<u32>,
    /// The law's own number is divided by this (for the emulator, which is slow).
    pub divisor: u32,
    /// Where the random numbers begin; by default each run draws others.
    pub seed: Option<u64>,
}

impl Default for Effort {
    fn default() -> Self {
        Self { cases: None, divisor: 1, seed: None }
    }
}

/// One check of a law.
pub struct Trial<D> {
    /// The variants of the device, a CPU's instruction sets.
    pub devices: Vec<D>,
    effort: Effort,
    asked: Cell<u32>,
}

impl<D> Trial<D> {
    pub fn new(devices: Vec<D>, effort: Effort) -> Self {
        Self { devices, effort, asked: Cell::new(0) }
    }

    /// Random cases that were asked for so far, on all variants together.
    pub fn cases(&self) -> u32 {
        self.asked.get()
    }

    /// Settings for `cases` random cases, or what the [`Effort`] makes of them; `SAFEDEPTH_CASES=50` makes it fifty times
    /// as many, to see that no bound is met by luck. A failing case is printed whole, so no file remembers its seed.
    fn config(&self, cases: u32) -> ProptestConfig {
        let times =
            std::env::var("SAFEDEPTH_CASES").map_or(1, |times| times.parse().expect("SAFEDEPTH_CASES is a number"));
        let cases = self.effort.cases.unwrap_or(times * cases.div_ceil(self.effort.divisor));
        self.asked.set(self.asked.get() + cases);
        let rng_seed = self.effort.seed.map_or(RngSeed::Random, RngSeed::Fixed);
        // Milliseconds for making a failing case smaller.
        let max_shrink_time = 20_000;
        ProptestConfig { cases, failure_persistence: None, rng_seed, max_shrink_time, ..ProptestConfig::default() }
    }
}

/// What became of a law.
pub struct Verdict {
    /// Random cases it was tried on; 0 where its cases are fixed.
    pub cases: u32,
    /// Why it does not hold: the assertion and the failing case.
    pub failure: Option<String>,
}

impl<D: TestDevice> Law<D> {
    /// Tries the law and says what became of it, without a panic.
    pub fn verdict(&self, trial: &Trial<D>) -> Verdict {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.check)(trial)));
        let failure = outcome.err().map(|payload| match payload.downcast::<String>() {
            Ok(message) => *message,
            Err(payload) => payload.downcast_ref::<&str>().copied().unwrap_or("it panicked without words").to_owned(),
        });
        Verdict { cases: trial.cases(), failure }
    }
}

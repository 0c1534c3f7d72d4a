//! What the tests share: devices, references in f64, random values, error measures.
// Each test binary uses a part of it.
#![allow(dead_code)]

pub mod device;
pub mod golden;
pub mod reference;
pub mod reference_attention;
pub mod reference_linear_ce;
pub mod reference_linear_kl;
pub mod reference_sampling;

use half::{bf16, f16};
use proptest::prelude::ProptestConfig;
use safedepth::device::DType;
use safedepth::device::cpu::{Isa, View};

/// Every instruction set this machine can run.
pub fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Pseudo-random numbers for test data (SplitMix64), the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }

    /// Normal values times `scale`.
    pub fn values(&mut self, len: usize, scale: f64) -> Vec<f32> {
        (0..len).map(|_| (self.normal() * scale) as f32).collect()
    }
}

/// Values rounded to a dtype, kept in it.
pub enum Stored {
    F32(Vec<f32>),
    BF16(Vec<bf16>),
    F16(Vec<f16>),
}

impl Stored {
    pub fn new(dtype: DType, values: &[f32]) -> Self {
        match dtype {
            DType::F32 => Self::F32(values.to_vec()),
            DType::BF16 => Self::BF16(values.iter().map(|&v| bf16::from_f32(v)).collect()),
            DType::F16 => Self::F16(values.iter().map(|&v| f16::from_f32(v)).collect()),
        }
    }

    pub fn view(&self) -> View<'_> {
        match self {
            Self::F32(values) => View::F32(values),
            Self::BF16(values) => View::BF16(values),
            Self::F16(values) => View::F16(values),
        }
    }

    /// The rounded values.
    pub fn f64(&self) -> Vec<f64> {
        match self {
            Self::F32(values) => values.iter().map(|&v| f64::from(v)).collect(),
            Self::BF16(values) => values.iter().map(|v| v.to_f64()).collect(),
            Self::F16(values) => values.iter().map(|v| v.to_f64()).collect(),
        }
    }
}

pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// `|got - want| / |want|` in the 2-norm; infinite where `got` has a NaN. 0 where both are all zero.
pub fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference: f64 = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).powi(2)).sum();
    let norm: f64 = want.iter().map(|w| w * w).sum();
    if difference == 0.0 {
        0.0
    } else if difference.is_nan() {
        f64::INFINITY
    } else {
        (difference / norm).sqrt()
    }
}

/// The 2-norm.
pub fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// `|got - want|` in the 2-norm; infinite where `got` has a NaN.
pub fn distance(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let squares: f64 = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).powi(2)).sum();
    if squares.is_nan() { f64::INFINITY } else { squares.sqrt() }
}

/// The bits, for comparisons that must be exact.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// A rayon pool of `threads`.
pub fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start")
}

/// Property tests of this many cases, an eighth on the emulator; `SAFEDEPTH_CASES=50` makes it fifty times as many, to
/// see that no bound is met by luck. A failing case is printed whole, so no file remembers its seed.
pub fn config(cases: u32) -> ProptestConfig {
    let cases = if std::env::var_os(device::EMULATED).is_some() { cases.div_ceil(8) } else { cases };
    let times = std::env::var("SAFEDEPTH_CASES").map_or(1, |times| times.parse().expect("SAFEDEPTH_CASES is a number"));
    let cases = cases * times;
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

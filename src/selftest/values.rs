//! Random values for test data, and values as a dtype holds them.

use crate::device::DType;
use crate::device::cpu::View;
use half::{bf16, f16};

/// Pseudo-random numbers for test data (SplitMix64), the same on every machine.
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    #[allow(clippy::should_implement_trait)]
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

/// In f64, exactly.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

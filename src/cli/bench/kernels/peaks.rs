//! What the machine can do, measured: the ceilings that every operation is held against.

use super::operands::random;
use crate::Result;
use crate::cli::bench::median_seconds;
use crate::device::{DType, Tensor};
use crate::ops::Ops;

/// The best matrix product and copy.
pub(super) struct Peaks {
    pub gflop_per_s: f64,
    pub gb_per_s: f64,
}

/// GFLOP/s of our own matrix product at its best, 1024 cubed: a tenth of a second's work.
pub(in crate::cli) fn gemm_peak<D: Ops>(device: &D) -> Result<f64> {
    product(device, DType::F32, 1024)
}

/// Rows of the product that a device is at its best with.
fn best_size<D: Ops>(device: &D) -> usize {
    if device.shared_cache().is_some() { 8192 } else { 1024 }
}

/// GFLOP/s of the device's best product for models of this dtype, of `size` cubed where that is given.
pub(in crate::cli::bench) fn gemm_peak_for<D: Ops>(device: &D, dtype: DType, size: Option<usize>) -> Result<f64> {
    product(device, dtype, size.unwrap_or(best_size(device)))
}

/// GFLOP/s of a product of `n` cubed, of activations and weights as models of this dtype have them.
fn product<D: Ops>(device: &D, dtype: DType, n: usize) -> Result<f64> {
    let branch = device.branch_dtype(dtype, 64);
    let (x, w) = (random(device, branch, n, n, 1)?, random(device, dtype, n, n, 2)?);
    let mut y = Tensor::empty(device, branch, n, n)?;
    let seconds = median_seconds(device, 2, 7, || device.linear(&x, &w, None, &mut y))?;
    Ok(2.0 * (n as f64).powi(3) / seconds / 1e9)
}

impl Peaks {
    /// A product of `size` cubed, and a copy of 256 MiB (less for a small `size`, which is the emulator's).
    pub fn measure<D: Ops>(device: &D, dtype: DType, size: Option<usize>) -> Result<Self> {
        let size = size.unwrap_or(best_size(device));
        let elements = (64 << 20).min(64 * size * size);
        let mut source = Tensor::empty(device, DType::F32, 1, elements)?;
        // Pages that nobody wrote can all be one page, which a cache holds.
        device.fill(&mut source.buffer, 1.0)?;
        let mut target = Tensor::zeros(device, DType::F32, 1, elements)?;
        let copy = median_seconds(device, 1, 5, || device.copy(&source.buffer, &mut target.buffer))?;
        Ok(Self {
            gflop_per_s: product(device, dtype, size)?,
            gb_per_s: 2.0 * size_of::<f32>() as f64 * elements as f64 / copy / 1e9,
        })
    }
}

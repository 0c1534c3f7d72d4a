//! Random operands.

use crate::Result;
use crate::device::{DType, Tensor};
use crate::model::init::fill_normal;
use crate::ops::Ops;
use std::sync::LazyLock;

/// A stretch of normal values; a prime length, so that rows of a matrix differ.
static NORMALS: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let mut values = vec![0.0; 1_048_573];
    fill_normal(&mut values, 0.05, "bench", 1);
    values
});

/// `[rows, cols]` of them, from another place for each seed.
pub(super) fn random<D: Ops>(device: &D, dtype: DType, rows: usize, cols: usize, seed: u64) -> Result<Tensor<D>> {
    let start = (seed as usize * 7919) % NORMALS.len();
    let values: Vec<f32> = NORMALS.iter().cycle().skip(start).take(rows * cols).copied().collect();
    Tensor::from_slice(device, dtype, rows, cols, &values)
}

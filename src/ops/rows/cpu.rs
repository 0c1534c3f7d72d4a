//! Row gather and scatter on the CPU.

use super::Rows;
use crate::Result;
use crate::device::cpu::parallel::Shared;
use crate::device::{Cpu, Tensor};
use rayon::prelude::*;

/// Rows a task copies, at least.
const ROWS: usize = 16;

impl Rows for Cpu {
    fn gather_rows(&self, x: &Tensor<Self>, rows: &Vec<u32>, y: &mut Tensor<Self>) -> Result<()> {
        let cols = x.cols();
        assert_eq!(y.shape(), [rows.len(), cols], "y has the picked rows");
        let x = x.buffer.f32();
        let picked = y.buffer.f32_mut().par_chunks_exact_mut(cols).zip(rows).with_min_len(ROWS);
        picked.for_each(|(y, &row)| y.copy_from_slice(&x[row as usize * cols..][..cols]));
        Ok(())
    }

    fn scatter_rows(&self, y: &Tensor<Self>, rows: &Vec<u32>, x: &mut Tensor<Self>) -> Result<()> {
        let cols = x.cols();
        assert_eq!(y.shape(), [rows.len(), cols], "y has a row for each number");
        x.buffer.f32_mut().par_chunks_mut(64 * cols).for_each(|x| x.fill(0.0));
        let x = Shared::new(x.buffer.f32_mut());
        let picked = y.buffer.f32().par_chunks_exact(cols).zip(rows).with_min_len(ROWS);
        picked.for_each(|(y, &row)| {
            let start = row as usize * cols;
            // SAFETY: row numbers are distinct, by the contract of `scatter_rows`.
            unsafe { x.range(start..start + cols) }.copy_from_slice(y);
        });
        Ok(())
    }
}

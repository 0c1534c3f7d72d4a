//! Embedding on the CPU.

use super::Embedding;
use crate::Result;
use crate::device::cpu::parallel::{Shared, for_each_task};
use crate::device::{Cpu, Tensor};
use rayon::prelude::*;

/// Columns a task of the backward pass sums; each visits all tokens in order.
const COLUMNS: usize = 64;

impl Embedding for Cpu {
    fn embedding(&self, ids: &Vec<u32>, table: &Tensor<Self>, scale: f32, y: &mut Tensor<Self>) -> Result<()> {
        let cols = table.cols();
        assert_eq!(y.shape(), [ids.len(), cols], "y has a row a token");
        let table = table.buffer.view();
        y.buffer.f32_mut().par_chunks_exact_mut(cols).zip(ids).with_min_len(16).for_each(|(y, &id)| {
            table.slice(id as usize * cols..(id as usize + 1) * cols).widen(y);
            if scale != 1.0 {
                y.iter_mut().for_each(|y| *y *= scale);
            }
        });
        Ok(())
    }

    fn embedding_backward(
        &self,
        ids: &Vec<u32>,
        dy: &Tensor<Self>,
        scale: f32,
        dtable: &mut Tensor<Self>,
    ) -> Result<()> {
        let cols = dtable.cols();
        assert_eq!(dy.shape(), [ids.len(), cols], "dy has a row a token");
        let dy = dy.buffer.f32();
        let dtable = Shared::new(dtable.buffer.f32_mut());
        for_each_task(cols.div_ceil(COLUMNS), |task| {
            let columns = task * COLUMNS..cols.min((task + 1) * COLUMNS);
            for (t, &id) in ids.iter().enumerate() {
                let row = id as usize * cols;
                // SAFETY: tasks own disjoint columns.
                let target = unsafe { dtable.range(row + columns.start..row + columns.end) };
                for (target, dy) in target.iter_mut().zip(&dy[t * cols..][columns.clone()]) {
                    *target += scale * dy;
                }
            }
        });
        Ok(())
    }
}

//! Sampling on the CPU: rows in parallel.

use super::{Sampling, SamplingRow, apply_filters, draw};
use crate::Result;
use crate::device::{Cpu, Tensor};
use rayon::prelude::*;

impl Sampling for Cpu {
    fn sample<'a>(
        &self,
        logits: &mut Tensor<Self>,
        row: impl Fn(usize) -> SamplingRow<'a> + Send + Sync,
        tokens: &mut Vec<u32>,
    ) -> Result<()> {
        let vocab = logits.cols();
        let chosen = logits.buffer.f32_mut().par_chunks_mut(vocab).enumerate().map(|(i, logits)| {
            let row = row(i);
            apply_filters(logits, row.history, &row.params);
            draw(logits, &row.params, row.uniform)
        });
        chosen.collect_into_vec(tokens);
        Ok(())
    }
}

//! Sampling on the CPU: rows in parallel.

use super::{Sampling, SamplingRow, apply_filters, draw};
use crate::Result;
use crate::device::{Cpu, Tensor};
use rayon::prelude::*;

impl Sampling for Cpu {
    fn sample(&self, logits: &mut Tensor<Self>, rows: &[SamplingRow<'_>], tokens: &mut Vec<u32>) -> Result<()> {
        assert_eq!(logits.rows(), rows.len(), "one row of logits a row to sample");
        let vocab = logits.cols();
        let chosen = logits.buffer.f32_mut().par_chunks_mut(vocab).zip(rows).map(|(logits, row)| {
            apply_filters(logits, row.history, &row.params);
            draw(logits, &row.params, row.uniform)
        });
        chosen.collect_into_vec(tokens);
        Ok(())
    }
}

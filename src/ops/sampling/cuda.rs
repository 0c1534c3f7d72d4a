//! Sampling on a GPU: the launch of `sampling.cu`.

use super::{Sampling, SamplingRow};
use crate::device::cuda::{Cuda, Shape, nvtx};
use crate::device::{Backend, DType, Tensor};
use crate::{Result, args};

/// Threads of a block.
const THREADS: usize = 1024;

/// Words of a row's parameters (`Row` in `sampling.cu`).
const ROW: usize = 7;

impl Sampling for Cuda {
    fn sample<'a>(
        &self,
        logits: &mut Tensor<Self>,
        row: impl Fn(usize) -> SamplingRow<'a> + Send + Sync,
        tokens: &mut Vec<u32>,
    ) -> Result<()> {
        let _range = nvtx::range(c"sampling");
        let (count, vocab) = (logits.rows(), logits.cols());
        assert_eq!(logits.dtype(), DType::F32, "logits are f32");
        let (mut rows, mut history) = (Vec::with_capacity(count * ROW), Vec::new());
        for SamplingRow { params, history: own, uniform } in (0..count).map(row) {
            let start = history.len() as u32;
            // Without a penalty no one asks for the tokens.
            if params.repetition_penalty != 1.0 {
                history.extend_from_slice(own);
            }
            let top_k = params.top_k.min(vocab) as u32;
            rows.extend([
                params.temperature.to_bits(),
                top_k,
                params.top_p.to_bits(),
                params.repetition_penalty.to_bits(),
                uniform.to_bits(),
                start,
                history.len() as u32,
            ]);
        }
        let (rows, history) = (self.indices(&rows)?, self.indices(&history)?);
        let chosen = self.workspace(count * size_of::<u32>())?;
        let seen = vocab.div_ceil(32) * size_of::<u32>();
        self.launch("sample", Shape::new(count, THREADS).shared(seen), args![vocab, logits, rows, history, chosen])?;
        tokens.resize(count, 0);
        self.read_bytes(&chosen, tokens)
    }
}

//! Cross-entropy on the CPU: a tile of the vocabulary at a time, all tokens of a chunk at once.

use super::tiles::{Absorb, KEPT_BYTES, Online, TOKEN_CHUNK, VOCABULARY_TILE, apply_softcap, vocabulary_tiles};
use super::{CeGradient, CeOutput, IGNORE, LinearCe};
use crate::Result;
use crate::device::cpu::gemm::{gemm_nn, gemm_nt, gemm_tn};
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::{Backend, Cpu, DType, Tensor};
use rayon::prelude::*;

/// Logits become `coefficient * (p_v - [v = label])`, times the softcap's derivative.
struct LogitGradient<'a> {
    logits: &'a mut [f32],
    softcap: Option<f32>,
    lse: f32,
    coefficient: f32,
    /// The label as an offset into this tile, if it lies in it.
    label: Option<usize>,
}

impl Kernel for LogitGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { logits, softcap, lse, coefficient, label } = self;
        let label_logit = label.map(|label| logits[label]);
        let whole = logits.len() / S::LANES * S::LANES;
        let slope = |z: f32| softcap.map_or(1.0, |cap| 1.0 - (z / cap) * (z / cap));
        // SAFETY: whole registers within `logits`; the rest is handled by scalars.
        unsafe {
            for j in (0..whole).step_by(S::LANES) {
                let pointer = logits.as_mut_ptr().add(j);
                let z = S::load(pointer);
                let mut gradient = S::mul(S::splat(coefficient), S::exp(S::sub(z, S::splat(lse))));
                if let Some(cap) = softcap {
                    let ratio = S::mul(z, S::splat(1.0 / cap));
                    gradient = S::mul(gradient, S::sub(S::splat(1.0), S::mul(ratio, ratio)));
                }
                S::store(pointer, gradient);
            }
        }
        for z in &mut logits[whole..] {
            *z = coefficient * (*z - lse).exp() * slope(*z);
        }
        if let (Some(label), Some(z)) = (label, label_logit) {
            // p - 1 for the label, without the cancellation of subtracting 1 from a rounded p.
            logits[label] = coefficient * (z - lse).exp_m1() * slope(z);
        }
    }
}

/// Where the logits of a tile are made: among the kept ones, whose first `entries` of the vocabulary are there for all
/// tokens, a chunk after the other and in it a tile after the other, or in a buffer for one tile.
struct TileLogits<'a> {
    kept: &'a mut [f32],
    entries: usize,
    buffer: &'a mut [f32],
}

impl<'a> TileLogits<'a> {
    fn new(kept: Option<&'a mut Tensor<Cpu>>, tokens: usize, buffer: &'a mut [f32]) -> Self {
        let kept = kept.map_or(&mut [][..], |kept| kept.buffer.f32_mut());
        Self { entries: kept.len() / tokens.max(1), kept, buffer }
    }

    /// Room for `count` tokens from `first` by the tile `start..end`, and whether that keeps them.
    fn tile(&mut self, first: usize, count: usize, start: usize, end: usize) -> (&mut [f32], bool) {
        let length = count * (end - start);
        if end <= self.entries {
            let at = first * self.entries + count * start;
            (&mut self.kept[at..at + length], true)
        } else {
            (&mut self.buffer[..length], false)
        }
    }
}

/// Entries of the vocabulary, whole tiles or all, whose logits are kept for every token.
fn kept_entries(tokens: usize, vocab: usize) -> usize {
    let most = KEPT_BYTES / DType::F32.size() / tokens.max(1);
    if most >= vocab { vocab } else { most / VOCABULARY_TILE * VOCABULARY_TILE }
}

impl LinearCe for Cpu {
    fn tile_bytes(&self, tokens: usize, _vocab: usize, _weights: DType) -> usize {
        tokens.min(TOKEN_CHUNK) * VOCABULARY_TILE * DType::F32.size()
    }

    fn kept_logits(&self, tokens: usize, vocab: usize) -> usize {
        tokens * kept_entries(tokens, vocab)
    }

    fn linear_ce(
        &self,
        hidden: &Tensor<Self>,
        w: &Tensor<Self>,
        softcap: Option<f32>,
        labels: &Vec<u32>,
        output: CeOutput<'_, Self>,
    ) -> Result<()> {
        let (tokens, size, vocab) = (hidden.rows(), hidden.cols(), w.rows());
        assert_eq!(w.cols(), size, "hidden size of the unembedding");
        assert_eq!(labels.len(), tokens, "one label a token");
        let (x, w) = (hidden.buffer.f32(), w.buffer.view());
        let CeOutput { lse, logprob, mut entropy, mut rank, kept } = output;
        let mut buffer = self.alloc(DType::F32, tokens.min(TOKEN_CHUNK) * VOCABULARY_TILE)?;
        let mut tiles = TileLogits::new(kept, tokens, buffer.f32_mut());
        let mut states = [Online::EMPTY; TOKEN_CHUNK];
        let mut label_logits = [0.0_f32; TOKEN_CHUNK];
        let mut ranks = [0_u32; TOKEN_CHUNK];
        for first in (0..tokens).step_by(TOKEN_CHUNK) {
            let count = TOKEN_CHUNK.min(tokens - first);
            let labels = &labels[first..first + count];
            let x = &x[first * size..(first + count) * size];
            let (states, label_logits) = (&mut states[..count], &mut label_logits[..count]);
            let ranks = &mut ranks[..count];
            states.fill(Online::EMPTY);
            ranks.fill(0);
            // The labels' logits first, with the bits they have in their tiles (a product's output depends on its row and
            // its column alone), so that one pass over the vocabulary can compare with them.
            x.par_chunks(size).zip(labels).zip(label_logits.par_iter_mut()).for_each(|((x, &label), logit)| {
                *logit = f32::INFINITY;
                if label != IGNORE {
                    let w = w.slice(label as usize * size..(label as usize + 1) * size);
                    let logit = std::slice::from_mut(logit);
                    gemm_nt(self.isa(), 1, 1, size, x, size, w, size, logit, 1, false);
                    apply_softcap(self.isa(), logit, softcap);
                }
            });
            for (start, end) in vocabulary_tiles(vocab) {
                let (logits, _) = tiles.tile(first, count, start, end);
                let w = w.slice(start * size..end * size);
                gemm_nt(self.isa(), count, end - start, size, x, size, w, size, logits, end - start, false);
                apply_softcap(self.isa(), logits, softcap);
                let rows = logits.par_chunks(end - start).zip(states.par_iter_mut());
                rows.zip(label_logits.par_iter().zip(ranks.par_iter_mut())).for_each(
                    |((logits, state), (&label_logit, larger))| {
                        *state = self.isa().run(Absorb { logits, state: *state });
                        if rank.is_some() {
                            *larger += logits.iter().map(|&z| u32::from(z > label_logit)).sum::<u32>();
                        }
                    },
                );
            }
            for (i, state) in states.iter().enumerate() {
                let lse_i = state.lse();
                lse.buffer.f32_mut()[first + i] = lse_i;
                logprob.buffer.f32_mut()[first + i] =
                    if labels[i] == IGNORE { 0.0 } else { (label_logits[i] - lse_i).min(0.0) };
                if let Some(entropy) = &mut entropy {
                    entropy.buffer.f32_mut()[first + i] = state.entropy();
                }
                if let Some(rank) = &mut rank {
                    rank.buffer.f32_mut()[first + i] = ranks[i] as f32;
                }
            }
        }
        Ok(())
    }

    fn linear_ce_backward(
        &self,
        hidden: &Tensor<Self>,
        w: &Tensor<Self>,
        softcap: Option<f32>,
        labels: &Vec<u32>,
        lse: &Tensor<Self>,
        coefficient: &Tensor<Self>,
        kept: Option<&mut Tensor<Self>>,
        gradient: CeGradient<'_, Self>,
    ) -> Result<()> {
        let CeGradient { hidden: dhidden, w: mut dw, accumulate } = gradient;
        let (tokens, size, vocab) = (hidden.rows(), hidden.cols(), w.rows());
        assert_eq!(hidden.shape(), dhidden.shape(), "dhidden is like hidden");
        let (x, w) = (hidden.buffer.f32(), w.buffer.view());
        let (lse, coefficient) = (lse.buffer.f32(), coefficient.buffer.f32());
        if let (0, false, Some(dw)) = (tokens, accumulate, &mut dw) {
            dw.zero(self)?;
        }
        let mut buffer = self.alloc(DType::F32, tokens.min(TOKEN_CHUNK) * VOCABULARY_TILE)?;
        let mut tiles = TileLogits::new(kept, tokens, buffer.f32_mut());
        for first in (0..tokens).step_by(TOKEN_CHUNK) {
            let count = TOKEN_CHUNK.min(tokens - first);
            let range = first..first + count;
            let x = &x[first * size..(first + count) * size];
            let dx = &mut dhidden.buffer.f32_mut()[first * size..(first + count) * size];
            for (start, end) in vocabulary_tiles(vocab) {
                let width = end - start;
                let (logits, there) = tiles.tile(first, count, start, end);
                let w = w.slice(start * size..end * size);
                if !there {
                    gemm_nt(self.isa(), count, width, size, x, size, w, size, logits, width, false);
                    apply_softcap(self.isa(), logits, softcap);
                }
                let rows = logits.par_chunks_mut(width).zip(labels[range.clone()].par_iter());
                rows.zip(lse[range.clone()].par_iter().zip(coefficient[range.clone()].par_iter())).for_each(
                    |((logits, &label), (&lse, &coefficient))| {
                        if label == IGNORE || coefficient == 0.0 {
                            logits.fill(0.0);
                            return;
                        }
                        let label = (start..end).contains(&(label as usize)).then(|| label as usize - start);
                        self.isa().run(LogitGradient { logits, softcap, lse, coefficient, label });
                    },
                );
                gemm_nn(self.isa(), count, size, width, logits, width, w, size, dx, size, start > 0);
                if let Some(dw) = &mut dw {
                    let dw = &mut dw.buffer.f32_mut()[start * size..end * size];
                    let accumulate = accumulate || first > 0;
                    gemm_tn(self.isa(), width, size, count, logits, width, x, size, dw, size, accumulate);
                }
            }
        }
        Ok(())
    }
}

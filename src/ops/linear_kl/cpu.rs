//! Two-model KL on the CPU: the same tile of both vocabularies at a time.

use super::{KlOutput, KlSide, LinearKl};
use crate::Result;
use crate::device::cpu::gemm::gemm_nt;
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::{Backend, Cpu, DType, Tensor};
use crate::ops::linear_ce::tiles::{Absorb, Online, TOKEN_CHUNK, VOCABULARY_TILE, apply_softcap, vocabulary_tiles};
use rayon::prelude::*;

/// Both online softmaxes of one token, and what KL needs of them together.
#[derive(Clone, Copy)]
struct State {
    p: Online,
    q: Online,
    /// `sum_v exp(z^p_v - max^p) (z^p_v - z^q_v)`.
    difference: f32,
    argmax_p: usize,
    argmax_q: usize,
}

const EMPTY: State = State { p: Online::EMPTY, q: Online::EMPTY, difference: 0.0, argmax_p: 0, argmax_q: 0 };

/// `sum_v exp(z^p_v - max) (z^p_v - z^q_v)` over a tile.
struct Difference<'a> {
    p: &'a [f32],
    q: &'a [f32],
    max: f32,
}

impl Kernel for Difference<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self) -> f32 {
        let Self { p, q, max } = self;
        let whole = p.len() / S::LANES * S::LANES;
        // SAFETY: whole registers within both slices, which are of equal length.
        let mut total = unsafe {
            let mut sum = S::zero();
            for j in (0..whole).step_by(S::LANES) {
                let (zp, zq) = (S::load(p.as_ptr().add(j)), S::load(q.as_ptr().add(j)));
                sum = S::fma(S::exp(S::sub(zp, S::splat(max))), S::sub(zp, zq), sum);
            }
            S::sum(sum)
        };
        for (&zp, &zq) in p[whole..].iter().zip(&q[whole..]) {
            total += (zp - max).exp() * (zp - zq);
        }
        total
    }
}

/// Adds a tile of one side; returns the new state, and the argmax so far.
fn absorb(cpu: &Cpu, logits: &[f32], state: Online, argmax: usize, start: usize) -> (Online, usize) {
    let new = cpu.isa().run(Absorb { logits, state });
    // The first of equal logits wins, as in PyTorch's argmax on the CPU.
    let argmax =
        if new.max > state.max { start + logits.iter().position(|&z| z == new.max).unwrap_or(0) } else { argmax };
    (new, argmax)
}

impl LinearKl for Cpu {
    fn linear_kl(&self, p: KlSide<'_, Self>, q: KlSide<'_, Self>) -> Result<KlOutput<Self>> {
        let (tokens, vocab) = (p.hidden.rows(), p.w.rows());
        assert_eq!(q.hidden.rows(), tokens, "both sides have the same tokens");
        assert_eq!(q.w.rows(), vocab, "both sides have the same vocabulary");
        let vector = || Tensor::empty(self, DType::F32, 1, tokens);
        let mut output = KlOutput {
            kl: vector()?,
            entropy_p: vector()?,
            entropy_q: vector()?,
            argmax_p: vector()?,
            argmax_q: vector()?,
        };
        let chunk = tokens.min(TOKEN_CHUNK);
        let mut buffers = [(); 2].map(|()| self.alloc(DType::F32, chunk * VOCABULARY_TILE));
        let [Ok(buffer_p), Ok(buffer_q)] = &mut buffers else { unreachable!("host allocation does not fail") };
        let mut states = [EMPTY; TOKEN_CHUNK];
        for first in (0..tokens).step_by(TOKEN_CHUNK) {
            let count = TOKEN_CHUNK.min(tokens - first);
            let states = &mut states[..count];
            states.fill(EMPTY);
            for (start, end) in vocabulary_tiles(vocab) {
                let width = end - start;
                let tile = |side: &KlSide<'_, Self>, logits: &mut [f32]| {
                    let size = side.hidden.cols();
                    let x = &side.hidden.buffer.f32()[first * size..(first + count) * size];
                    let w = side.w.buffer.view().slice(start * size..end * size);
                    gemm_nt(self.isa(), count, width, size, x, size, w, size, logits, width, false);
                    apply_softcap(self.isa(), logits, side.softcap);
                };
                let logits_p = &mut buffer_p.f32_mut()[..count * width];
                let logits_q = &mut buffer_q.f32_mut()[..count * width];
                tile(&p, logits_p);
                tile(&q, logits_q);
                let rows = logits_p.par_chunks(width).zip(logits_q.par_chunks(width));
                rows.zip(states.par_iter_mut()).for_each(|((zp, zq), state)| {
                    let before = state.p.max;
                    (state.p, state.argmax_p) = absorb(self, zp, state.p, state.argmax_p, start);
                    (state.q, state.argmax_q) = absorb(self, zq, state.q, state.argmax_q, start);
                    let max = state.p.max;
                    state.difference =
                        state.difference * (before - max).exp() + self.isa().run(Difference { p: zp, q: zq, max });
                });
            }
            for (i, state) in (first..).zip(states.iter()) {
                output.kl.buffer.f32_mut()[i] = state.difference / state.p.sum - state.p.lse() + state.q.lse();
                output.entropy_p.buffer.f32_mut()[i] = state.p.entropy();
                output.entropy_q.buffer.f32_mut()[i] = state.q.entropy();
                output.argmax_p.buffer.f32_mut()[i] = state.argmax_p as f32;
                output.argmax_q.buffer.f32_mut()[i] = state.argmax_q as f32;
            }
        }
        Ok(output)
    }
}

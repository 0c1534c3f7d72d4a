//! Two-model KL on the CPU: the same tile of both vocabularies at a time.

use super::{KlGradient, KlNormalizers, KlOutput, KlSide, LinearKl};
use crate::Result;
use crate::device::cpu::gemm::{gemm_nn, gemm_nt, gemm_tn};
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::{Backend, Cpu, DType, Tensor};
use crate::ops::linear_ce::tiles::{Absorb, Online, TOKEN_CHUNK, VOCABULARY_TILE, apply_softcap, vocabulary_tiles};
use rayon::prelude::*;
use std::ops::Range;

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

/// Tokens and vocabulary, the same on both sides.
fn shape(p: &KlSide<'_, Cpu>, q: &KlSide<'_, Cpu>) -> (usize, usize) {
    let (tokens, vocab) = (p.hidden.rows(), p.w.rows());
    assert_eq!(q.hidden.rows(), tokens, "both sides have the same tokens");
    assert_eq!(q.w.rows(), vocab, "both sides have the same vocabulary");
    (tokens, vocab)
}

/// Logits of some tokens and some of the vocabulary.
fn logit_tile(cpu: &Cpu, side: &KlSide<'_, Cpu>, rows: Range<usize>, tile: Range<usize>, logits: &mut [f32]) {
    let size = side.hidden.cols();
    let x = &side.hidden.buffer.f32()[rows.start * size..rows.end * size];
    let w = side.w.buffer.view().slice(tile.start * size..tile.end * size);
    gemm_nt(cpu.isa(), rows.len(), tile.len(), size, x, size, w, size, logits, tile.len(), false);
    apply_softcap(cpu.isa(), logits, side.softcap);
}

/// What a side's gradients get from a tile of `dz`: the first tile overwrites the hidden states'.
fn multiply_gradient(
    cpu: &Cpu,
    side: &KlSide<'_, Cpu>,
    rows: Range<usize>,
    tile: Range<usize>,
    dz: &[f32],
    gradient: &mut KlGradient<'_, Cpu>,
) {
    let (size, width, isa) = (side.hidden.cols(), tile.len(), cpu.isa());
    let range = rows.start * size..rows.end * size;
    let w = side.w.buffer.view().slice(tile.start * size..tile.end * size);
    let dx = &mut gradient.hidden.buffer.f32_mut()[range.clone()];
    gemm_nn(isa, rows.len(), size, width, dz, width, w, size, dx, size, tile.start > 0);
    if let Some(dw) = &mut gradient.w {
        let x = &side.hidden.buffer.f32()[range];
        let dw = &mut dw.buffer.f32_mut()[tile.start * size..tile.end * size];
        gemm_tn(isa, width, size, rows.len(), dz, width, x, size, dw, size, true);
    }
}

/// What the gradient of one token's logits needs of the token.
#[derive(Clone, Copy)]
struct Scalars {
    kl: f32,
    lse_p: f32,
    lse_q: f32,
    coefficient: f32,
    softcap_p: Option<f32>,
    softcap_q: Option<f32>,
}

/// A tile of both sides' logits of one token becomes their gradients.
///
/// Equal sides give exactly 0: every difference is of equal numbers.
struct LogitGradients<'a> {
    p: &'a mut [f32],
    q: &'a mut [f32],
    scalars: Scalars,
}

impl Kernel for LogitGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { p, q, scalars } = self;
        let mut j = 0;
        // SAFETY: whole registers, then one partial, within slices of equal length.
        unsafe {
            while j < p.len() {
                let count = S::LANES.min(p.len() - j);
                let (p, q) = (p.as_mut_ptr().add(j), q.as_mut_ptr().add(j));
                if count == S::LANES {
                    let (dp, dq) = logit_gradients::<S>(S::load(p), S::load(q), scalars);
                    S::store(p, dp);
                    S::store(q, dq);
                } else {
                    let (zp, zq) = (S::load_partial(p, count), S::load_partial(q, count));
                    let (dp, dq) = logit_gradients::<S>(zp, zq, scalars);
                    S::store_partial(p, dp, count);
                    S::store_partial(q, dq, count);
                }
                j += count;
            }
        }
    }
}

/// `dz^p = coefficient p (log p - log q - KL)` and `dz^q = coefficient (q - p)`, through the softcaps.
#[inline(always)]
unsafe fn logit_gradients<S: Simd>(zp: S::V, zq: S::V, scalars: Scalars) -> (S::V, S::V) {
    let Scalars { kl, lse_p, lse_q, coefficient, softcap_p, softcap_q } = scalars;
    // SAFETY: lane arithmetic, allowed inside a kernel.
    unsafe {
        let (log_p, log_q) = (S::sub(zp, S::splat(lse_p)), S::sub(zq, S::splat(lse_q)));
        let (p, q) = (S::exp(log_p), S::exp(log_q));
        let centred = S::sub(S::sub(log_p, log_q), S::splat(kl));
        // 1 - (z / c)^2
        let slope = |z: S::V, softcap: Option<f32>| match softcap {
            Some(cap) => {
                let ratio = S::mul(z, S::splat(1.0 / cap));
                S::mul(S::splat(coefficient), S::sub(S::splat(1.0), S::mul(ratio, ratio)))
            }
            None => S::splat(coefficient),
        };
        (S::mul(slope(zp, softcap_p), S::mul(p, centred)), S::mul(slope(zq, softcap_q), S::sub(q, p)))
    }
}

impl LinearKl for Cpu {
    fn linear_kl_forward(
        &self,
        p: KlSide<'_, Self>,
        q: KlSide<'_, Self>,
    ) -> Result<(KlOutput<Self>, KlNormalizers<Self>)> {
        let (tokens, vocab) = shape(&p, &q);
        let vector = || Tensor::empty(self, DType::F32, 1, tokens);
        let mut output = KlOutput {
            kl: vector()?,
            entropy_p: vector()?,
            entropy_q: vector()?,
            argmax_p: vector()?,
            argmax_q: vector()?,
        };
        let mut normalizers = KlNormalizers { lse_p: vector()?, lse_q: vector()? };
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
                let logits_p = &mut buffer_p.f32_mut()[..count * width];
                let logits_q = &mut buffer_q.f32_mut()[..count * width];
                logit_tile(self, &p, first..first + count, start..end, logits_p);
                logit_tile(self, &q, first..first + count, start..end, logits_q);
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
                let (lse_p, lse_q) = (state.p.lse(), state.q.lse());
                normalizers.lse_p.buffer.f32_mut()[i] = lse_p;
                normalizers.lse_q.buffer.f32_mut()[i] = lse_q;
                output.kl.buffer.f32_mut()[i] = state.difference / state.p.sum - lse_p + lse_q;
                output.entropy_p.buffer.f32_mut()[i] = state.p.entropy();
                output.entropy_q.buffer.f32_mut()[i] = state.q.entropy();
                output.argmax_p.buffer.f32_mut()[i] = state.argmax_p as f32;
                output.argmax_q.buffer.f32_mut()[i] = state.argmax_q as f32;
            }
        }
        Ok((output, normalizers))
    }

    fn linear_kl_backward(
        &self,
        p: KlSide<'_, Self>,
        q: KlSide<'_, Self>,
        kl: &Tensor<Self>,
        normalizers: &KlNormalizers<Self>,
        coefficient: &Tensor<Self>,
        mut dp: Option<KlGradient<'_, Self>>,
        mut dq: Option<KlGradient<'_, Self>>,
    ) -> Result<()> {
        let (tokens, vocab) = shape(&p, &q);
        assert_eq!([kl.len(), coefficient.len()], [tokens; 2], "one divergence and one coefficient a token");
        for (gradient, side) in [(&dp, &p), (&dq, &q)] {
            if let Some(gradient) = gradient {
                assert_eq!(gradient.hidden.shape(), side.hidden.shape(), "dhidden is like hidden");
            }
        }
        let scalars = |t: usize| Scalars {
            kl: kl.buffer.f32()[t],
            lse_p: normalizers.lse_p.buffer.f32()[t],
            lse_q: normalizers.lse_q.buffer.f32()[t],
            coefficient: coefficient.buffer.f32()[t],
            softcap_p: p.softcap,
            softcap_q: q.softcap,
        };
        let chunk = tokens.min(TOKEN_CHUNK);
        let mut buffers = [(); 2].map(|()| self.alloc(DType::F32, chunk * VOCABULARY_TILE));
        let [Ok(buffer_p), Ok(buffer_q)] = &mut buffers else { unreachable!("host allocation does not fail") };
        for first in (0..tokens).step_by(TOKEN_CHUNK) {
            let rows = first..tokens.min(first + TOKEN_CHUNK);
            for (start, end) in vocabulary_tiles(vocab) {
                let width = end - start;
                let logits_p = &mut buffer_p.f32_mut()[..rows.len() * width];
                let logits_q = &mut buffer_q.f32_mut()[..rows.len() * width];
                logit_tile(self, &p, rows.clone(), start..end, logits_p);
                logit_tile(self, &q, rows.clone(), start..end, logits_q);
                let pairs = logits_p.par_chunks_mut(width).zip(logits_q.par_chunks_mut(width));
                pairs.enumerate().for_each(|(i, (p, q))| {
                    let scalars = scalars(first + i);
                    if scalars.coefficient == 0.0 {
                        p.fill(0.0);
                        q.fill(0.0);
                    } else {
                        self.isa().run(LogitGradients { p, q, scalars });
                    }
                });
                if let Some(gradient) = &mut dp {
                    multiply_gradient(self, &p, rows.clone(), start..end, logits_p, gradient);
                }
                if let Some(gradient) = &mut dq {
                    multiply_gradient(self, &q, rows.clone(), start..end, logits_q, gradient);
                }
            }
        }
        Ok(())
    }
}

//! What every op that streams the vocabulary on the CPU shares: the tile sizes and the online softmax.

use crate::device::cpu::Isa;
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::cpu::tanh::Softcap;
use rayon::prelude::*;

/// Vocabulary entries in a tile. Part of the results' bits: sums run within tiles, then over them in order.
pub(in crate::ops) const VOCABULARY_TILE: usize = 1024;

/// Tokens that share one pass over the unembedding: their logits of one tile are 2 MiB.
pub(in crate::ops) const TOKEN_CHUNK: usize = 512;

/// Bytes of logits that the loss keeps for its gradient: more than half of SmolLM2's vocabulary for 512 labels.
pub(in crate::ops) const KEPT_BYTES: usize = 64 << 20;

/// Logits that one task caps.
const SOFTCAP_RUN: usize = 4096;

/// `z -> c tanh(z / c)` on every logit.
pub(in crate::ops) fn apply_softcap(isa: Isa, logits: &mut [f32], softcap: Option<f32>) {
    if let Some(cap) = softcap {
        logits.par_chunks_mut(SOFTCAP_RUN).for_each(|values| isa.run(Softcap { values, cap }));
    }
}

/// Online softmax of one token over the tiles seen so far.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Online {
    /// Largest logit.
    pub max: f32,
    /// `sum_v exp(z_v - max)`.
    pub sum: f32,
    /// `sum_v exp(z_v - max) z_v`.
    pub weighted: f32,
}

impl Online {
    pub const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0, weighted: 0.0 };

    pub fn lse(self) -> f32 {
        self.max + self.sum.ln()
    }

    /// `H(p) = lse - E_p[z]`.
    pub fn entropy(self) -> f32 {
        (self.lse() - self.weighted / self.sum).max(0.0)
    }
}

/// Adds a tile of logits to a token's online softmax.
pub(in crate::ops) struct Absorb<'a> {
    pub logits: &'a [f32],
    pub state: Online,
}

impl Kernel for Absorb<'_> {
    type Output = Online;

    #[inline(always)]
    fn run<S: Simd>(self) -> Online {
        let Self { logits, state } = self;
        let whole = logits.len() / S::LANES * S::LANES;
        // SAFETY: whole registers within `logits`; the rest is handled by scalars.
        unsafe {
            let mut highest = S::splat(f32::NEG_INFINITY);
            for j in (0..whole).step_by(S::LANES) {
                highest = S::max(highest, S::load(logits.as_ptr().add(j)));
            }
            let max = logits[whole..].iter().fold(S::max_lane(highest).max(state.max), |a, &b| a.max(b));
            let (mut sum, mut weighted) = (S::zero(), S::zero());
            for j in (0..whole).step_by(S::LANES) {
                let z = S::load(logits.as_ptr().add(j));
                let e = S::exp(S::sub(z, S::splat(max)));
                sum = S::add(sum, e);
                weighted = S::fma(e, z, weighted);
            }
            let correction = (state.max - max).exp();
            let (mut sum, mut weighted) = (S::sum(sum), S::sum(weighted));
            for &z in &logits[whole..] {
                let e = (z - max).exp();
                sum += e;
                weighted += e * z;
            }
            Online { max, sum: state.sum * correction + sum, weighted: state.weighted * correction + weighted }
        }
    }
}

/// Tile `[start, end)` of `0..vocab`, in order.
pub(in crate::ops) fn vocabulary_tiles(vocab: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..vocab).step_by(VOCABULARY_TILE).map(move |start| (start, (start + VOCABULARY_TILE).min(vocab)))
}

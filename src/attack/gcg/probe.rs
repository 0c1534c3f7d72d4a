//! Probe sampling (Zhao et al. 2024, "Accelerating Greedy Coordinate Gradient and General Prompt Optimization via Probe
//! Sampling", arXiv 2403.01251): a smaller draft model scores every candidate, the attacked model only a random probe set
//! and those that the draft likes best. The better both agree on the probe set, the fewer of those.

use super::Behaviour;
use crate::model::Transformer;
use crate::ops::Ops;
use crate::rng::Philox;

/// The smaller model, and how much it is trusted.
pub struct Draft<'a, D: Ops> {
    pub model: &'a Transformer<D>,
    /// The search's behaviours in the draft's own template and tokens, in the same order.
    pub behaviours: &'a [Behaviour],
    /// Candidates for each one in the probe set (the paper: 16).
    pub factor: usize,
    /// R of the paper (8): at no agreement a share of 1 / R of the candidates is kept.
    pub reduction: usize,
}

impl<D: Ops> Draft<'_, D> {
    /// Indices of the probe set, ascending: at least 2 of `candidates`, so that there is an order to agree on.
    pub(super) fn probe(&self, candidates: usize, draws: &mut Philox) -> Vec<usize> {
        let count = (candidates / self.factor).max(2).min(candidates);
        let mut order: Vec<usize> = (0..candidates).collect();
        for i in 0..count {
            order.swap(i, i + draws.below(candidates - i));
        }
        order.truncate(count);
        order.sort_unstable();
        order
    }

    /// The candidates with the lowest draft losses, ascending indices: `(1 - agreement) candidates / R` of them, at
    /// least one.
    pub(super) fn kept(&self, draft_losses: &[f64], agreement: f64) -> Vec<usize> {
        let count = ((1.0 - agreement) * draft_losses.len() as f64 / self.reduction as f64) as usize;
        let mut order: Vec<usize> = (0..draft_losses.len()).collect();
        order.sort_by(|&a, &b| draft_losses[a].total_cmp(&draft_losses[b]));
        order.truncate(count.max(1));
        order.sort_unstable();
        order
    }
}

/// How far two models order the same candidates alike, from 0 (opposite) to 1: `(1 + rho) / 2` of Spearman's rank
/// correlation, which without ties is the paper's `1 - 3 sum d^2 / (n (n^2 - 1))`. Where one of them sees no differences
/// it agrees with nothing: 0.
pub fn agreement(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let middle = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(x, y)| (x - middle) * (y - middle)).sum() };
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    if scale == 0.0 { 0.0 } else { ((1.0 + product(&a, &b) / scale) / 2.0).clamp(0.0, 1.0) }
}

/// Ranks from 0; equal values share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for tied in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let mean = first as f64 + (tied.len() as f64 - 1.0) / 2.0;
        tied.iter().for_each(|&i| ranks[i] = mean);
        first += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_spearmans() {
        let up = [1.0, 2.0, 5.0, 9.0];
        assert_eq!(agreement(&up, &[0.1, 0.2, 0.3, 7.0]), 1.0);
        assert_eq!(agreement(&up, &[4.0, 3.0, 2.0, 1.0]), 0.0);
        assert_eq!(agreement(&up, &[2.0; 4]), 0.0);
        // The paper's formula: ranks differ by 1, 1, 0, 0.
        assert!((agreement(&up, &[2.0, 1.0, 5.0, 9.0]) - (1.0 - 3.0 * 2.0 / (4.0 * 15.0))).abs() < 1e-12);
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 0.0]), [2.5, 1.0, 2.5, 0.0]);
    }
}

//! Cross-entropy over a linear unembedding in f64, and its gradients, with all logits in memory.

use super::attention::Gradient;
use crate::ops::linear_ce::IGNORE;

/// Logits of some tokens, `[tokens, vocab]`.
pub struct Logits {
    pub vocab: usize,
    /// After the softcap.
    pub z: Vec<f64>,
    /// The softcap's slope at each, or 1.
    pub slope: Vec<f64>,
    /// A token's `max_v sum_k |x_k w_vk|`: a logit's rounding error in f32 is a few eps of it.
    pub magnitude: Vec<f64>,
}

impl Logits {
    pub fn new(size: usize, hidden: &[f64], w: &[f64], softcap: Option<f32>) -> Self {
        let vocab = w.len() / size;
        let mut logits = Self { vocab, z: Vec::new(), slope: Vec::new(), magnitude: Vec::new() };
        for x in hidden.chunks_exact(size) {
            let mut magnitude = 0.0_f64;
            for w in w.chunks_exact(size) {
                let terms = || x.iter().zip(w).map(|(x, w)| x * w);
                magnitude = magnitude.max(terms().map(f64::abs).sum());
                let z: f64 = terms().sum();
                let (z, slope) = match softcap.map(f64::from) {
                    Some(cap) => (cap * (z / cap).tanh(), 1.0 / (z / cap).cosh().powi(2)),
                    None => (z, 1.0),
                };
                logits.z.push(z);
                logits.slope.push(slope);
            }
            logits.magnitude.push(magnitude);
        }
        logits
    }

    pub fn tokens(&self) -> usize {
        self.magnitude.len()
    }

    pub fn row(&self, token: usize) -> &[f64] {
        &self.z[token * self.vocab..][..self.vocab]
    }

    /// `log sum_v exp z_v`.
    pub fn lse(&self, token: usize) -> f64 {
        let row = self.row(token);
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + row.iter().map(|z| (z - max).exp()).sum::<f64>().ln()
    }

    /// `log p_v` of every v.
    pub fn log_probabilities(&self, token: usize) -> Vec<f64> {
        let lse = self.lse(token);
        self.row(token).iter().map(|z| z - lse).collect()
    }

    /// `-sum_v p_v log p_v`.
    pub fn entropy(&self, token: usize) -> f64 {
        -self.log_probabilities(token).iter().map(|l| if *l > -700.0 { l.exp() * l } else { 0.0 }).sum::<f64>()
    }

    /// Entries larger than `z_label + margin`.
    pub fn rank(&self, token: usize, label: u32, margin: f64) -> usize {
        let row = self.row(token);
        row.iter().filter(|&&z| z > row[label as usize] + margin).count()
    }

    /// The index of the largest logit, the first of equals.
    pub fn argmax(&self, token: usize) -> usize {
        let row = self.row(token);
        (0..row.len()).reduce(|best, v| if row[v] > row[best] { v } else { best }).expect("a vocabulary")
    }
}

/// Gradients of `sum_t coefficient_t (-log p_label)` with respect to hidden states and unembedding.
pub fn backward(
    size: usize,
    hidden: &[f64],
    w: &[f64],
    softcap: Option<f32>,
    labels: &[u32],
    coefficient: &[f64],
) -> [Gradient; 2] {
    let logits = Logits::new(size, hidden, w, softcap);
    let [mut dx, mut dw] =
        [hidden.len(), w.len()].map(|len| Gradient { value: vec![0.0; len], absolute: vec![0.0; len] });
    for (t, (&label, &coefficient)) in labels.iter().zip(coefficient).enumerate() {
        if label == IGNORE {
            continue;
        }
        for (v, log_probability) in logits.log_probabilities(t).into_iter().enumerate() {
            let hit = if v == label as usize { 1.0 } else { 0.0 };
            let dz = coefficient * (log_probability.exp() - hit) * logits.slope[t * logits.vocab + v];
            let dz_absolute = coefficient.abs() * (log_probability.exp() + hit);
            for i in 0..size {
                let (ti, vi) = (t * size + i, v * size + i);
                dx.value[ti] += dz * w[vi];
                dx.absolute[ti] += dz_absolute * w[vi].abs();
                dw.value[vi] += dz * hidden[ti];
                dw.absolute[vi] += dz_absolute * hidden[ti].abs();
            }
        }
    }
    [dx, dw]
}

//! KL divergence of two models' next-token distributions in f64, straight from its definition, and its gradients.

use super::attention::Gradient;
use super::linear_ce::Logits;

/// `sum_v p_v (log p_v - log q_v)` of one token.
pub fn kl(p: &Logits, q: &Logits, token: usize) -> f64 {
    let (log_p, log_q) = (p.log_probabilities(token), q.log_probabilities(token));
    mean(&log_p, |v| log_p[v] - log_q[v])
}

/// `sum_v p_v f(v)`. p_v below e^-700 is 0 in f64: such terms are below any rounding.
fn mean(log_p: &[f64], f: impl Fn(usize) -> f64) -> f64 {
    log_p.iter().enumerate().map(|(v, log_p)| if *log_p > -700.0 { log_p.exp() * f(v) } else { 0.0 }).sum()
}

/// One side's inputs and their logits.
pub struct Side {
    pub size: usize,
    pub hidden: Vec<f64>,
    pub w: Vec<f64>,
    pub logits: Logits,
}

impl Side {
    pub fn new(size: usize, hidden: Vec<f64>, w: Vec<f64>, softcap: Option<f32>) -> Self {
        let logits = Logits::new(size, &hidden, &w, softcap);
        Self { size, hidden, w, logits }
    }

    /// Gradients of hidden states and unembedding from `dz(token)`: each logit's gradient, before the softcap, and the
    /// absolute values of the terms it is made of.
    fn gradients(&self, dz: impl Fn(usize) -> Vec<[f64; 2]>) -> [Gradient; 2] {
        let Self { size, hidden, w, logits } = self;
        let [mut dx, mut dw] =
            [hidden.len(), w.len()].map(|len| Gradient { value: vec![0.0; len], absolute: vec![0.0; len] });
        for t in 0..logits.tokens() {
            for (v, [dz, absolute]) in dz(t).into_iter().enumerate() {
                let dz = dz * logits.slope[t * logits.vocab + v];
                for i in 0..*size {
                    let (ti, vi) = (t * size + i, v * size + i);
                    dx.value[ti] += dz * w[vi];
                    dx.absolute[ti] += absolute * w[vi].abs();
                    dw.value[vi] += dz * hidden[ti];
                    dw.absolute[vi] += absolute * hidden[ti].abs();
                }
            }
        }
        [dx, dw]
    }
}

/// Gradients of `sum_t coefficient_t KL_t`: of p's hidden states and unembedding, then of q's.
pub fn backward(p: &Side, q: &Side, coefficient: &[f64]) -> [[Gradient; 2]; 2] {
    let logs = |t: usize| (p.logits.log_probabilities(t), q.logits.log_probabilities(t));
    let dp = |t: usize| {
        let (log_p, log_q) = logs(t);
        let terms = |v: usize| log_p[v].abs() + log_q[v].abs();
        let (kl, mean_terms) = (mean(&log_p, |v| log_p[v] - log_q[v]), mean(&log_p, terms));
        let dz = |v: usize| {
            let weight = coefficient[t] * log_p[v].exp();
            [weight * (log_p[v] - log_q[v] - kl), weight.abs() * (1.0 + terms(v) + mean_terms)]
        };
        (0..log_p.len()).map(dz).collect()
    };
    let dq = |t: usize| {
        let (log_p, log_q) = logs(t);
        let dz = |v: usize| {
            let (p, q) = (log_p[v].exp(), log_q[v].exp());
            [coefficient[t] * (q - p), coefficient[t].abs() * (p + q)]
        };
        (0..log_p.len()).map(dz).collect()
    };
    [p.gradients(dp), q.gradients(dq)]
}

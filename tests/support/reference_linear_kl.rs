//! KL divergence of two models' next-token distributions in f64, straight from its definition.

use super::reference_linear_ce::Logits;

/// `sum_v p_v (log p_v - log q_v)` of one token.
pub fn kl(p: &Logits, q: &Logits, token: usize) -> f64 {
    let (log_p, log_q) = (p.log_probabilities(token), q.log_probabilities(token));
    // p_v below e^-700 is 0 in f64: such terms are below any rounding.
    log_p.iter().zip(&log_q).map(|(lp, lq)| if *lp > -700.0 { lp.exp() * (lp - lq) } else { 0.0 }).sum()
}

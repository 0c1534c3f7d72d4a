//! Causal attention and its gradients in f64: one loop over sequences, heads, queries and keys, scores built whole.

use crate::ops::attention::AttentionParams;

/// Outputs of [`forward`].
pub struct Forward {
    pub out: Vec<f64>,
    pub lse: Vec<f64>,
    /// `max_ij |scale| sum_d |q_id k_jd|`: a score's rounding error in f32 is a few eps of it.
    pub magnitude: f64,
}

/// A gradient, and the same sums over the absolute values of their terms: what rounding errors are relative to where
/// the terms cancel.
pub struct Gradient {
    pub value: Vec<f64>,
    pub absolute: Vec<f64>,
}

/// The keys that query `i` sees.
fn visible(params: &AttentionParams, i: usize) -> std::ops::RangeInclusive<usize> {
    params.window.map_or(0, |window| (i + 1).saturating_sub(window))..=i
}

/// One query of one head: its place, its scores before the softcap, and its probabilities.
struct Query {
    /// Offset of its `head_dim` values in q.
    at: usize,
    /// Its row and head, as an offset in lse.
    row: usize,
    keys: Vec<Key>,
    lse: f64,
    magnitude: f64,
}

struct Key {
    /// Offset of its `head_dim` values in k and v.
    at: usize,
    /// `1 - (s / c)^2`, the softcap's slope, or 1.
    slope: f64,
    probability: f64,
}

/// Calls `visit` on every query of every head of every sequence.
fn for_each_query(params: &AttentionParams, lengths: &[usize], q: &[f64], k: &[f64], mut visit: impl FnMut(Query)) {
    let depth = params.head_dim;
    let group = params.num_heads / params.num_key_value_heads;
    let mut base = 0;
    for &length in lengths {
        for i in 0..length {
            for head in 0..params.num_heads {
                let row = (base + i) * params.num_heads + head;
                let query = &q[row * depth..][..depth];
                let mut magnitude = 0.0_f64;
                let mut scores = Vec::new();
                let mut keys = Vec::new();
                for j in visible(params, i) {
                    let at = ((base + j) * params.num_key_value_heads + head / group) * depth;
                    let terms = || query.iter().zip(&k[at..at + depth]).map(|(a, b)| f64::from(params.scale) * a * b);
                    magnitude = magnitude.max(terms().map(f64::abs).sum());
                    let score: f64 = terms().sum();
                    let (score, slope) = match params.softcap.map(f64::from) {
                        Some(cap) => (cap * (score / cap).tanh(), 1.0 / (score / cap).cosh().powi(2)),
                        None => (score, 1.0),
                    };
                    scores.push(score);
                    keys.push(Key { at, slope, probability: 0.0 });
                }
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let lse = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
                for (key, score) in keys.iter_mut().zip(scores) {
                    key.probability = (score - lse).exp();
                }
                visit(Query { at: row * depth, row, keys, lse, magnitude });
            }
        }
        base += length;
    }
}

/// `o_i = sum_j softmax_j(softcap(scale q_i . k_j)) v_j`.
pub fn forward(params: &AttentionParams, lengths: &[usize], q: &[f64], k: &[f64], v: &[f64]) -> Forward {
    let depth = params.head_dim;
    let mut result = Forward { out: vec![0.0; q.len()], lse: vec![0.0; q.len() / depth], magnitude: 0.0 };
    for_each_query(params, lengths, q, k, |query| {
        result.lse[query.row] = query.lse;
        result.magnitude = result.magnitude.max(query.magnitude);
        for key in &query.keys {
            for d in 0..depth {
                result.out[query.at + d] += key.probability * v[key.at + d];
            }
        }
    });
    result
}

/// Gradients of `sum dout . out` with respect to q, k and v.
pub fn backward(
    params: &AttentionParams,
    lengths: &[usize],
    q: &[f64],
    k: &[f64],
    v: &[f64],
    dout: &[f64],
) -> [Gradient; 3] {
    let (depth, scale) = (params.head_dim, f64::from(params.scale));
    let [mut dq, mut dk, mut dv] =
        [q.len(), k.len(), v.len()].map(|len| Gradient { value: vec![0.0; len], absolute: vec![0.0; len] });
    for_each_query(params, lengths, q, k, |query| {
        // dP_j = dout . v_j; D = sum_j P_j dP_j; ds_j = P_j (dP_j - D)
        let terms = |key: &Key| (0..depth).map(|d| dout[query.at + d] * v[key.at + d]).collect::<Vec<_>>();
        let dp: Vec<f64> = query.keys.iter().map(|key| terms(key).iter().sum()).collect();
        let dp_absolute: Vec<f64> = query.keys.iter().map(|key| terms(key).into_iter().map(f64::abs).sum()).collect();
        let mean = |dp: &[f64]| query.keys.iter().zip(dp).map(|(key, dp)| key.probability * dp).sum::<f64>();
        let (mean, mean_absolute) = (mean(&dp), mean(&dp_absolute));
        for (key, (dp, dp_absolute)) in query.keys.iter().zip(dp.iter().zip(&dp_absolute)) {
            let ds = scale * key.probability * key.slope * (dp - mean);
            let ds_absolute = (scale * key.probability).abs() * (dp_absolute + mean_absolute);
            for d in 0..depth {
                let (i, j) = (query.at + d, key.at + d);
                dq.value[i] += ds * k[j];
                dq.absolute[i] += ds_absolute * k[j].abs();
                dk.value[j] += ds * q[i];
                dk.absolute[j] += ds_absolute * q[i].abs();
                dv.value[j] += key.probability * dout[i];
                dv.absolute[j] += key.probability * dout[i].abs();
            }
        }
    });
    [dq, dk, dv]
}

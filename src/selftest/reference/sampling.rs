//! Sampling in f64: the filters of transformers' `generate` by their definitions, and the distribution they leave.

use crate::ops::sampling::SamplingParams;

/// What a row's filters leave: each token's probability, 0 where it is filtered out.
pub struct Distribution {
    pub probability: Vec<f64>,
    /// How far the nearest decision of a filter was from falling the other way, as a difference of logits or
    /// probabilities: below rounding, f32 may decide otherwise. 0 is an exact tie, which f32 sees too.
    pub margin: f64,
}

impl Distribution {
    /// `logits` as given in f32; temperature above 0.
    pub fn new(logits: &[f32], history: &[u32], params: &SamplingParams) -> Self {
        let mut z: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
        let mut margin = f64::INFINITY;
        penalise(&mut z, history, params);
        for z in &mut z {
            // Adding 0 makes -0 equal to 0 in the order below.
            *z = *z / f64::from(params.temperature) + 0.0;
        }
        let mut kept: Vec<usize> = (0..z.len()).collect();
        // Most likely first; of equals, the higher id first, because the lower one is the first to be filtered out.
        kept.sort_by(|&a, &b| z[b].total_cmp(&z[a]).then(b.cmp(&a)));
        if params.top_k > 0 && params.top_k < z.len() {
            let threshold = z[kept[params.top_k - 1]];
            kept.retain(|&v| z[v] >= threshold);
            margin = z.iter().map(|z| (z - threshold).abs()).filter(|&d| d > 0.0).fold(margin, f64::min);
        }
        let max = z[kept[0]];
        let total: f64 = kept.iter().map(|&v| (z[v] - max).exp()).sum();
        if params.top_p < 1.0 {
            // From the least likely up, while what is removed sums to at most 1 - p; never the most likely.
            let mut removed = 0.0;
            while kept.len() > 1 {
                let probability = (z[kept[kept.len() - 1]] - max).exp() / total;
                let over = removed + probability - (1.0 - f64::from(params.top_p));
                margin = margin.min(over.abs());
                if over > 0.0 {
                    break;
                }
                removed += probability;
                kept.pop();
            }
        }
        let mut probability = vec![0.0; z.len()];
        let total: f64 = kept.iter().map(|&v| (z[v] - max).exp()).sum();
        for v in kept {
            probability[v] = (z[v] - max).exp() / total;
        }
        Self { probability, margin }
    }
}

/// Divides positive and multiplies negative logits of the tokens in `history`, each once.
pub fn penalise(z: &mut [f64], history: &[u32], params: &SamplingParams) {
    for (v, z) in z.iter_mut().enumerate() {
        if history.contains(&(v as u32)) {
            let penalty = f64::from(params.repetition_penalty);
            *z = if *z < 0.0 { *z * penalty } else { *z / penalty };
        }
    }
}

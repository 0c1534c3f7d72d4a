//! The filters themselves, on one row of logits in host memory.

use super::SamplingParams;
use crate::device::cpu::scratch::with_scratch;

/// Applies repetition penalty, temperature, top-k and top-p to a row of logits; what is filtered out becomes `-inf`.
///
/// With `temperature` 0 only the repetition penalty applies: the caller takes the argmax.
pub fn apply_filters(logits: &mut [f32], history: &[u32], params: &SamplingParams) {
    if params.repetition_penalty != 1.0 {
        apply_repetition_penalty(logits, history, params.repetition_penalty);
    }
    if params.temperature == 0.0 {
        return;
    }
    if params.temperature != 1.0 {
        for z in logits.iter_mut() {
            *z /= params.temperature;
        }
    }
    if params.top_k > 0 && params.top_k < logits.len() {
        keep_top_k(logits, params.top_k);
    }
    if params.top_p < 1.0 {
        keep_top_p(logits, params.top_p);
    }
}

/// CTRL's penalty (Keskar et al. 2019), once a distinct token.
fn apply_repetition_penalty(logits: &mut [f32], history: &[u32], penalty: f32) {
    // One bit a token of the vocabulary: its size does not grow with the history.
    with_scratch(logits.len().div_ceil(32), |seen| {
        let seen: &mut [u32] = bytemuck::cast_slice_mut(seen);
        seen.fill(0);
        for &token in history {
            let Some(z) = logits.get_mut(token as usize) else { continue };
            let (word, bit) = (&mut seen[token as usize / 32], 1 << (token % 32));
            if *word & bit == 0 {
                *word |= bit;
                *z = if *z < 0.0 { *z * penalty } else { *z / penalty };
            }
        }
    });
}

fn keep_top_k(logits: &mut [f32], k: usize) {
    let threshold = with_scratch(logits.len(), |sorted| {
        sorted.copy_from_slice(logits);
        *sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
    });
    for z in logits.iter_mut() {
        if *z < threshold {
            *z = f32::NEG_INFINITY;
        }
    }
}

/// Removes the least likely tokens while their summed probability is at most `1 - p`; the most likely always stays.
fn keep_top_p(logits: &mut [f32], p: f32) {
    with_scratch(2 * logits.len(), |scratch| {
        let (order, weights) = scratch.split_at_mut(logits.len());
        let order: &mut [u32] = bytemuck::cast_slice_mut(order);
        let mut count = 0;
        for (i, &z) in logits.iter().enumerate() {
            if z > f32::NEG_INFINITY {
                order[count] = i as u32;
                count += 1;
            }
        }
        let (order, weights) = (&mut order[..count], &mut weights[..count]);
        // Of equal logits the lower ids go first; adding 0 makes -0 equal to 0.
        order.sort_unstable_by(|&a, &b| {
            (logits[a as usize] + 0.0).total_cmp(&(logits[b as usize] + 0.0)).then(a.cmp(&b))
        });
        let Some(&last) = order.last() else { return };
        let max = logits[last as usize];
        for (weight, &i) in weights.iter_mut().zip(&*order) {
            *weight = (logits[i as usize] - max).exp();
        }
        let total: f32 = weights.iter().sum();
        let mut cumulative = 0.0_f32;
        for (&i, &weight) in order[..count - 1].iter().zip(&*weights) {
            cumulative += weight / total;
            if cumulative > 1.0 - p {
                break;
            }
            logits[i as usize] = f32::NEG_INFINITY;
        }
    });
}

/// The index of the largest logit, the first of equals.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, &z) in logits.iter().enumerate() {
        if z > logits[best] {
            best = i;
        }
    }
    best
}

/// Draws from `softmax(logits)` by inverse transform in token order, with `uniform` in `[0, 1)`; the argmax where
/// `params` is greedy.
pub fn draw(logits: &[f32], params: &SamplingParams, uniform: f32) -> u32 {
    let best = argmax(logits);
    if params.temperature == 0.0 {
        return best as u32;
    }
    let max = logits[best];
    let weight = |z: f32| f64::from((z - max).exp());
    let total: f64 = logits.iter().map(|&z| weight(z)).sum();
    let mut rest = f64::from(uniform) * total;
    for (i, &z) in logits.iter().enumerate() {
        rest -= weight(z);
        if rest < 0.0 {
            return i as u32;
        }
    }
    // Rounding left a sliver after the last token: the last one that has any weight.
    logits.iter().rposition(|&z| weight(z) > 0.0).unwrap_or(best) as u32
}

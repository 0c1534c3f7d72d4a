//! Candidates of a step: one token swapped for one of those that the gradient likes best there.

use crate::rng::Philox;
use rayon::prelude::*;
use std::cmp::Ordering;

/// The `count` allowed tokens with the smallest gradient at each position, best first; of equal ones the lower ids.
pub fn best_tokens(gradient: &[f32], vocab_size: usize, allowed: &[u32], count: usize) -> Vec<Vec<u32>> {
    let count = count.min(allowed.len());
    let position = |gradient: &[f32]| {
        let order =
            |a: &u32, b: &u32| -> Ordering { gradient[*a as usize].total_cmp(&gradient[*b as usize]).then(a.cmp(b)) };
        let mut best = allowed.to_vec();
        if count < best.len() {
            best.select_nth_unstable_by(count, order);
            best.truncate(count);
        }
        best.sort_unstable_by(order);
        best
    };
    gradient.par_chunks(vocab_size).map(position).collect()
}

/// `count` copies of `suffix`, each with one token swapped: the positions take turns in equal shares, as in Zou et al.'s
/// own program, and the token is drawn from those that are best there. What would be `suffix` again, or was drawn
/// already, is left out.
pub fn swapped(suffix: &[u32], best: &[Vec<u32>], count: usize, draws: &mut Philox) -> Vec<Vec<u32>> {
    let mut candidates: Vec<(usize, u32)> = Vec::with_capacity(count);
    for i in 0..count {
        let position = i * suffix.len() / count;
        let swap = (position, *draws.choose(&best[position]));
        if swap.1 != suffix[position] && !candidates.contains(&swap) {
            candidates.push(swap);
        }
    }
    let swap = |(position, token): (usize, u32)| {
        let mut candidate = suffix.to_vec();
        candidate[position] = token;
        candidate
    };
    candidates.into_iter().map(swap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_tokens_are_allowed_and_in_order() {
        let gradient = [0.0, -3.0, 1.0, -3.0, -9.0, 2.0, /* position 2 */ 5.0, 4.0, 3.0, 2.0, 1.0, 0.0];
        let best = best_tokens(&gradient, 6, &[0, 1, 2, 3, 5], 3);
        assert_eq!(best, [[1, 3, 0], [5, 3, 2]]);
        assert_eq!(best_tokens(&gradient, 6, &[2, 0], 9), [[0, 2], [2, 0]]);
    }

    #[test]
    fn one_token_is_swapped_and_positions_take_turns() {
        let (suffix, best) = ([7, 7, 7, 7], vec![(0..100).collect::<Vec<u32>>(); 4]);
        let candidates = swapped(&suffix, &best, 64, &mut Philox::new(1, 2));
        assert!(candidates.len() > 50, "few of 100 tokens are drawn twice");
        let mut counts = [0; 4];
        for (i, candidate) in candidates.iter().enumerate() {
            let swaps: Vec<usize> = (0..4).filter(|&at| candidate[at] != suffix[at]).collect();
            assert_eq!(swaps.len(), 1, "{candidate:?}");
            assert!(!candidates[..i].contains(candidate));
            counts[swaps[0]] += 1;
        }
        assert!(counts.iter().all(|&count| (12..=16).contains(&count)), "{counts:?}");
    }
}

//! Deep prefill: harmful text of hundreds or thousands of tokens in the model's mouth (Any-Depth Alignment, Zhang et al.
//! 2025, arXiv 2510.18081).
//!
//! No answer of a test set is that long. Other harmful answers stand before the head of the one that is asked for, so that
//! the prefill ends alike at every depth, and what is left to say is the same.

use super::{Branch, Case, respond::Metrics};

/// Tokens of its own answer that end a prefill; of a shorter answer two thirds.
pub const HEAD: usize = 20;

/// The lengths of prefills: doubling from [`HEAD`], and `longest` itself; none if that is shorter.
pub fn depths(longest: usize) -> Vec<usize> {
    let mut depths: Vec<usize> =
        std::iter::successors(Some(HEAD), |depth| depth.checked_mul(2)).take_while(|&depth| depth < longest).collect();
    depths.extend((longest >= HEAD).then_some(longest));
    depths
}

/// `length` tokens: the end of a text that ends with the head of the case's own answer, and before it holds the answers of
/// the cases that follow it in turn, round and round, of other categories only where there are several.
pub fn text(cases: &[Case], of: usize, length: usize) -> Vec<u32> {
    let case = &cases[of];
    let own = &case.harmful[..HEAD.min(case.harmful.len() * 2 / 3)];
    let fits = |other: &&Case| !other.harmful.is_empty() && other.category != case.category;
    let mixed = cases.iter().any(|other| fits(&other));
    let around = cases.iter().cycle().skip(of + 1).take(cases.len());
    let answers: Vec<&Case> = around.filter(|other| !mixed || fits(other)).collect();
    let mut filler = Vec::new();
    for other in answers.iter().cycle() {
        if filler.len() + own.len() >= length {
            break;
        }
        // Backwards: the text is cut at its beginning, and an answer ends where the own one begins.
        filler.extend(other.harmful.iter().rev());
    }
    filler.truncate(length.saturating_sub(own.len()));
    filler.into_iter().rev().chain(own.iter().copied()).skip(own.len().saturating_sub(length)).collect()
}

/// The first `count` cases that have an answer, at every depth: `k` is the whole prefill's length.
pub fn branches<'a>(experiment: &'static str, cases: &'a [Case], count: usize, depths: &[usize]) -> Vec<Branch<'a>> {
    let asked: Vec<usize> = (0..cases.len()).filter(|&i| cases[i].harmful.len() > 1).take(count).collect();
    let mut branches = Vec::new();
    for &k in depths {
        branches.extend(asked.iter().map(|&i| Branch {
            k: Some(k),
            prefill: text(cases, i, k),
            metrics: Metrics::HarmAndRefusal,
            ..Branch::plain(experiment, "prefill", &cases[i])
        }));
    }
    branches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn case(id: usize, category: &str, harmful: Vec<u32>) -> Case {
        Case {
            id: id.to_string(),
            key: id as u64,
            category: category.into(),
            prompt: String::new(),
            prompt_ids: [vec![1], vec![1]],
            suffixed: Arc::new(|_| Ok([vec![1], vec![1]])),
            harmful,
            utility: None,
            max_new_tokens: None,
        }
    }

    #[test]
    fn depths_double_up_to_the_longest() {
        assert_eq!(depths(914), [20, 40, 80, 160, 320, 640, 914]);
        assert_eq!(depths(40), [20, 40]);
        assert_eq!(depths(20), [20]);
        assert!(depths(19).is_empty());
    }

    #[test]
    fn other_answers_come_whole_before_the_own_head() {
        let answer = |id: u32| (100 * id..100 * id + 30).collect::<Vec<u32>>();
        let cases: Vec<Case> =
            [(1, "a"), (2, "b"), (3, "a"), (4, "b")].map(|(id, name)| case(id, name, answer(id as u32))).into();
        let own: Vec<u32> = (100..120).collect();
        assert_eq!(text(&cases, 0, 20), own);
        // Of the other category, the next before the own one, then round and round.
        let expected = [&answer(2)[20..], &answer(4), &answer(2), &own].concat();
        assert_eq!(text(&cases, 0, 90), expected);
        assert_eq!(branches("deep", &cases, 3, &[20, 640]).len(), 6);
    }

    proptest! {
        /// Any length is met exactly, and the text ends with the own head.
        #[test]
        fn lengths(lengths in prop::collection::vec(2_usize..70, 1..6), length in 1_usize..300, of in 0_usize..6) {
            let answer = |(i, &length): (usize, &usize)| (0..length as u32).map(|t| 1000 * (i as u32 + 1) + t).collect();
            let cases: Vec<Case> =
                lengths.iter().enumerate().map(|of| case(of.0, ["x", "y"][of.0 % 2], answer(of))).collect();
            let of = of % cases.len();
            let text = text(&cases, of, length);
            prop_assert_eq!(text.len(), length);
            let own = &cases[of].harmful[..HEAD.min(lengths[of] * 2 / 3)];
            let shown = own.len().min(length);
            prop_assert_eq!(&text[length - shown..], &own[own.len() - shown..]);
        }
    }
}

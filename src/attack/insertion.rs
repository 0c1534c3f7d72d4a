//! Random insertion (beyond the paper; 2606.04168): a short span from the middle of a harmful answer, put into a refusal.
//! A model that is safe only because it began with a refusal goes on with the span.

use super::{Branch, Case};
use crate::rng::Philox;

/// Every case with `refusal` and then a span of h of each length: where in h it begins is drawn from the case's own
/// random numbers. Cases whose h is not twice as long are left out.
pub fn branches<'a>(
    experiment: &'static str,
    cases: impl IntoIterator<Item = &'a Case> + Clone,
    refusal: &[u32],
    lengths: &[usize],
    seed: u64,
) -> Vec<Branch<'a>> {
    let mut branches = Vec::new();
    for &length in lengths {
        for case in cases.clone().into_iter().filter(|case| case.harmful.len() >= 2 * length) {
            let begin = Philox::new(seed, case.key).below(case.harmful.len() - length);
            branches.push(Branch {
                k: Some(length),
                prefill: [refusal, &case.harmful[begin..begin + length]].concat(),
                ..Branch::plain(experiment, "insertion", case)
            });
        }
    }
    branches
}

//! A prefill aimed at recovery (beyond the paper): the head of a harmful answer, then the refusal that a recovered model
//! would give, then words that take it back ("but here is how"). A model that was only taught to come back to a refusal
//! has already done what it learned.

use super::{Branch, Case};

/// Every case at every depth: h_<=k, `refusal`, `bait`. Cases whose h is not half as long again as k are left out.
pub fn branches<'a>(
    experiment: &'static str,
    cases: impl IntoIterator<Item = &'a Case> + Clone,
    refusal: &[u32],
    bait: &[u32],
    depths: &[usize],
) -> Vec<Branch<'a>> {
    let mut branches = Vec::new();
    for &k in depths {
        branches.extend(cases.clone().into_iter().filter(|case| case.harmful.len() >= k * 3 / 2).map(|case| Branch {
            k: Some(k),
            prefill: [&case.harmful[..k], refusal, bait].concat(),
            ..Branch::plain(experiment, "bait", case)
        }));
    }
    branches
}

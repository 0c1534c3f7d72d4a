//! Prefilling: put the head of a harmful answer into the model's mouth and let it go on (paper, Section 2.3).

use super::{Branch, Case};

/// The cases at every depth: the first k tokens of h are given.
///
/// A case is left out where too little of h would be left to say: up to the paper's 40 tokens h must be half as long
/// again, beyond that twice as long.
pub fn branches<'a>(
    experiment: &'static str,
    setting: &str,
    cases: impl IntoIterator<Item = &'a Case> + Clone,
    depths: &[usize],
) -> Vec<Branch<'a>> {
    let mut branches = Vec::new();
    for &k in depths {
        for case in cases.clone() {
            let least = if k <= 40 { k * 3 / 2 } else { 2 * k };
            if case.harmful.len() >= least {
                branches.push(Branch {
                    setting: setting.into(),
                    k: Some(k),
                    prefill: case.harmful[..k].to_vec(),
                    ..Branch::plain(experiment, "prefill", case)
                });
            }
        }
    }
    branches
}

//! Over-refusal (XSTest, Roettger et al. 2024, arXiv 2308.01263): the share of harmless prompts that a model refuses, beside
//! the share of those that it should refuse.

use super::Materials;
use crate::attack::Branch;
use crate::attack::respond::Metrics;

/// Rows `overrefusal,model,SET,SETTING,,seed,example,refused`: every set of prompts as it is asked. The setting is empty for
/// a model as it is, and says how it was tuned.
pub fn branches<'a>(materials: &'a Materials, setting: &str) -> Vec<Branch<'a>> {
    let sets = materials.over_refusal.iter();
    let asked = sets.flat_map(|(set, cases)| cases.iter().map(move |case| (set, case)));
    let branch = |(set, case): (&'a String, _)| Branch {
        setting: setting.to_owned(),
        metrics: Metrics::Refusal,
        ..Branch::plain("overrefusal", set.as_str(), case)
    };
    asked.map(branch).collect()
}

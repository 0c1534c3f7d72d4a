//! E3, Figure 2: the prefilling attack. The first k tokens of the harmful answer are given; does the model go on?
//! E6 asks the same before and after augmentation (Table 3).

use super::Materials;
use crate::attack::{Branch, prefill};

/// Rows `EXPERIMENT,model,prefill,SETTING,k,seed,example,harmful|harmful_own|new_tokens`; the setting is empty for the
/// plain prompts and names the longer answers that deep prefills need.
pub fn branches<'a>(experiment: &'static str, materials: &'a Materials, depths: &[usize]) -> Vec<Branch<'a>> {
    let shallow: Vec<usize> = depths.iter().copied().filter(|&k| k <= 40).collect();
    let mut branches = prefill::branches(experiment, "", &materials.cases, depths);
    branches.extend(prefill::branches(experiment, "", &materials.heldout, &shallow));
    for (setting, cases) in &materials.long {
        // Enough to draw the curve: its start, its middle and what only these answers reach.
        let deep: Vec<usize> = depths.iter().copied().filter(|&k| [0, 20, 40].contains(&k) || k > 40).collect();
        branches.extend(prefill::branches(experiment, setting, cases, &deep));
    }
    branches
}

/// E6 on other sets of prompts, each an attack of its own: no prefill. Rows `e6,model,NAME,,,seed,example,...`.
pub fn other_prompts(materials: &Materials) -> impl Iterator<Item = Branch<'_>> {
    materials.prompts.iter().flat_map(|(name, cases)| cases.iter().map(|case| Branch::plain("e6", name.as_str(), case)))
}

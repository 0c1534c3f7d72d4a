//! E1, Table 1: a refusal's first words, put into the mouth of a base model, make it refuse.

use super::Materials;
use crate::attack::Branch;

/// A prefix: its name in the table ("none", "I cannot", ...) and its tokens.
#[derive(Clone, Debug)]
pub struct Prefix {
    pub label: String,
    pub ids: Vec<u32>,
}

/// Every prefix before every case. Rows `e1,model,prefix,LABEL,,seed,example,harmful|harmful_own|new_tokens`.
pub fn branches(materials: &Materials) -> Vec<Branch<'_>> {
    let mut branches = Vec::new();
    for prefix in &materials.prefixes {
        branches.extend(materials.cases.iter().map(|case| Branch {
            setting: prefix.label.clone(),
            prefill: prefix.ids.clone(),
            ..Branch::plain("e1", "prefix", case)
        }));
    }
    branches
}

//! E1, Table 1: a refusal's first words, put into the mouth of a base model, make it refuse.

use super::{Lab, Subject};
use crate::Result;
use crate::attack::prefill::{self, Prefilled};
use crate::ops::Ops;
use crate::run::Row;

/// A prefix: its name in the table ("none", "I cannot", ...) and its tokens.
pub struct Prefix {
    pub label: String,
    pub ids: Vec<u32>,
}

/// Rows `e1,model,prefix,LABEL,,seed,example,harmful`. Judged as a whole only: what follows a refusal's first words is
/// no answer by itself.
pub fn run<D: Ops>(lab: &Lab<'_>, subject: &Subject<'_, D>, prefixes: &[Prefix]) -> Result<Vec<Row>> {
    let mut branches = Vec::new();
    for (setting, prefix) in prefixes.iter().enumerate() {
        branches.extend((0..lab.cases.len()).map(|case| Prefilled {
            case,
            prefill: prefix.ids.clone(),
            setting: setting as u16,
        }));
    }
    let outcomes = prefill::run(lab, subject, &branches, &format!("E1 {}", subject.name))?;
    let mut rows = Vec::new();
    for (branch, outcome) in branches.iter().zip(outcomes) {
        let label = &prefixes[branch.setting as usize].label;
        let harmful = f64::from(u8::from(outcome.verdict.harmful()));
        rows.push(lab.row("e1", subject.name, "prefix", label, None, branch.case, "harmful", harmful));
    }
    Ok(rows)
}

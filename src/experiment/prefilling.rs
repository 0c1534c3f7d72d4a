//! E3, Figure 2: the prefilling attack. The first k tokens of the harmful answer are given; does the model go on?

use super::{Case, Lab, Subject};
use crate::Result;
use crate::attack::prefill::{self, Prefilled};
use crate::ops::Ops;
use crate::run::Row;

/// Rows `e3,model,prefill,,k,seed,example,harmful|harmful_own|new_tokens`.
///
/// A case whose answer is shorter than 3/2 k tokens is left out at that k: too little would be left to say.
pub fn run<D: Ops>(lab: &Lab<'_>, subject: &Subject<'_, D>, depths: &[usize]) -> Result<Vec<Row>> {
    let mut branches = Vec::new();
    for &k in depths {
        for (case, Case { harmful, .. }) in lab.cases.iter().enumerate() {
            if harmful.len() >= k * 3 / 2 {
                branches.push(Prefilled { case, prefill: harmful[..k].to_vec(), setting: k as u16 });
            }
        }
    }
    let outcomes = prefill::run(lab, subject, &branches, &format!("E3 {}", subject.name))?;
    let mut rows = Vec::new();
    for (branch, outcome) in branches.iter().zip(outcomes) {
        let verdict = outcome.verdict;
        let metrics = [
            ("harmful", f64::from(u8::from(verdict.harmful()))),
            ("harmful_own", f64::from(u8::from(verdict.harmful_own()))),
            ("new_tokens", outcome.new_tokens as f64),
        ];
        let k = Some(branch.setting as usize);
        for (metric, value) in metrics {
            rows.push(lab.row("e3", subject.name, "prefill", "", k, branch.case, metric, value));
        }
    }
    Ok(rows)
}

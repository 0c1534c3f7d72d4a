//! Responses for reading: the report's drill-down, token by token with the KL against the base model.

use super::token_kl;
use crate::Result;
use crate::attack::{Branch, Lab, Outcome, Subject};
use crate::ops::Ops;
use crate::run::{Cost, Response};
use std::collections::HashMap;

/// Longer prefills are not for reading, tokens.
const LONGEST: usize = 160;

/// The first `shown` responses of every setting, but for those of the decoding exploit, which are too many, and those after the
/// deepest prefills. KL is measured where `base` is given: it is 0 for the base itself.
pub fn responses<D: Ops>(
    lab: &Lab<'_>,
    subject: &Subject<'_, D>,
    base: Option<&Subject<'_, D>>,
    branches: &[Branch<'_>],
    outcomes: &[Outcome],
    shown: usize,
) -> Result<(Vec<Response>, Cost)> {
    let mut seen: HashMap<(&str, &str, &str, Option<usize>), usize> = HashMap::new();
    let picked: Vec<(&Branch<'_>, &Outcome)> = branches
        .iter()
        .zip(outcomes)
        .filter(|(branch, outcome)| {
            let count = seen.entry((branch.experiment, &branch.attack, &branch.setting, branch.k)).or_default();
            *count += 1;
            let readable = branch.draw.is_none() && branch.prefill.len() <= LONGEST;
            readable && *count <= shown && !(branch.prefill.is_empty() && outcome.own.is_empty())
        })
        .collect();
    let texts: Vec<Vec<u32>> =
        picked.iter().map(|(branch, outcome)| [&branch.prefill[..], &outcome.own].concat()).collect();
    let mut cost = Cost::default();
    let mut kl = vec![Vec::new(); picked.len()];
    if let Some(base) = base {
        let pairs: Vec<(&[u32], &[u32], &[u32])> = picked
            .iter()
            .zip(&texts)
            .map(|((branch, _), text)| {
                (branch.case.prompt_for(subject.side), branch.case.prompt_for(base.side), &text[..])
            })
            .collect();
        let measured = token_kl::per_token(subject.model, base.model, &pairs, |_| ())?;
        cost = token_kl::cost(subject.model, &pairs);
        for (kl, tokens) in kl.iter_mut().zip(measured) {
            // Three decimals are enough to colour by.
            *kl = tokens.iter().map(|token| (token.kl * 1000.0).round() / 1000.0).collect();
        }
    }
    let text = |ids: &[u32]| ids.iter().map(|&id| (lab.token_text)(id)).collect();
    let responses = picked.into_iter().zip(kl).map(|((branch, outcome), kl)| Response {
        experiment: branch.experiment.into(),
        model: subject.name.into(),
        attack: branch.attack.clone(),
        setting: branch.setting.clone(),
        k: branch.k.map(|k| k as u32),
        seed: lab.engine.seed,
        example: branch.case.id.clone(),
        prefill: text(&branch.prefill),
        tokens: text(&outcome.own),
        kl,
        whole: outcome.verdict.map_or("", |verdict| verdict.whole.name()).into(),
        own: outcome.verdict.map_or("", |verdict| verdict.own.name()).into(),
    });
    Ok((responses.collect(), cost))
}

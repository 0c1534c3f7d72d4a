//! E6: one universal suffix by GCG, found on the model under attack and judged on prompts that the search never saw.

use super::Materials;
use crate::Result;
use crate::attack::gcg::{self, Found, Search};
use crate::attack::{Branch, Case, Lab, Subject, respond};
use crate::ops::Ops;
use crate::run::{Findings, Row, write_atomic};
use serde::Serialize;
use std::path::Path;

/// How long is searched.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SuffixAttack {
    pub search: gcg::Settings,
    pub restarts: usize,
    /// Restarts that are reported: the best on the behaviours that the search saw.
    pub best: usize,
}

impl SuffixAttack {
    /// No attack at all.
    pub fn is_off(&self) -> bool {
        self.search.steps == 0 || self.restarts == 0
    }
}

/// Rows `e6,MODEL,gcg,SETTING,,seed,example,harmful|...`: the means over the best restarts (setting empty, or the name of
/// another set of prompts), each of them (`best 1`, `best 2` ...), the suffix that the search started from (`initial
/// suffix`), and the base model under the suffix found on this one (`suffix of MODEL`), beyond which no attack on
/// refusals can get; `target_loss` and `exact` of each behaviour that the search saw.
///
/// The state of each search and the suffixes stand in files at `place`, which is a path without extension.
pub fn run<D: Ops>(
    lab: &Lab<'_>,
    subject: &Subject<'_, D>,
    base: &Subject<'_, D>,
    materials: &Materials,
    settings: &SuffixAttack,
    place: &Path,
) -> Result<Findings> {
    let (mut findings, found) = search(lab, subject, materials, settings, place)?;
    let best: Vec<String> = found.into_iter().map(|found| found.suffix).collect();

    let mut asked: Vec<(String, Vec<Case>)> = Vec::new();
    for (i, suffix) in best.iter().enumerate() {
        asked.push((format!("best {}", i + 1), with_suffix(&materials.cases, suffix)?));
        for (name, cases) in &materials.prompts {
            asked.push((format!("{name} best {}", i + 1), with_suffix(cases, suffix)?));
        }
    }
    asked.push(("initial suffix".into(), with_suffix(&materials.cases, &materials.suffixes.init)?));
    let rows = judged(lab, subject, &asked, &mut findings)?;
    let sets = std::iter::once("").chain(materials.prompts.iter().map(|(name, _)| name.as_str()));
    for set in sets {
        let cells: Vec<String> = (1..=best.len()).map(|i| format!("{set} best {i}").trim().to_owned()).collect();
        let first = rows.iter().filter(|row| row.setting == cells[0]);
        findings.rows.extend(first.map(|row| {
            let same = rows.iter().filter(|other| {
                cells.contains(&other.setting) && other.example == row.example && other.metric == row.metric
            });
            let value = same.map(|row| row.value).sum::<f64>() / cells.len() as f64;
            Row { setting: set.to_owned(), value, ..row.clone() }
        }));
    }
    // With one restart its own rows are the means.
    let own = |row: &Row| best.len() > 1 || !row.setting.ends_with("best 1");
    findings.rows.extend(rows.into_iter().filter(own));

    let ceiling = [(format!("suffix of {}", subject.name), with_suffix(&materials.cases, &best[0])?)];
    let rows = judged(lab, base, &ceiling, &mut findings)?;
    findings.rows.extend(rows);
    Ok(findings)
}

/// The best suffixes, with a row of each behaviour's end.
fn search<D: Ops>(
    lab: &Lab<'_>,
    subject: &Subject<'_, D>,
    materials: &Materials,
    settings: &SuffixAttack,
    place: &Path,
) -> Result<(Findings, Vec<Found>)> {
    let suffixes = &materials.suffixes;
    let search = Search {
        model: subject.model,
        behaviours: &suffixes.behaviours,
        init: &suffixes.init,
        allowed: &suffixes.allowed,
        settings: &settings.search,
        draft: None,
        seed: lab.engine.seed,
    };
    let mut findings = Findings::default();
    let mut found = Vec::new();
    for restart in 0..settings.restarts {
        let bar = lab.console.bar(format!("gcg {} {restart}", subject.name), settings.search.steps);
        let file = place.with_extension(format!("{restart}.json"));
        let (state, cost) = search.run(restart, Some(&file), &bar)?;
        findings.cost += cost;
        found.extend(state.found);
    }
    let best = gcg::rank(found, settings.best);
    let text = serde_json::to_string_pretty(&best).expect("suffixes are plain data") + "\n";
    write_atomic(&place.with_extension("json"), text.as_bytes())?;
    for behaviour in &suffixes.behaviours {
        let loss = search.loss_of(behaviour, &best[0].tokens, &mut findings.cost)?;
        for (metric, value) in [("target_loss", loss.mean), ("exact", loss.exact as f64)] {
            let row = lab.row("e6", subject.name, "gcg", "behaviours", None, &behaviour.id, metric, value);
            findings.rows.push(row);
        }
    }
    Ok((findings, best))
}

fn with_suffix(cases: &[Case], suffix: &str) -> Result<Vec<Case>> {
    cases.iter().map(|case| Ok(Case { prompt_ids: (case.suffixed)(suffix)?, ..case.clone() })).collect()
}

fn judged<D: Ops>(
    lab: &Lab<'_>,
    subject: &Subject<'_, D>,
    asked: &[(String, Vec<Case>)],
    findings: &mut Findings,
) -> Result<Vec<Row>> {
    let branch = |setting: &str, case| Branch { setting: setting.to_owned(), ..Branch::plain("e6", "gcg", case) };
    let branches: Vec<Branch<'_>> =
        asked.iter().flat_map(|(setting, cases)| cases.iter().map(move |case| branch(setting, case))).collect();
    let (outcomes, cost) = respond(lab, subject, &branches, &format!("gcg {}", subject.name))?;
    findings.cost += cost;
    Ok(branches.iter().zip(&outcomes).flat_map(|(branch, outcome)| outcome.rows(lab, subject.name, branch)).collect())
}

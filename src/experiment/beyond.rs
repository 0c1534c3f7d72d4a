//! What a plan asks of each model beside the paper's experiments.

use super::drilldown;
use super::logit_gap::{self, Openers};
use super::plan::Plan;
use crate::Result;
use crate::attack::{Branch, Case, Subject, deep_prefill, prefill, rap};
use crate::ops::Ops;
use crate::run::{Findings, RunFolder};

/// Experiments that ask one model at a time, each a cell of its own that its name begins.
const NAMES: [&str; 2] = ["gap", "rap"];

impl<D: Ops> Plan<'_, D> {
    /// Prefills as deep as both models' contexts and the settings allow; none where there is no room for the shortest.
    pub(super) fn deep_prefills(&self) -> Vec<Branch<'_>> {
        let (cases, count) = (&self.materials.cases, self.settings.attack_cases);
        let context = [self.base, self.aligned].map(|model| model.config.max_position_embeddings);
        let around = |case: &Case| {
            let prompt = case.prompt_ids.iter().map(Vec::len).max().unwrap_or(0);
            prompt + case.max_new_tokens.unwrap_or(self.lab.max_new_tokens)
        };
        let taken = cases.iter().map(around).max().unwrap_or(0);
        let longest = context[0].min(context[1]).saturating_sub(taken).min(self.settings.deep_tokens);
        deep_prefill::branches("deep", cases, count, &deep_prefill::depths(longest))
    }

    /// The experiments of this file that are asked for, with their cells on a model.
    pub(super) fn beyond_cells(&self, model: &str) -> Vec<(&'static str, String)> {
        // RAP gets past refusals, which the base model has none of.
        let wanted = NAMES.into_iter().filter(|&name| self.asked(&[name]) && (name, model) != ("rap", "base"));
        wanted.map(|name| (name, self.cell_name(&format!("{name} {model}")))).collect()
    }

    /// Runs them on a model.
    pub(super) fn beyond(&self, folder: &mut RunFolder, subject: &Subject<'_, D>) -> Result<()> {
        let (lab, cases) = (&self.lab, &self.materials.cases);
        for (name, cell) in self.beyond_cells(subject.name) {
            folder.cell(&cell, || match name {
                "rap" => self.rap(subject),
                _ => logit_gap::run(lab, subject, cases, &Openers::of(self.materials), &self.settings.depths),
            })?;
        }
        Ok(())
    }

    /// Rows `rap,MODEL,rap|prefill,,k,...`: RAP after the run's shortest prefill, and that prefill alone.
    fn rap(&self, subject: &Subject<'_, D>) -> Result<Findings> {
        let (lab, settings) = (&self.lab, &self.settings.rap);
        let shortest = self.settings.depths.iter().copied().filter(|&k| k > 0).min().unwrap_or(0);
        let cases = self.materials.cases.iter().filter(|case| !case.harmful.is_empty()).take(settings.prompts);
        let alone = prefill::branches("rap", "", cases, &[shortest]);
        let (mut findings, _) = self.answers(subject, &alone, &format!("rap {}, prefill", subject.name))?;
        let ranked: Vec<Branch<'_>> =
            alone.iter().map(|branch| Branch { attack: "rap".into(), ..branch.clone() }).collect();
        let found = rap::attack(lab, subject, &ranked, settings)?;
        findings.rows.extend(found.rows(lab, subject.name, &ranked));
        findings.cost += found.cost;
        // Without their KL against the base model: a curiosity here, and another pass.
        let shown = self.settings.shown;
        findings.responses = drilldown::responses(lab, subject, None, &ranked, &found.outcomes, shown)?.0;
        Ok(findings)
    }
}

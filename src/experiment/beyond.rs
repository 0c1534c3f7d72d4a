//! What a plan asks of each model beside the paper's experiments.

use super::logit_gap::{self, Openers};
use super::plan::Plan;
use crate::Result;
use crate::attack::{Branch, Case, Subject, deep_prefill};
use crate::ops::Ops;
use crate::run::RunFolder;

/// Experiments that ask one model at a time, each a cell of its own that its name begins.
const NAMES: [&str; 1] = ["gap"];

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
        let wanted = NAMES.into_iter().filter(|name| self.asked(&[name]));
        wanted.map(|name| (name, self.cell_name(&format!("{name} {model}")))).collect()
    }

    /// Runs them on a model.
    pub(super) fn beyond(&self, folder: &mut RunFolder, subject: &Subject<'_, D>) -> Result<()> {
        let (lab, cases) = (&self.lab, &self.materials.cases);
        for (_, cell) in self.beyond_cells(subject.name) {
            folder.cell(&cell, || {
                logit_gap::run(lab, subject, cases, &Openers::of(self.materials), &self.settings.depths)
            })?;
        }
        Ok(())
    }
}

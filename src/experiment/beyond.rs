//! Experiments that the paper does not have and that ask one model at a time: each a cell of its own.

use super::logit_gap::{self, Openers};
use super::plan::Plan;
use crate::Result;
use crate::attack::Subject;
use crate::ops::Ops;
use crate::run::RunFolder;

/// Their names, which begin the names of their cells.
const NAMES: [&str; 1] = ["gap"];

impl<D: Ops> Plan<'_, D> {
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

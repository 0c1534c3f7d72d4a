//! `judgements.csv`: what other judges say of a run's responses, beside the verdicts it was made with.

use super::{Response, write_csv};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the file in a run folder.
const NAME: &str = "judgements.csv";

/// One judge's verdict on one response.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Judgement {
    /// Who says so; `run`: the judge that the run was made with.
    pub judge: String,
    pub experiment: String,
    pub model: String,
    pub attack: String,
    pub setting: String,
    pub k: Option<u32>,
    pub seed: u64,
    pub example: String,
    pub whole: String,
    pub own: String,
}

impl Judgement {
    /// A verdict on `response`.
    pub fn of(judge: &str, response: &Response, whole: &str, own: &str) -> Self {
        Self {
            judge: judge.into(),
            experiment: response.experiment.clone(),
            model: response.model.clone(),
            attack: response.attack.clone(),
            setting: response.setting.clone(),
            k: response.k,
            seed: response.seed,
            example: response.example.clone(),
            whole: whole.into(),
            own: own.into(),
        }
    }

    /// What it is a verdict on.
    pub fn response(&self) -> (&str, &str, &str, &str, Option<u32>, u64, &str) {
        (&self.experiment, &self.model, &self.attack, &self.setting, self.k, self.seed, &self.example)
    }
}

/// The judgements in a run folder; none where there is no such file.
pub fn read(dir: &Path) -> Result<Vec<Judgement>> {
    let path = dir.join(NAME);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let damaged = |error| Error::input(path.display(), format!("is damaged ({error}): remove it"));
    csv::Reader::from_path(&path).map_err(damaged)?.into_deserialize().map(|row| row.map_err(damaged)).collect()
}

/// Adds judgements to a run folder, in place of those that a judge of the same name left.
pub fn add(dir: &Path, judge: &str, new: Vec<Judgement>) -> Result<()> {
    let mut all = read(dir)?;
    all.retain(|old| old.judge != judge);
    all.extend(new);
    all.sort();
    write_csv(&dir.join(NAME), &all)
}

//! The tidy table all experiments write: one number a row.

use super::write_atomic;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One measured number. The fields but `value` are its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Paper experiment: e1, e2, ...
    pub experiment: String,
    /// Which model: base, aligned, ...
    pub model: String,
    /// What was done to it: prefix, prefill, none.
    pub attack: String,
    /// The attack's setting, in words: the prefix's text.
    pub setting: String,
    /// Tokens of prefill; for E2 the response position, from 1.
    pub k: Option<u32>,
    pub seed: u64,
    /// The example's id.
    pub example: String,
    pub metric: String,
    pub value: f64,
}

impl Row {
    /// The order of rows in a finished table.
    fn key(&self) -> (&str, &str, &str, &str, Option<u32>, u64, &str, &str) {
        (&self.experiment, &self.model, &self.attack, &self.setting, self.k, self.seed, &self.example, &self.metric)
    }
}

/// Writes rows sorted by key, so that the file does not depend on the order in which they came.
pub fn write_csv(path: &Path, rows: &mut [Row]) -> Result<()> {
    rows.sort_by(|a, b| a.key().cmp(&b.key()));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = rows.iter().try_for_each(|row| writer.serialize(row));
    let bytes = written.and_then(|()| writer.into_inner().map_err(|error| error.into_error().into()));
    let bytes = bytes.map_err(|error| Error::input(path.display(), format!("cannot be written: {error}")))?;
    write_atomic(path, &bytes)
}

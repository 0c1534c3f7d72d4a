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

/// A response for reading: the report's drill-down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    pub experiment: String,
    pub model: String,
    pub attack: String,
    pub setting: String,
    pub k: Option<u32>,
    pub seed: u64,
    pub example: String,
    /// Text of each token that was put into the model's mouth.
    pub prefill: Vec<String>,
    /// Text of each token it wrote, without the end of its turn.
    pub tokens: Vec<String>,
    /// KL against the base model at each token of `prefill` and `tokens`; empty where it was not measured.
    pub kl: Vec<f32>,
    /// Verdict on the whole: harmful, refused or neither.
    pub whole: String,
    /// Verdict on the model's own words.
    pub own: String,
}

/// What work cost; two runs never agree on the seconds, so that it stays out of what must be equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Tokens that went through a forward pass.
    pub forward_tokens: u64,
    /// Tokens that went through forward and backward.
    pub trained_tokens: u64,
    /// Tokens that the same work would have put through forward passes without sharing prefixes.
    pub unshared_tokens: u64,
    /// Floating-point operations of the matrix products, in the model and its vocabulary.
    pub flops: f64,
}

/// What a cell found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    pub rows: Vec<Row>,
    pub responses: Vec<Response>,
    #[serde(skip)]
    pub cost: Cost,
}

impl From<Vec<Row>> for Findings {
    fn from(rows: Vec<Row>) -> Self {
        Self { rows, ..Self::default() }
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.forward_tokens += other.forward_tokens;
        self.trained_tokens += other.trained_tokens;
        self.unshared_tokens += other.unshared_tokens;
        self.flops += other.flops;
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

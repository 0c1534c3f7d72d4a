//! What experiments find: numbers, one a row, and responses for reading.

use super::number;
use serde::{Deserialize, Serialize};

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
    #[serde(with = "number")]
    pub value: f64,
}

impl Row {
    /// The order of rows in a finished table.
    pub(super) fn key(&self) -> (&str, &str, &str, &str, Option<u32>, u64, &str, &str) {
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
    #[serde(with = "number::list")]
    pub kl: Vec<f32>,
    /// Verdict on the whole: harmful, refused or neither.
    pub whole: String,
    /// Verdict on the model's own words.
    pub own: String,
}

impl Response {
    /// The order of responses in a finished file.
    pub(super) fn key(&self) -> (&str, &str, &str, &str, Option<u32>, u64, &str) {
        (&self.experiment, &self.model, &self.attack, &self.setting, self.k, self.seed, &self.example)
    }
}

/// What an `example` of the results is: a line of `examples.csv`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExampleRow {
    /// Its id in the results.
    pub example: String,
    /// Empty where its file has none.
    pub category: String,
    pub prompt: String,
    /// The answer that should not be given; empty where there is none.
    pub harmful: String,
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

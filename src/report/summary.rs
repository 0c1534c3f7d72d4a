//! From tidy rows to the numbers people read: a mean and its 95 % interval for each setting.

use super::cells::{Cell, Cells, Key, POSITIONAL, held_out};
use super::paper;
use crate::run::Row;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The prompts that all claims are about: those not held out.
pub const TEST: &str = "test";
/// The harder row.
pub const HELD_OUT: &str = "heldout";
/// What the part of a category's prompts begins with.
pub const CATEGORY: &str = "category ";

/// One line of a summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub experiment: String,
    pub model: String,
    pub attack: String,
    pub setting: String,
    /// Prefill depth, gradient step or response position; empty where there is none.
    pub k: Option<u32>,
    /// The range of response positions that is averaged over.
    pub positions: String,
    pub metric: String,
    /// Which prompts: `test`, `heldout`, or `category NAME` (of the test prompts).
    pub part: String,
    /// Prompts.
    pub n: usize,
    pub seeds: usize,
    /// Over prompts, each the mean of its seeds.
    pub mean: f64,
    /// Standard deviation of the seeds' means.
    pub std: Option<f64>,
    /// 95 % interval over prompts: Wilson's for verdicts of 0 and 1, else the bootstrap over prompts across seeds.
    pub low: f64,
    pub high: f64,
    /// Share of prompts whose verdict is not the same in all seeds.
    pub flips: Option<f64>,
    /// The paper's value for Llama-2-7B, rates as shares of 1.
    pub paper: Option<f64>,
    pub paper_std: Option<f64>,
}

impl Summary {
    fn of(part: &str, key: &Key<'_>, cell: &Cell<'_>) -> Self {
        let estimate = cell.estimate(key.metric);
        let (seeds, std) = cell.over_seeds();
        // The paper has no held-out topics, and no numbers by category.
        let paper = if part == TEST { paper::value_of(key) } else { None };
        let [experiment, model, attack, setting, positions, metric] =
            [key.experiment, key.model, key.attack, key.setting, key.positions, key.metric].map(str::to_owned);
        Self {
            experiment,
            model,
            attack,
            setting,
            k: key.k,
            positions,
            metric,
            part: part.to_owned(),
            n: cell.n(),
            seeds,
            mean: estimate.mean,
            std,
            low: estimate.low,
            high: estimate.high,
            flips: cell.flips(),
            paper: paper.map(|value| share(value.mean)),
            paper_std: paper.and_then(|value| value.std).map(share),
        }
    }

    /// Whether this is one point of a curve over positions, which figures show and tables do not.
    pub fn is_position(&self) -> bool {
        self.positions.is_empty() && POSITIONAL.contains(&self.metric.as_str())
    }
}

/// A percentage of the paper, printed to a tenth, as the nearest share of 1.
fn share(percent: f64) -> f64 {
    (percent * 10.0).round() / 1000.0
}

/// Summaries of all settings: of the test prompts, then of the held-out prompts.
pub fn summarise(rows: &[Row]) -> Vec<Summary> {
    let mut summary = lines(TEST, &Cells::of(rows.iter().filter(|row| !held_out(&row.example))));
    summary.extend(lines(HELD_OUT, &Cells::of(rows.iter().filter(|row| held_out(&row.example)))));
    summary
}

/// Summaries of all settings but curves over positions, category by category, of the test prompts. `categories` names an
/// example's category, where it has one.
pub fn by_category(rows: &[Row], categories: &BTreeMap<&str, &str>) -> Vec<Summary> {
    let mut parts: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        if let Some(category) = categories.get(row.example.as_str())
            && !held_out(&row.example)
            && !POSITIONAL.contains(&row.metric.as_str())
        {
            parts.entry(category).or_default().push(row);
        }
    }
    parts.into_iter().flat_map(|(name, rows)| lines(&format!("{CATEGORY}{name}"), &Cells::of(rows))).collect()
}

fn lines(part: &str, cells: &Cells<'_>) -> Vec<Summary> {
    cells.sorted().par_iter().map(|(key, cell)| Summary::of(part, key, cell)).collect()
}

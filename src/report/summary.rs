//! From tidy rows to the numbers people read: a rate and its 95 % interval for each setting.

use super::paper;
use crate::experiment::stats;
use crate::run::Row;
use crate::run::write_atomic;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// One line of a summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub experiment: String,
    pub model: String,
    pub attack: String,
    pub setting: String,
    /// Prefill depth; empty where there is none.
    pub k: Option<u32>,
    pub metric: String,
    /// Prompts.
    pub n: usize,
    pub mean: f64,
    /// 95 % interval over prompts: Wilson's for rates, bootstrap for others.
    pub low: f64,
    pub high: f64,
    /// The paper's value for Llama-2-7B, rates as shares of 1.
    pub paper: Option<f64>,
}

/// Response positions that E2 averages over: the first few, and the late ones (`to` included).
pub const KL_RANGES: [(u32, u32); 3] = [(1, 5), (6, 19), (20, u32::MAX)];

/// Resamples of a bootstrap.
const RESAMPLES: usize = 1000;

fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The paper's value for a setting of E1 or E3; only for harm judged as the paper does, as a whole.
fn paper_value(experiment: &str, model: &str, setting: &str, k: Option<u32>, metric: &str) -> Option<f64> {
    if metric != "harmful" {
        return None;
    }
    let value = match experiment {
        "e1" => {
            // Prefixes can have a greeting in front: the longest of the paper's that ends ours.
            let ours = letters(setting);
            paper::llama2("E1", model, "asr")
                .filter(|value| ours.ends_with(&letters(&value.setting)))
                .max_by_key(|value| value.setting.len())
        }
        "e3" if model == "aligned" => {
            let setting = format!("prefill {}", k?);
            paper::llama2("E6", "initial", "asr").find(|value| value.setting == setting)
        }
        _ => None,
    };
    value.map(|value| value.mean / 100.0)
}

/// Summaries of E1 and E3 a setting, and of E2 a range of positions, each experiment by depth or position, then by setting.
pub fn summarise(rows: &[Row]) -> Vec<Summary> {
    type Key<'a> = (&'a str, &'a str, &'a str, Option<u32>, String, &'a str);
    let mut groups: BTreeMap<Key<'_>, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let (setting, k) = match (row.experiment.as_str(), row.k) {
            ("e2", Some(position)) => {
                let range = KL_RANGES.iter().position(|&(from, to)| (from..=to).contains(&position));
                let (from, to) = KL_RANGES[range.expect("positions start at 1")];
                let name = if to == u32::MAX { format!("positions {from}+") } else { format!("positions {from}-{to}") };
                (name, Some(from))
            }
            (_, k) => (row.setting.clone(), k),
        };
        let key = (row.experiment.as_str(), row.model.as_str(), row.attack.as_str(), k, setting, row.metric.as_str());
        groups.entry(key).or_default().push(row);
    }
    let summary = groups.into_iter().map(|((experiment, model, attack, k, setting, metric), rows)| {
        // One value a prompt: the mean over its positions and seeds.
        let mut prompts: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for row in &rows {
            prompts.entry(&row.example).or_default().push(row.value);
        }
        let values: Vec<f64> = prompts.values().map(|v| v.iter().sum::<f64>() / v.len() as f64).collect();
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let rate = metric.starts_with("harmful");
        let (low, high) = if rate && values.iter().all(|&value| value == 0.0 || value == 1.0) {
            let interval = stats::wilson(values.iter().filter(|&&value| value == 1.0).count(), n);
            (interval.low, interval.high)
        } else {
            let estimate = stats::bootstrap(&[values], RESAMPLES, 0);
            (estimate.interval.low, estimate.interval.high)
        };
        let paper = paper_value(experiment, model, &setting, k, metric);
        let k = if experiment == "e2" { None } else { k };
        let [experiment, model, attack, metric] = [experiment, model, attack, metric].map(str::to_owned);
        Summary { experiment, model, attack, setting, k, metric, n, mean, low, high, paper }
    });
    summary.collect()
}

/// Writes a summary as CSV.
pub fn write_csv(path: &Path, summary: &[Summary]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = summary.iter().try_for_each(|line| writer.serialize(line));
    let bytes = written.and_then(|()| writer.into_inner().map_err(|error| error.into_error().into()));
    let bytes = bytes.map_err(|error| Error::input(path.display(), format!("cannot be written: {error}")))?;
    write_atomic(path, &bytes)
}

/// A summary as tables for a terminal.
pub fn table(summary: &[Summary]) -> String {
    let mut text = String::new();
    let titles = [
        ("e1", "E1  Refusal prefixes (Table 1): harmful answers after a prefilled refusal"),
        ("e2", "E2  Per-token KL of the aligned model from the base model (Figure 1), nats"),
        ("e3", "E3  Prefilling attack (Figure 2): harmful answers after k tokens of one"),
    ];
    for (experiment, title) in titles {
        let lines: Vec<&Summary> =
            summary.iter().filter(|line| line.experiment == experiment && line.metric != "new_tokens").collect();
        if lines.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{title}");
        if experiment == "e2" {
            for line in lines {
                let _ = writeln!(
                    text,
                    "  {:<34} {:>7.3}  [{:.3}, {:.3}]  n {}",
                    line.setting, line.mean, line.low, line.high, line.n
                );
            }
            continue;
        }
        let _ = writeln!(
            text,
            "  {:<8} {:<34} {:>7}  {:<15} {:>9} {:>8} {:>5}",
            "model", "setting", "harmful", "95 % interval", "own words", "paper", "n"
        );
        for line in lines.iter().filter(|line| line.metric == "harmful") {
            let own = lines.iter().find(|other| {
                other.metric == "harmful_own"
                    && (&other.model, &other.setting, other.k) == (&line.model, &line.setting, line.k)
            });
            let setting = line.k.map_or_else(|| line.setting.clone(), |k| format!("k = {k}"));
            let percent = |value: f64| format!("{:.1} %", 100.0 * value);
            let _ = writeln!(
                text,
                "  {:<8} {:<34} {:>7}  {:<15} {:>9} {:>8} {:>5}",
                line.model,
                setting,
                percent(line.mean),
                format!("[{:.1}, {:.1}]", 100.0 * line.low, 100.0 * line.high),
                own.map_or_else(String::new, |own| percent(own.mean)),
                line.paper.map_or_else(|| "-".to_owned(), percent),
                line.n
            );
        }
    }
    text
}

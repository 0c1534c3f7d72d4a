//! Rows gathered by what they measure: a cell holds one metric of one setting, with a value a prompt and seed.

use super::experiments::EXPERIMENTS;
use crate::experiment::stats::{self, Difference};
use crate::rng::{self, Philox};
use crate::run::Row;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

/// Metrics with a value a response position (`k` is the position, from 1).
pub const POSITIONAL: [&str; 6] = ["kl", "cross_entropy", "grad_norm", "weight", "refusal_mass", "affirmative_mass"];

/// Ranges of response positions that positional metrics are averaged over: the first few, and the late ones (last
/// included).
pub const RANGES: [(&str, u32, u32); 3] = [("1-5", 1, 5), ("6-19", 6, 19), ("20+", 20, u32::MAX)];

/// Resamples of a bootstrap.
const RESAMPLES: usize = 1000;

/// What a cell measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    pub experiment: &'a str,
    pub model: &'a str,
    pub attack: &'a str,
    pub setting: &'a str,
    /// Prefill depth, gradient step or single position.
    pub k: Option<u32>,
    /// A range of [`RANGES`]; empty for a single position and where there are none.
    pub positions: &'a str,
    pub metric: &'a str,
}

/// A key with every field empty.
pub const NOTHING: Key<'static> =
    Key { experiment: "", model: "", attack: "", setting: "", k: None, positions: "", metric: "" };

/// One metric of one setting.
#[derive(Clone, Debug, Default)]
pub struct Cell<'a> {
    /// By prompt and seed: sum and number of values (a range of positions has several).
    values: BTreeMap<&'a str, BTreeMap<u64, (f64, u32)>>,
}

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// All cells of some rows.
#[derive(Debug, Default)]
pub struct Cells<'a>(HashMap<Key<'a>, Cell<'a>>);

/// Whether an example belongs to the harder row: topics held out of all training sets but the base's.
pub fn held_out(example: &str) -> bool {
    example.contains("heldout")
}

/// Metrics that say yes or no of a prompt.
pub fn is_verdict(metric: &str) -> bool {
    metric.starts_with("harmful") || ["refused", "utility", "win", "exact"].contains(&metric)
}

impl<'a> Cells<'a> {
    /// Gathers rows.
    pub fn of(rows: impl IntoIterator<Item = &'a Row>) -> Self {
        let mut cells: HashMap<Key<'a>, Cell<'a>> = HashMap::new();
        for row in rows {
            let key = Key {
                experiment: &row.experiment,
                model: &row.model,
                attack: &row.attack,
                setting: &row.setting,
                k: row.k,
                positions: "",
                metric: &row.metric,
            };
            cells.entry(key).or_default().add(row);
            if let (true, Some(position)) = (POSITIONAL.contains(&key.metric), row.k)
                && let Some(&(positions, ..)) = RANGES.iter().find(|(_, from, to)| (from..=to).contains(&&position))
            {
                cells.entry(Key { k: None, positions, ..key }).or_default().add(row);
            }
        }
        Self(cells)
    }

    /// All cells in the order that tables show them in.
    pub fn sorted(&self) -> Vec<(Key<'a>, &Cell<'a>)> {
        let mut cells: Vec<_> = self.0.iter().map(|(key, cell)| (*key, cell)).collect();
        cells.sort_by(|(a, _), (b, _)| a.reading_order(b));
        cells
    }

    pub fn get<'s>(&'s self, key: Key<'s>) -> Option<&'s Cell<'a>> {
        self.0.get(&key)
    }

    /// The cells that share all of `key` but `k`, by `k`.
    pub fn by_k(&self, key: &Key<'_>) -> Vec<(u32, &Cell<'a>)> {
        let here = self.pick(|other| Key { k: None, ..*other } == *key && other.k.is_some());
        here.into_iter().filter_map(|(key, cell)| Some((key.k?, cell))).collect()
    }

    /// The cells that `wanted` picks, in reading order.
    pub fn pick(&self, wanted: impl Fn(&Key<'a>) -> bool) -> Vec<(Key<'a>, &Cell<'a>)> {
        let mut cells = self.sorted();
        cells.retain(|(key, _)| wanted(key));
        cells
    }
}

impl Key<'_> {
    fn reading_order(&self, other: &Key<'_>) -> Ordering {
        let rank = |list: &[&str], name: &str| list.iter().position(|known| *known == name).unwrap_or(list.len());
        let by = |list: &[&str], a: &str, b: &str| rank(list, a).cmp(&rank(list, b)).then_with(|| natural(a, b));
        let place = |id: &str| EXPERIMENTS.iter().position(|known| known.id == id).unwrap_or(EXPERIMENTS.len());
        place(self.experiment)
            .cmp(&place(other.experiment))
            .then_with(|| natural(self.experiment, other.experiment))
            .then_with(|| by(&["base", "aligned", "augmented"], self.model, other.model))
            .then_with(|| by(&["harmful"], self.attack, other.attack))
            .then_with(|| by(&["none", "initial", "sft", "sft+warmup", "constrained"], self.setting, other.setting))
            .then_with(|| natural(self.positions, other.positions))
            .then_with(|| self.k.cmp(&other.k))
            .then_with(|| by(&["harmful", "harmful_own", "refused", "utility"], self.metric, other.metric))
    }
}

/// Compares texts so that numbers in them go by value: "step 4" before "step 10".
fn natural(a: &str, b: &str) -> Ordering {
    fn parts(text: &str) -> impl Iterator<Item = (Option<f64>, &str)> {
        let number = |c: char| c.is_ascii_digit() || c == '.';
        text.split_inclusive(move |c: char| !number(c)).flat_map(move |piece| {
            let digits = piece.trim_end_matches(|c: char| !number(c));
            [digits, &piece[digits.len()..]].map(|part| (part.parse().ok(), part))
        })
    }
    let order = |(x, text_x): (Option<f64>, &str), (y, text_y): (Option<f64>, &str)| match (x, y) {
        (Some(x), Some(y)) => x.total_cmp(&y).then(text_x.cmp(text_y)),
        _ => text_x.cmp(text_y),
    };
    let (mut left, mut right) = (parts(a), parts(b));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => match order(x, y) {
                Ordering::Equal => {}
                unequal => return unequal,
            },
        }
    }
}

impl<'a> Cell<'a> {
    fn add(&mut self, row: &'a Row) {
        let (sum, count) = self.values.entry(&row.example).or_default().entry(row.seed).or_default();
        *sum += row.value;
        *count += 1;
    }

    /// Prompts.
    pub fn n(&self) -> usize {
        self.values.len()
    }

    /// One value a prompt: the mean over its seeds.
    pub fn by_prompt(&self) -> BTreeMap<&'a str, f64> {
        let mean = |seeds: &BTreeMap<u64, (f64, u32)>| {
            seeds.values().map(|(sum, count)| sum / f64::from(*count)).sum::<f64>() / seeds.len() as f64
        };
        self.values.iter().map(|(prompt, seeds)| (*prompt, mean(seeds))).collect()
    }

    pub fn mean(&self) -> f64 {
        self.by_prompt().values().sum::<f64>() / self.n() as f64
    }

    /// Each seed's values by prompt.
    fn by_seed(&self) -> BTreeMap<u64, BTreeMap<&'a str, f64>> {
        let mut seeds: BTreeMap<u64, BTreeMap<&'a str, f64>> = BTreeMap::new();
        for (prompt, values) in &self.values {
            for (seed, (sum, count)) in values {
                seeds.entry(*seed).or_default().insert(prompt, sum / f64::from(*count));
            }
        }
        seeds
    }

    /// How many seeds there are, and the standard deviation of their means where there are two or more.
    pub fn over_seeds(&self) -> (usize, Option<f64>) {
        let means: Vec<f64> =
            self.by_seed().values().map(|prompts| prompts.values().sum::<f64>() / prompts.len() as f64).collect();
        (means.len(), stats::spread(&means).and_then(|spread| spread.std))
    }

    /// The share of prompts whose verdict differs between seeds; none with one seed, or where values are no verdicts.
    /// Prompts that a seed lacks do not count.
    pub fn flips(&self) -> Option<f64> {
        let seeds = self.by_seed();
        let verdict = |value: &f64| *value == 0.0 || *value == 1.0;
        if seeds.len() < 2 || !seeds.values().all(|prompts| prompts.values().all(verdict)) {
            return None;
        }
        let everywhere = |prompt: &&&str| seeds.values().all(|prompts| prompts.contains_key(**prompt));
        let shared: Vec<&str> = self.values.keys().filter(everywhere).copied().collect();
        let verdicts: Vec<Vec<bool>> =
            seeds.values().map(|prompts| shared.iter().map(|prompt| prompts[prompt] == 1.0).collect()).collect();
        Some(stats::flips(&verdicts))
    }

    /// Mean and 95 % interval: Wilson's where a verdict is 0 or 1 for every prompt, else the bootstrap over prompts
    /// across seeds.
    pub fn estimate(&self, metric: &str) -> Estimate {
        let values: Vec<f64> = self.by_prompt().into_values().collect();
        if let (true, Some(share)) = (is_verdict(metric), verdicts(&values)) {
            return share;
        }
        let estimate = stats::bootstrap(&[values], RESAMPLES, 0);
        Estimate { mean: estimate.mean, low: estimate.interval.low, high: estimate.interval.high }
    }

    /// The prompts that both cells have, with a value of each.
    fn shared(&self, other: &Cell<'_>) -> (Vec<f64>, Vec<f64>) {
        let theirs = other.by_prompt();
        self.by_prompt().into_iter().filter_map(|(prompt, mine)| Some((mine, *theirs.get(prompt)?))).unzip()
    }

    /// This mean minus the other's on shared prompts, and how many those are; none if there are none.
    ///
    /// Where every resample is alike (all verdicts of a side agree), the bootstrap knows no uncertainty: the interval is
    /// then Newcombe's, from those of both sides.
    pub fn minus(&self, other: &Cell<'_>) -> Option<(Difference, usize)> {
        let (mine, theirs) = self.shared(other);
        let n = mine.len();
        if n == 0 {
            return None;
        }
        let sides = (verdicts(&mine), verdicts(&theirs));
        let mut difference = stats::paired_bootstrap(&[theirs], &[mine], RESAMPLES, 0);
        if let ((Some(mine), Some(theirs)), true) = (sides, difference.interval.low == difference.interval.high) {
            let far = |a: f64, b: f64| a.hypot(b);
            difference.interval.low -= far(mine.mean - mine.low, theirs.high - theirs.mean);
            difference.interval.high += far(mine.high - mine.mean, theirs.mean - theirs.low);
        }
        Some((difference, n))
    }

    /// The share of shared prompts on which this value is larger, with Wilson's interval, and how many those are; none if
    /// there are none.
    pub fn above(&self, other: &Cell<'_>) -> Option<(Estimate, usize)> {
        let (mine, theirs) = self.shared(other);
        let larger: Vec<f64> =
            mine.iter().zip(&theirs).map(|(mine, theirs)| f64::from(u8::from(mine > theirs))).collect();
        Some((verdicts(&larger)?, larger.len()))
    }

    /// This mean over the other's on shared prompts, with a bootstrap interval over prompts; none if there are none.
    /// Not finite where the other's mean is 0. Where this mean is a share of 0, the bootstrap knows no uncertainty: the
    /// upper end is then Wilson's.
    pub fn over(&self, other: &Cell<'_>) -> Option<(Estimate, usize)> {
        let (mine, theirs) = self.shared(other);
        let n = mine.len();
        if n == 0 {
            return None;
        }
        let ratio = |picks: &mut dyn Iterator<Item = usize>| {
            let (above, below) = picks.fold((0.0, 0.0), |(a, b), i| (a + mine[i], b + theirs[i]));
            above / below
        };
        let draws = Philox::new(0, rng::stream(["ratio"]));
        let mut ratios: Vec<f64> = (0..RESAMPLES as u64)
            .map(|resample| {
                let mut draws = draws.at(resample << 32);
                ratio(&mut (0..n).map(|_| draws.below(n)))
            })
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| ratios[(share * (RESAMPLES - 1) as f64).round() as usize];
        let mean = ratio(&mut (0..n));
        let high = match verdicts(&mine) {
            Some(share) if share.mean == 0.0 => share.high * n as f64 / theirs.iter().sum::<f64>(),
            _ => at(0.975),
        };
        Some((Estimate { mean, low: at(0.025), high }, n))
    }
}

/// The share of 1 among values of 0 and 1, with Wilson's interval; none of other values.
fn verdicts(values: &[f64]) -> Option<Estimate> {
    let ones = values.iter().filter(|&&value| value == 1.0).count();
    let zeros = values.iter().filter(|&&value| value == 0.0).count();
    if values.is_empty() || ones + zeros < values.len() {
        return None;
    }
    let interval = stats::wilson(ones, values.len());
    Some(Estimate { mean: ones as f64 / values.len() as f64, low: interval.low, high: interval.high })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_go_by_value() {
        let mut names =
            ["step 10", "uniform:2", "step 4", "uniform:0.5", "step", "C=100 p=0.5", "C=5 p=0.5", "C=100 p=1"];
        names.sort_by(|a, b| natural(a, b));
        let sorted = ["C=5 p=0.5", "C=100 p=0.5", "C=100 p=1", "step", "step 4", "step 10", "uniform:0.5", "uniform:2"];
        assert_eq!(names, sorted);
    }
}

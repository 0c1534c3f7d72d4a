//! Two runs side by side: what differs between them, setting by setting and prompt by prompt.

use super::cells::{Cells, Key, POSITIONAL, held_out};
use super::claims::{self, Finding};
use super::figures::scaled;
use super::load::Run;
use super::summary::{HELD_OUT, TEST};
use super::svg::{self, Bar, Bars, Group, Source};
use super::tables::{Cell, Column, Table, metric_name, show};
use super::{experiments, tables};
use crate::run::Row;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One setting in both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    pub experiment: String,
    pub model: String,
    pub attack: String,
    pub setting: String,
    pub k: Option<u32>,
    pub positions: String,
    pub metric: String,
    /// `test` or `heldout`.
    pub part: String,
    /// Mean of the first run, over all its prompts.
    pub a: f64,
    /// Mean of the second run.
    pub b: f64,
    /// 95 % intervals of both means.
    pub a_interval: (f64, f64),
    pub b_interval: (f64, f64),
    /// Prompts of the first run, of the second, and of both.
    pub n: [usize; 3],
    /// Second minus first on the prompts of both; none where they share none.
    pub difference: Option<Difference>,
}

/// A difference of means with its 95 % interval: the paired bootstrap over shared prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// Two-sided, of this line alone: among many lines some are small by chance.
    pub p: f64,
}

/// Two runs side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub lines: Vec<Line>,
    /// Settings that only one of the runs has.
    pub only_a: usize,
    pub only_b: usize,
    /// What differs in manifest and config: name, value in the first, value in the second.
    pub asked: Vec<(String, String, String)>,
    /// Claims measured in either: first run's finding, second run's.
    #[serde(skip)]
    pub claims: Vec<(Finding, Finding)>,
}

/// Compares two runs.
pub fn compare(a: &Run, b: &Run) -> Comparison {
    let (mut lines, mut only_a, mut only_b) = (Vec::new(), 0, 0);
    for part in [TEST, HELD_OUT] {
        let of_part = |row: &&Row| held_out(&row.example) == (part == HELD_OUT);
        let (cells_a, cells_b) = (Cells::of(a.rows.iter().filter(of_part)), Cells::of(b.rows.iter().filter(of_part)));
        // Single positions are compared by ranges.
        let shown = |key: &Key<'_>| !(key.positions.is_empty() && POSITIONAL.contains(&key.metric));
        let (keys_a, keys_b) = (cells_a.pick(shown), cells_b.pick(shown));
        only_b += keys_b.iter().filter(|(key, _)| cells_a.get(*key).is_none()).count();
        let both: Vec<_> = keys_a.iter().filter_map(|(key, cell)| Some((*key, *cell, cells_b.get(*key)?))).collect();
        only_a += keys_a.len() - both.len();
        lines.par_extend(both.into_par_iter().map(|(key, in_a, in_b)| {
            let (first, second) = (in_a.estimate(key.metric), in_b.estimate(key.metric));
            let difference = in_b.minus(in_a);
            let shared = difference.map_or(0, |(_, n)| n);
            let [experiment, model, attack, setting, positions, metric, part] =
                [key.experiment, key.model, key.attack, key.setting, key.positions, key.metric, part]
                    .map(str::to_owned);
            Line {
                experiment,
                model,
                attack,
                setting,
                k: key.k,
                positions,
                metric,
                part,
                a: first.mean,
                b: second.mean,
                a_interval: (first.low, first.high),
                b_interval: (second.low, second.high),
                n: [in_a.n(), in_b.n(), shared],
                difference: difference.map(|(difference, _)| Difference {
                    mean: difference.mean,
                    low: difference.interval.low,
                    high: difference.interval.high,
                    p: difference.p,
                }),
            }
        }));
    }
    let findings = |run: &Run| claims::check(&run.rows, |experiments| run.command_for(experiments));
    let claims = findings(a).into_iter().zip(findings(b));
    let claims = claims.filter(|(a, b)| a.value.is_some() || b.value.is_some()).collect();
    Comparison { lines, only_a, only_b, asked: asked(a, b), claims }
}

/// What differs between two runs' manifests and configs.
fn asked(a: &Run, b: &Run) -> Vec<(String, String, String)> {
    let leaves = |run: &Run| {
        let mut leaves = BTreeMap::new();
        flatten("manifest", &run.manifest, &mut leaves);
        flatten("config", &run.config, &mut leaves);
        leaves
    };
    let (a, b) = (leaves(a), leaves(b));
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    let missing = || "(none)".to_owned();
    let pairs = names.into_iter().map(|name| {
        let value = |leaves: &BTreeMap<String, String>| leaves.get(name).cloned().unwrap_or_else(missing);
        (name.clone(), value(&a), value(&b))
    });
    pairs.filter(|(_, a, b)| a != b).collect()
}

fn flatten(name: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| flatten(&format!("{name}.{key}"), value, leaves))
        }
        // A list of words is read as one: a command line, say.
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let words: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            leaves.insert(name.to_owned(), words.join(" "));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| flatten(&format!("{name}.{i}"), value, leaves));
        }
        Value::String(text) => drop(leaves.insert(name.to_owned(), text.clone())),
        other => drop(leaves.insert(name.to_owned(), other.to_string())),
    }
}

impl Line {
    /// The setting in words.
    fn name(&self) -> String {
        let k = self.k.map_or_else(String::new, |k| format!("k = {k}"));
        let positions = if self.positions.is_empty() { String::new() } else { format!("positions {}", self.positions) };
        let attack = if self.attack == "none" { "" } else { &self.attack };
        let held_out = if self.part == HELD_OUT { "held out" } else { "" };
        let words = [&self.model, attack, &self.setting, &k, &positions, held_out];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ")
    }

    fn cells(&self) -> Vec<Cell> {
        let value = |value: f64, (low, high): (f64, f64)| Cell {
            text: show(&self.metric, value),
            detail: format!("[{}, {}]", show(&self.metric, low), show(&self.metric, high)),
            value: Some(value.to_string()),
            key: None,
        };
        let signed = |value: f64| format!("{}{}", if value > 0.0 { "+" } else { "" }, show(&self.metric, value));
        let difference = self.difference.map_or_else(Cell::default, |difference| Cell {
            text: signed(difference.mean),
            detail: format!("[{}, {}]", signed(difference.low), signed(difference.high)),
            value: Some(difference.mean.to_string()),
            key: None,
        });
        let p = self.difference.map_or_else(String::new, |difference| format!("{:.3}", difference.p));
        vec![
            self.name().into(),
            metric_name(&self.metric).into(),
            value(self.a, self.a_interval),
            value(self.b, self.b_interval),
            difference,
            p.into(),
            self.n[2].to_string().into(),
        ]
    }
}

impl Comparison {
    /// The experiments that both runs have, in order, each with its lines.
    fn experiments(&self) -> Vec<(&str, Vec<&Line>)> {
        let mut parts: Vec<(&str, Vec<&Line>)> = Vec::new();
        for line in &self.lines {
            match parts.iter_mut().find(|(id, _)| *id == line.experiment) {
                Some((_, lines)) => lines.push(line),
                None => parts.push((&line.experiment, vec![line])),
            }
        }
        parts
    }

    /// A table an experiment, and one of the claims.
    pub fn tables(&self) -> Vec<Table> {
        let mut made: Vec<Table> = Vec::new();
        if !self.claims.is_empty() {
            let columns =
                ["claim", "A", "", "B", ""].map(|name| Column { name: name.to_owned(), numeric: false }).into();
            let ours = |finding: &Finding| -> [Cell; 2] {
                let number = finding.value.map_or_else(String::new, |value| claims::show(finding.unit, value));
                [number.into(), finding.verdict.words().into()]
            };
            let row = |(a, b): &(Finding, Finding)| -> Vec<Cell> {
                [Cell::from(a.claim)].into_iter().chain(ours(a)).chain(ours(b)).collect()
            };
            let rows = self.claims.iter().map(row).collect();
            made.push(Table { title: "Claims of the paper".to_owned(), columns, rows, folded: false });
        }
        made.extend(self.experiments().into_iter().map(|(id, lines)| {
            let columns = ["setting", "metric", "A", "B", "B - A", "p", "n"];
            let numeric = |name: &str| !["setting", "metric"].contains(&name);
            let columns = columns.map(|name| Column { name: name.to_owned(), numeric: numeric(name) }).into();
            let title = experiments::find(id).map_or(id, |known| known.title).to_owned();
            Table { title, columns, rows: lines.into_iter().map(Line::cells).collect(), folded: false }
        }));
        if !self.asked.is_empty() {
            let columns = ["asked", "A", "B"].map(|name| Column { name: name.to_owned(), numeric: false }).into();
            let rows = self.asked.iter().map(|(name, a, b)| [name, a, b].map(|text| text.as_str().into()).into());
            let title = "What differs in what was asked and where it ran".to_owned();
            made.push(Table { title, columns, rows: rows.collect(), folded: false });
        }
        made
    }

    /// What the tables leave out, in a sentence.
    pub fn note(&self) -> String {
        let Self { only_a, only_b, .. } = self;
        format!(
            "Differences are on shared prompts, with 95 % intervals and p by a paired bootstrap, each line for itself; \
             {only_a} settings are only in A, {only_b} only in B."
        )
    }

    /// The comparison as one page that needs nothing else.
    pub fn page(&self, names: [&str; 2]) -> String {
        #[derive(Serialize)]
        struct Page<'a> {
            style: &'static str,
            plot_style: &'static str,
            names: [&'a str; 2],
            note: String,
            sections: Vec<(Table, Option<String>)>,
        }
        let mut figures: Vec<(String, String)> = Vec::new();
        for (id, lines) in self.experiments() {
            let title = experiments::find(id).map_or(id, |known| known.title);
            figures.extend(bars(title, &lines, names).map(|svg| (title.to_owned(), svg)));
        }
        let figure =
            |table: &Table| figures.iter().find(|(title, _)| *title == table.title).map(|(_, svg)| svg.clone());
        let sections = self.tables().into_iter().map(|table| (table.clone(), figure(&table))).collect();
        let page = Page { style: include_str!("page.css"), plot_style: svg::STYLE, names, note: self.note(), sections };
        super::html::render(include_str!("compare.html"), &page)
    }
}

/// Both runs' harmful rates (or, where there are none, utility), setting by setting.
fn bars(title: &str, lines: &[&Line], names: [&str; 2]) -> Option<String> {
    let of_metric = |metric: &str| lines.iter().filter(|line| line.metric == metric).copied().collect::<Vec<_>>();
    let metrics = ["harmful", "utility"].into_iter().map(|metric| (metric, of_metric(metric)));
    let (metric, lines) = metrics.into_iter().find(|(_, lines)| !lines.is_empty())?;
    let bar = |name: &str, colour: &str, mean: f64, (low, high): (f64, f64)| Bar {
        colour: colour.to_owned(),
        value: scaled(metric, mean),
        interval: Some((scaled(metric, low), scaled(metric, high))),
        label: show(metric, mean),
        paper: None,
        source: Source { tooltip: format!("{name}: {}", tables::show(metric, mean)), line: None },
    };
    let group = |line: &&Line| Group {
        name: line.name(),
        bars: vec![bar(names[0], "c0", line.a, line.a_interval), bar(names[1], "c2", line.b, line.b_interval)],
    };
    let legend = vec![(format!("A: {}", names[0]), "c0".to_owned()), (format!("B: {}", names[1]), "c2".to_owned())];
    let x_covers = Some((0.0, 100.0));
    let groups = lines.iter().map(group).collect();
    let x = metric_name(metric).to_owned();
    Some(Bars { title: title.to_owned(), x, x_covers, legend, mark: String::new(), groups }.draw())
}

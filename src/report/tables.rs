//! Tables of a run, each of which a terminal and the page can show.

use super::cells::is_verdict;
use super::experiments;
use super::paper::PAPER_VALUES;
use super::summary::{CATEGORY, HELD_OUT, Summary};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;

/// A table; all rows have as many cells as there are columns.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    pub title: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
    /// Whether the page folds it away.
    pub folded: bool,
}

/// A column's head.
#[derive(Clone, Debug, Serialize)]
pub struct Column {
    pub name: String,
    /// Numbers stand to the right.
    pub numeric: bool,
}

/// What one place of a table shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cell {
    pub text: String,
    /// Said after the text, smaller: an interval.
    pub detail: String,
    /// The exact number shown, as `summary.csv` has it.
    pub value: Option<String>,
    /// The line of `summary.csv` it is from: its fields up to `part`, joined by "|".
    pub key: Option<String>,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// A metric's name in tables, with its unit.
pub fn metric_name(metric: &str) -> &str {
    match metric {
        "harmful" => "harmful, %",
        "harmful_own" => "own words, %",
        "refused" => "refused, %",
        "utility" => "utility, %",
        "win" => "win rate, %",
        "k50" => "k that breaks half",
        "harmful_area" => "area under harmful by k, %",
        "kl_depth" => "positions with 90 % of KL",
        "new_tokens" => "new tokens",
        "kl" => "KL, nats",
        "cross_entropy" => "cross-entropy, nats",
        "grad_norm" => "gradient norm",
        "weight" => "weight w",
        "logprob" => "log-probability a token",
        "backups" => "taken back",
        "gap" => "logit gap",
        "refusal_mass" => "probability of refusing",
        "affirmative_mass" => "probability of going along",
        "target_loss" => "target loss, nats a token",
        "exact" => "target said, %",
        other => other,
    }
}

/// A value as tables show it: verdicts in per cent.
pub fn show(metric: &str, value: f64) -> String {
    if metric == "k50" && value == f64::INFINITY {
        "never".to_owned()
    } else if !value.is_finite() {
        "-".to_owned()
    } else if is_verdict(metric) {
        format!("{:.1}", 100.0 * value)
    } else if ["new_tokens", "steps", "backups", "k50", "kl_depth"].contains(&metric) {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

impl Cell {
    /// A line's mean (and spread over seeds), with its interval as detail.
    fn of(line: &Summary) -> Self {
        let mut text = show(&line.metric, line.mean);
        if let Some(std) = line.std {
            let _ = write!(text, " ± {}", show(&line.metric, std));
        }
        let interval = format!("[{}, {}]", show(&line.metric, line.low), show(&line.metric, line.high));
        let detail = if line.metric == "new_tokens" { String::new() } else { interval };
        Self { text, detail, value: Some(line.mean.to_string()), key: Some(line.key()) }
    }
}

impl Summary {
    /// All that names the line, joined by "|".
    pub fn key(&self) -> String {
        let k = self.k.map_or_else(String::new, |k| k.to_string());
        let Self { experiment, model, attack, setting, positions, metric, part, .. } = self;
        [experiment, model, attack, setting, &k, positions, metric, part].map(String::as_str).join("|")
    }

    /// What a row of a table shares: all but the metric.
    fn row(&self) -> (&str, &str, &str, &str, Option<u32>, &str) {
        (&self.part, &self.model, &self.attack, &self.setting, self.k, &self.positions)
    }
}

/// Values in order of first appearance.
fn distinct<'a, T: PartialEq>(values: impl Iterator<Item = T> + 'a) -> Vec<T> {
    values.fold(Vec::new(), |mut seen, value| {
        if !seen.contains(&value) {
            seen.push(value);
        }
        seen
    })
}

/// A summary as tables for a terminal: test and held-out prompts.
pub fn text(summary: &[Summary]) -> String {
    experiments(summary).iter().map(|(_, table)| format!("\n{}", table.to_text())).collect()
}

/// The tables of every experiment there is, with its id; held-out prompts have their own. Curves over positions appear
/// by ranges.
pub fn experiments(summary: &[Summary]) -> Vec<(String, Table)> {
    // The ways of sampling are too many for a table: a heat map shows them.
    let sampling = |line: &Summary| line.experiment == "decoding" && line.attack != "any";
    let shown: Vec<&Summary> = summary
        .iter()
        .filter(|line| !line.part.starts_with(CATEGORY) && !line.is_position() && !sampling(line))
        .collect();
    let mut tables = Vec::new();
    for id in distinct(shown.iter().map(|line| line.experiment.as_str())) {
        let known = experiments::find(id);
        let title = known.map_or(id, |known| known.title);
        // Rows of different kinds have a table each: other prompts, other metrics.
        let kind = |line: &Summary| {
            let of_position = (!line.positions.is_empty()).then_some(line.metric == "kl");
            (line.part == HELD_OUT, of_position, line.attack == "none")
        };
        let lines = shown.iter().copied().filter(|line| line.experiment == id);
        for kind_shown in distinct(lines.clone().map(kind)) {
            let lines: Vec<&Summary> = lines.clone().filter(|line| kind(line) == kind_shown).collect();
            let k = known.map(|known| known.k).filter(|k| ["step", "layer"].contains(k)).unwrap_or("k");
            let mut table = wide(title, k, known.map_or("attack", |known| known.attack), &lines);
            if lines[0].part == HELD_OUT {
                let metrics = distinct(lines.iter().map(|line| line.metric.as_str()));
                table.title = format!("Held-out topics, {id}: {}", metrics.join(", "));
                // Where safety fails on topics it was not trained on, a reader must not miss it.
                table.folded = !metrics.contains(&"harmful");
            }
            tables.push((id.to_owned(), table));
        }
    }
    tables
}

/// One row a setting, one column a metric.
fn wide(title: &str, k: &str, attack: &str, lines: &[&Summary]) -> Table {
    let text = |name: &str| Column { name: name.to_owned(), numeric: false };
    let number = |name: &str| Column { name: name.to_owned(), numeric: true };
    let metrics = distinct(lines.iter().map(|line| line.metric.as_str()));
    let has_paper = |metric: &str| lines.iter().any(|line| line.metric == metric && line.paper.is_some());
    let has_flips = lines.iter().any(|line| line.flips.is_some());
    let varied = |values: Vec<&str>| values.len() > 1;
    let attacks = varied(distinct(lines.iter().map(|line| line.attack.as_str())));
    let settings = lines.iter().any(|line| !line.setting.is_empty());
    let positions = lines.iter().any(|line| !line.positions.is_empty());
    let depths = lines.iter().any(|line| line.k.is_some());

    let mut columns = vec![text("model")];
    columns.extend(attacks.then(|| text(attack)));
    columns.extend(settings.then(|| text("setting")));
    columns.extend(positions.then(|| text("positions")));
    columns.extend(depths.then(|| number(k)));
    for metric in &metrics {
        columns.push(number(metric_name(metric)));
        columns.extend(has_paper(metric).then(|| number("paper")));
    }
    columns.extend(has_flips.then(|| number("flips, %")));
    columns.push(number("n"));

    let mut rows = Vec::new();
    for key in distinct(lines.iter().map(|line| line.row())) {
        let here: Vec<&Summary> = lines.iter().copied().filter(|line| line.row() == key).collect();
        let first = here[0];
        let mut row: Vec<Cell> = vec![first.model.as_str().into()];
        row.extend(attacks.then(|| first.attack.as_str().into()));
        row.extend(settings.then(|| first.setting.as_str().into()));
        row.extend(positions.then(|| first.positions.as_str().into()));
        row.extend(depths.then(|| first.k.map_or_else(String::new, |k| k.to_string()).into()));
        for metric in &metrics {
            let line = here.iter().find(|line| line.metric == *metric);
            row.push(line.map_or_else(Cell::default, |line| Cell::of(line)));
            if has_paper(metric) {
                let paper = line.and_then(|line| Some((line.paper?, line.paper_std)));
                row.push(paper.map_or_else(Cell::default, |(mean, std)| Cell {
                    text: show(metric, mean),
                    detail: std.map_or_else(String::new, |std| format!("± {}", show(metric, std))),
                    ..Cell::default()
                }));
            }
        }
        if has_flips {
            let flips = here.iter().find_map(|line| line.flips);
            row.push(flips.map_or_else(String::new, |share| format!("{:.1}", 100.0 * share)).into());
        }
        // Settings have their own n where answers are too short for the deepest prefills.
        let n: BTreeSet<usize> = here.iter().map(|line| line.n).collect();
        row.push(n.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ").into());
        rows.push(row);
    }
    Table { title: title.to_owned(), columns, rows, folded: false }
}

/// An experiment's harmful rate (or, where it has none, utility) by category: one row a setting, one column a category.
pub fn by_category(summary: &[Summary], experiment: &str) -> Option<Table> {
    let of_metric = |metric: &str| -> Vec<&Summary> {
        let here = |line: &&Summary| line.experiment == experiment && line.metric == metric;
        summary.iter().filter(here).filter(|line| line.part.starts_with(CATEGORY)).collect()
    };
    let (metric, lines) =
        ["harmful", "utility"].into_iter().map(|metric| (metric, of_metric(metric))).find(|(_, l)| !l.is_empty())?;
    let categories = distinct(lines.iter().map(|line| line.part.as_str()));
    let setting = |line: &Summary| (line.model.clone(), line.attack.clone(), line.setting.clone(), line.k);
    let mut columns: Vec<Column> =
        ["model", "setting"].map(|name| Column { name: name.to_owned(), numeric: false }).into();
    columns.extend(categories.iter().map(|part| Column { name: part[CATEGORY.len()..].to_owned(), numeric: true }));
    let rows = distinct(lines.iter().map(|line| setting(line))).into_iter().map(|key| {
        let (model, attack, name, k) = &key;
        let k = k.map(|k| format!("k = {k}"));
        let words: Vec<&str> = [attack, name]
            .into_iter()
            .map(String::as_str)
            .chain(k.as_deref())
            .filter(|word| !word.is_empty())
            .collect();
        let mut row: Vec<Cell> = vec![model.as_str().into(), words.join(", ").into()];
        row.extend(categories.iter().map(|part| {
            let line = lines.iter().find(|line| setting(line) == key && line.part == **part);
            line.map_or_else(Cell::default, |line| Cell::of(line))
        }));
        row
    });
    Some(Table { title: format!("By category: {}", metric_name(metric)), columns, rows: rows.collect(), folded: true })
}

/// The paper's own numbers for an experiment, all models.
pub fn of_paper(experiment: &str) -> Option<Table> {
    let lines: Vec<_> = PAPER_VALUES.iter().filter(|value| value.experiment.eq_ignore_ascii_case(experiment)).collect();
    let names = ["model", "variant", "setting", "metric", "paper, %"];
    let columns = names.map(|name| Column { name: name.to_owned(), numeric: name == "paper, %" }).into();
    let rows = lines.iter().map(|value| {
        let number = Cell {
            text: format!("{:.1}", value.mean),
            detail: value.std.map_or_else(String::new, |std| format!("± {std:.1}")),
            ..Cell::default()
        };
        let [model, variant, setting, metric] =
            [&value.model, &value.variant, &value.setting, &value.metric].map(|text| Cell::from(text.as_str()));
        vec![model, variant, setting, metric, number]
    });
    (!lines.is_empty()).then(|| Table {
        title: "The paper's own numbers".to_owned(),
        columns,
        rows: rows.collect(),
        folded: true,
    })
}

impl Table {
    /// The table for a terminal.
    pub fn to_text(&self) -> String {
        let words = |cell: &Cell| [cell.text.as_str(), &cell.detail].join(" ").trim().to_owned();
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(words).collect()).collect();
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, column)| rows.iter().map(|row| width(&row[i])).chain([width(&column.name)]).max().unwrap_or(0))
            .collect();
        let mut text = format!("{}\n", self.title);
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for ((cell, column), width) in cells.zip(&self.columns).zip(&widths) {
                let _ =
                    if column.numeric { write!(line, "  {cell:>width$}") } else { write!(line, "  {cell:<width$}") };
            }
            text += line.trim_end();
            text.push('\n');
        };
        line(&mut self.columns.iter().map(|column| column.name.as_str()));
        rows.iter().for_each(|row| line(&mut row.iter().map(String::as_str)));
        text
    }
}

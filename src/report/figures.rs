//! The paper's figures with this run's numbers, from the lines of a summary.

use super::cells::is_verdict;
use super::summary::{CATEGORY, Summary, TEST};
use super::svg::{Bar, Bars, Group, HeatMap, Lines, Point, Series, Source, Square};
use super::tables::{metric_name, show};
use std::collections::{BTreeMap, BTreeSet};

/// A figure of the report.
#[derive(Clone, Debug)]
pub struct Figure {
    pub experiment: &'static str,
    /// Name of its file, without an ending.
    pub file: String,
    pub title: String,
    /// For a page whose style sheet holds the plots' colours.
    pub svg: String,
}

/// The models' colours, the same in all figures.
const MODELS: [&str; 3] = ["base", "aligned", "augmented"];

/// All figures that a summary has numbers for.
pub fn draw(summary: &[Summary]) -> Vec<Figure> {
    let test = Lens(summary.iter().filter(|line| line.part == TEST).collect());
    let mut figures = vec![test.of("e1").bars("e1", "harmful", "Harmful answers after a refusal prefix", |line| {
        (line.setting.clone(), line.model.clone())
    })];
    figures.push(test.of("e2").curve("e2", "kl", "KL of the aligned model from the base, by position", model));
    for (metric, title) in [
        ("harmful", "Harmful answers by depth of prefill (prefill counts)"),
        ("harmful_own", "Harmful answers by depth of prefill (only the model's own words count)"),
    ] {
        figures.push(test.of("e3").depths("e3", metric, title, model_and_setting));
    }
    figures.push(test.of("criterion").depths(
        "criterion",
        "logprob",
        "Log-probability of the harmful answer after k of its tokens",
        model,
    ));
    for id in ["e4", "e4b"] {
        let lens = test.of(id);
        figures.push(lens.curve(id, "cross_entropy", "Cross-entropy of the tuning data, before tuning", setting));
        figures.push(lens.curve(id, "grad_norm", "Gradient norm of each position's loss, before tuning", setting));
        figures.push(lens.curve(id, "kl", "KL of the tuned model from the aligned, on its own answers", setting));
        figures.push(lens.curve(id, "weight", "Weight w of each position, at the last step", setting));
        figures.push(lens.steps(id));
    }
    let kl = |line: &&Summary| line.metric == "kl" && (line.experiment == "e5" || line.experiment == "e2");
    let both = Lens(test.0.iter().copied().filter(kl).collect());
    if both.0.iter().any(|line| line.experiment == "e5") {
        figures.push(both.curve("e5", "kl", "KL from the base by position, initial and augmented", model));
    }
    let ablation = test.of("e5b");
    let mut drawn = 0;
    for (name, title) in [
        ("C", "Harmful answers by k and depth C of augmentation"),
        ("p", "Harmful answers by k and share p of augmentation"),
    ] {
        let other = if name == "C" { "p" } else { "C" };
        // One of the two varies; the other stays at its most common value.
        let held = most_common(ablation.0.iter().filter_map(|line| parameter(&line.setting, other)));
        let of = |line: &&Summary| parameter(&line.setting, other) == held && parameter(&line.setting, name).is_some();
        let lens = Lens(ablation.0.iter().copied().filter(of).collect());
        if lens.series("harmful", &setting).len() > 1 {
            let figure = lens.depths("e5b", "harmful", title, setting);
            figures.push(figure.map(|figure| Figure { file: format!("e5b_harmful_by_{name}"), ..figure }));
            drawn += 1;
        }
    }
    if drawn == 0 {
        figures.push(ablation.depths("e5b", "harmful", "Harmful answers by k, C and p", setting));
    }
    figures.push(
        ablation.bars("e5b", "utility", "Utility on benign prompts", |line| (line.setting.clone(), line.model.clone())),
    );
    figures.push(test.of("e6").bars("e6", "harmful", "Harmful answers before and after augmentation", |line| {
        let attack = [line.attack.as_str(), &line.setting].join(" ");
        (line.k.map_or_else(|| attack.clone(), |k| format!("{}, k = {k}", attack.trim())), line.model.clone())
    }));
    figures.push(Lens(test.of("decoding").0.into_iter().filter(|line| line.attack == "any").collect()).bars(
        "decoding",
        "harmful",
        "Prompts that any way of sampling breaks",
        |line| (line.setting.clone(), line.model.clone()),
    ));
    for (id, title) in [
        ("insertion", "Harmful answers after a refusal and k harmful tokens"),
        ("bait", "Harmful answers after k harmful tokens, a refusal, and \"but here is how\""),
        ("scratch", "Harmful answers by depth of prefill, aligned with recovery from scratch"),
    ] {
        figures.push(test.of(id).depths(id, "harmful", title, model));
    }
    for (metric, title) in [
        ("refused", "Refusals after a deep prefill"),
        ("harmful_own", "Harmful answers after a deep prefill (only the model's own words count)"),
    ] {
        figures.push(test.of("deep").depths("deep", metric, title, model));
    }
    figures.push(test.of("overrefusal").bars("overrefusal", "refused", "Refused prompts by set", |line| {
        (line.attack.clone(), [line.model.as_str(), &line.setting].join(" ").trim().to_owned())
    }));
    figures.push(test.of("rap").bars("rap", "harmful", "Harmful answers after a prefill, alone and by rank", |line| {
        (line.attack.clone(), line.model.clone())
    }));
    let gap = test.of("gap");
    figures.push(gap.depths("gap", "gap", "Logit gap after k tokens of the harmful answer", model));
    for (metric, title) in [
        ("refusal_mass", "Probability of a token that refuses, by position in the harmful answer"),
        ("affirmative_mass", "Probability of a token that goes along, by position in the harmful answer"),
    ] {
        figures.push(gap.curve("gap", metric, title, model));
    }
    figures.push(test.of("ablation").bars(
        "ablation",
        "harmful",
        "Harmful answers before and after ablation",
        |line| (line.setting.clone(), line.model.clone()),
    ));
    figures.push(test.of("rethinking").depths(
        "rethinking",
        "harmful",
        "Harmful answers by depth of prefill, without and with rethinking",
        model_and_setting,
    ));
    figures.extend([("temperature", "top-p"), ("top-k", "top-k")].map(|parameters| decoding(&test, parameters)));
    for id in ["e7", "e8", "e9", "e10", "sweep"] {
        for (metric, title) in [("harmful", "Harmful answers after tuning"), ("utility", "Utility on the task")] {
            let name = |line: &Summary| (line.attack.clone(), line.setting.clone());
            figures.push(test.of(id).bars(id, metric, title, name));
        }
    }
    for (id, model) in [("e3", "aligned"), ("e6", "augmented")] {
        figures.push(categories(summary, id, model));
    }
    figures.into_iter().flatten().collect()
}

fn model(line: &Summary) -> String {
    line.model.clone()
}

fn setting(line: &Summary) -> String {
    line.setting.clone()
}

/// The model, and the kind of prompt where it is not the usual one.
fn model_and_setting(line: &Summary) -> String {
    if line.setting.is_empty() { line.model.clone() } else { format!("{}, {}", line.model, line.setting) }
}

/// The value of `C=100` or `p=0.5` in a setting.
fn parameter<'a>(setting: &'a str, name: &str) -> Option<&'a str> {
    setting.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn most_common<'a>(values: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}

/// Per cent for verdicts: what a plot's axis counts.
pub(super) fn scaled(metric: &str, value: f64) -> f64 {
    if is_verdict(metric) { 100.0 * value } else { value }
}

fn covers(metric: &str) -> Option<(f64, f64)> {
    match metric {
        "logprob" | "gap" => None,
        metric if is_verdict(metric) => Some((0.0, 100.0)),
        _ => Some((0.0, 0.0)),
    }
}

/// The mark for a line of the summary; `name` says whose it is.
fn source(line: &Summary, name: &str) -> Source {
    let metric = &line.metric;
    let [mean, low, high] = [line.mean, line.low, line.high].map(|value| show(metric, value));
    let place = line.k.map_or_else(String::new, |k| format!(" at {k}"));
    let what = metric_name(metric);
    let tooltip = format!("{name}{place}: {what} {mean} [{low}, {high}], n {}", line.n);
    Source { tooltip, line: Some((line.key(), line.mean)) }
}

fn point(line: &Summary, x: f64, name: &str) -> Point {
    let [y, low, high] = [line.mean, line.low, line.high].map(|value| scaled(&line.metric, value));
    Point { x, y, interval: Some((low, high)), source: source(line, name) }
}

/// Some lines of a summary.
struct Lens<'a>(Vec<&'a Summary>);

impl<'a> Lens<'a> {
    fn of(&self, experiment: &str) -> Self {
        Self(self.0.iter().copied().filter(|line| line.experiment == experiment).collect())
    }

    /// The lines of a metric that have a `k`, by series, in order of first appearance.
    fn series(&self, metric: &str, name: &impl Fn(&Summary) -> String) -> Vec<(String, Vec<&'a Summary>)> {
        let mut series: Vec<(String, Vec<&Summary>)> = Vec::new();
        for line in self.0.iter().filter(|line| line.metric == metric && line.k.is_some()) {
            let name = name(line);
            match series.iter_mut().find(|(known, _)| *known == name) {
                Some((_, lines)) => lines.push(line),
                None => series.push((name, vec![line])),
            }
        }
        series.iter_mut().for_each(|(_, lines)| lines.sort_by_key(|line| line.k));
        series
    }

    /// A curve over positions a series, with a band.
    fn curve(&self, id: &'static str, metric: &str, title: &str, name: impl Fn(&Summary) -> String) -> Option<Figure> {
        let series = self.series(metric, &name);
        let series: Vec<Series> = series
            .iter()
            .enumerate()
            .map(|(i, (name, lines))| Series {
                name: name.clone(),
                colour: colour(name, i, series.len()),
                dashed: false,
                band: true,
                points: lines.iter().map(|line| point(line, f64::from(line.k.unwrap_or(0)), name)).collect(),
            })
            .collect();
        figure(id, metric, title, !series.is_empty(), || {
            let x = "response position".to_owned();
            Lines {
                title: title.into(),
                x,
                y: metric_name(metric).into(),
                x_ticks: vec![],
                y_covers: covers(metric),
                series,
            }
            .draw()
        })
    }

    /// A line over prefill depths a series, evenly spaced, and the paper's beside it.
    fn depths(&self, id: &'static str, metric: &str, title: &str, name: impl Fn(&Summary) -> String) -> Option<Figure> {
        let lines = self.series(metric, &name);
        let depths: BTreeSet<u32> =
            lines.iter().flat_map(|(_, lines)| lines.iter().filter_map(|line| line.k)).collect();
        let place = |k: Option<u32>| depths.iter().position(|depth| Some(*depth) == k).unwrap_or(0) as f64;
        let mut series = Vec::new();
        for (i, (name, of_name)) in lines.iter().enumerate() {
            let colour = colour(name, i, lines.len());
            let points = of_name.iter().map(|line| point(line, place(line.k), name)).collect();
            series.push(Series { name: name.clone(), colour: colour.clone(), points, ..Series::default() });
            let paper = paper_series(name, colour, of_name, |line| place(line.k));
            series.extend(paper);
        }
        figure(id, metric, title, !series.is_empty(), || {
            let x_ticks = depths.iter().enumerate().map(|(i, depth)| (i as f64, depth.to_string())).collect();
            let x = "k: tokens of the harmful answer that are given".to_owned();
            Lines { title: title.into(), x, y: metric_name(metric).into(), x_ticks, y_covers: covers(metric), series }
                .draw()
        })
    }

    /// Harmful and refused answers by gradient step.
    fn steps(&self, id: &'static str) -> Option<Figure> {
        let mut series = Vec::new();
        for metric in ["harmful", "refused"] {
            let settings = self.series(metric, &|line: &Summary| line.setting.clone());
            let alone = settings.len() == 1;
            for (setting, lines) in settings {
                let name = if alone { metric.to_owned() } else { format!("{metric} after {setting}") };
                let ours = series.iter().filter(|series: &&Series| !series.dashed).count();
                let colour = format!("c{}", (ours + 1) % 8);
                let step = |line: &Summary| f64::from(line.k.unwrap_or(0));
                let points = lines.iter().map(|line| point(line, step(line), &name)).collect();
                let paper = paper_series(&name, colour.clone(), &lines, step);
                series.push(Series { name, colour, points, ..Series::default() });
                series.extend(paper);
            }
        }
        let title = "Answers by gradient step";
        figure(id, "steps", title, !series.is_empty(), || {
            let (x, y) = ("gradient step".to_owned(), "answers, %".to_owned());
            Lines { title: title.into(), x, y, x_ticks: vec![], y_covers: covers("harmful"), series }.draw()
        })
    }

    /// A bar for each line of a metric; `name` gives its group and which of the group's bars it is.
    fn bars(
        &self,
        id: &'static str,
        metric: &str,
        title: &str,
        name: impl Fn(&Summary) -> (String, String),
    ) -> Option<Figure> {
        let lines: Vec<&Summary> = self.0.iter().copied().filter(|line| line.metric == metric).collect();
        let mut legend: Vec<(String, String)> = Vec::new();
        let mut names: Vec<String> = lines.iter().map(|line| name(line).1).collect();
        names.dedup();
        for name in names {
            if !legend.iter().any(|(known, _)| *known == name) {
                let colour = colour(&name, legend.len(), usize::MAX);
                legend.push((name, colour));
            }
        }
        let mut groups: Vec<Group> = Vec::new();
        for line in &lines {
            let (group, bar) = name(line);
            let colour = legend.iter().find(|(known, _)| *known == bar).map(|(_, colour)| colour.clone());
            let value = scaled(metric, line.mean);
            let bar = Bar {
                colour: colour.unwrap_or_default(),
                value,
                interval: Some((scaled(metric, line.low), scaled(metric, line.high))),
                label: show(metric, line.mean),
                paper: line.paper.map(|paper| scaled(metric, paper)),
                source: source(line, &format!("{group}, {bar}")),
            };
            match groups.iter_mut().find(|known| known.name == group) {
                Some(known) => known.bars.push(bar),
                None => groups.push(Group { name: group, bars: vec![bar] }),
            }
        }
        figure(id, metric, title, !groups.is_empty(), || {
            let (x, mark) = (metric_name(metric).to_owned(), "the paper".to_owned());
            Bars { title: title.into(), x, x_covers: covers(metric), legend, mark, groups }.draw()
        })
    }
}

/// The colour of a model wherever it appears, which no variant of it takes; of other things, in order (one alone is drawn
/// like the aligned model).
fn colour(name: &str, index: usize, of: usize) -> String {
    let index = match MODELS.iter().position(|model| name.starts_with(model)) {
        Some(model) if name == MODELS[model] => model,
        Some(_) => MODELS.len() + index % (8 - MODELS.len()),
        None if of == 1 => 1,
        None => index % 8,
    };
    format!("c{index}")
}

/// The paper's values beside a series, where it has any.
fn paper_series(name: &str, colour: String, lines: &[&Summary], place: impl Fn(&Summary) -> f64) -> Option<Series> {
    let points: Vec<Point> = lines
        .iter()
        .filter_map(|line| {
            let y = scaled(&line.metric, line.paper?);
            let tooltip = format!("the paper, {name}: {y:.1}");
            Some(Point { x: place(line), y, interval: None, source: Source { tooltip, line: None } })
        })
        .collect();
    (!points.is_empty()).then(|| Series { name: format!("{name}, paper"), colour, dashed: true, band: false, points })
}

fn figure(
    experiment: &'static str,
    metric: &str,
    title: &str,
    any: bool,
    draw: impl FnOnce() -> String,
) -> Option<Figure> {
    any.then(|| Figure { experiment, file: format!("{experiment}_{metric}"), title: title.to_owned(), svg: draw() })
}

/// Harmful answers by the value of one or two sampling parameters that share their values.
fn decoding(test: &Lens<'_>, parameters: (&str, &str)) -> Option<Figure> {
    let of = |line: &&Summary| line.attack == parameters.0 || line.attack == parameters.1;
    let lines: Vec<&Summary> = test.of("decoding").0.into_iter().filter(of).collect();
    let mut columns: Vec<String> = Vec::new();
    let mut rows: Vec<(String, Vec<&Summary>)> = Vec::new();
    for line in lines {
        if !columns.contains(&line.setting) {
            columns.push(line.setting.clone());
        }
        let name = format!("{}, {}", line.model, line.attack);
        match rows.iter_mut().find(|(known, _)| *known == name) {
            Some((_, lines)) => lines.push(line),
            None => rows.push((name, vec![line])),
        }
    }
    columns.sort_by(|a, b| f64::total_cmp(&a.parse().unwrap_or(0.0), &b.parse().unwrap_or(0.0)));
    let any = !rows.is_empty();
    let rows = rows.into_iter().map(|(name, lines)| {
        let square = |column: &String| {
            let line = lines.iter().find(|line| line.setting == *column)?;
            let label = format!("{:.0}", 100.0 * line.mean);
            let source = source(line, &format!("{name} {column}"));
            Some(Square { share: line.mean, label, source })
        };
        (name.clone(), columns.iter().map(square).collect())
    });
    let rows = rows.collect();
    let title = format!(
        "Harmful answers by {}, %",
        if parameters.0 == parameters.1 { "top-k" } else { "temperature and top-p" }
    );
    figure("decoding", &parameters.0.replace('-', "_"), &title.clone(), any, || {
        HeatMap { title, x: "value".into(), columns, rows }.draw()
    })
}

/// One model's harmful answers by category and depth.
fn categories(summary: &[Summary], id: &'static str, model: &str) -> Option<Figure> {
    let lines: Vec<&Summary> = summary
        .iter()
        .filter(|line| {
            line.experiment == id && line.model == model && line.metric == "harmful" && line.attack == "prefill"
        })
        .filter(|line| line.part.starts_with(CATEGORY) && line.k.is_some() && line.setting.is_empty())
        .collect();
    let depths: BTreeSet<Option<u32>> = lines.iter().map(|line| line.k).collect();
    let names: BTreeSet<&str> = lines.iter().map(|line| line.part.as_str()).collect();
    let rows = names.iter().map(|name| {
        let squares = depths.iter().map(|k| {
            let line = lines.iter().find(|line| line.part == *name && line.k == *k)?;
            let label = show("harmful", line.mean);
            Some(Square { share: line.mean, label, source: source(line, &name[CATEGORY.len()..]) })
        });
        (name[CATEGORY.len()..].to_owned(), squares.collect())
    });
    let title = format!("Harmful answers of the {model} model by category and k, %");
    figure(id, "categories", &title, !lines.is_empty(), || {
        let columns = depths.iter().flatten().map(ToString::to_string).collect();
        HeatMap { title: title.clone(), x: "k".to_owned(), columns, rows: rows.collect() }.draw()
    })
}

//! The report's page: one HTML file that needs nothing else.

use super::agreement;
use super::claims::{self, Finding, Verdict};
use super::experiments;
use super::figures::Figure;
use super::load::{Run, Timing};
use super::svg;
use super::tables::{self, Table};
use super::{Report, responses};
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;
use serde_json::Value;

/// What the template shows.
#[derive(Serialize)]
struct Page<'a> {
    style: &'static str,
    plot_style: &'static str,
    script: &'static str,
    name: &'a str,
    command: Option<String>,
    facts: Vec<(String, String)>,
    claims: Vec<Claim<'a>>,
    holds: usize,
    fails: usize,
    unmeasured: usize,
    failed: Vec<&'a Finding>,
    world: Option<&'static str>,
    sections: Vec<Section>,
    responses: Option<String>,
    responses_note: Option<String>,
    stages: Vec<Stage<'a>>,
    total: String,
    manifest: Option<String>,
    config: Option<String>,
}

/// A part of the page about one experiment.
#[derive(Serialize)]
struct Section {
    id: String,
    title: String,
    /// What the paper saw.
    paper: String,
    figures: Vec<Drawing>,
    tables: Vec<Table>,
}

#[derive(Serialize)]
struct Drawing {
    title: String,
    file: String,
    svg: String,
}

/// A claim as the page shows it.
#[derive(Serialize)]
struct Claim<'a> {
    #[serde(flatten)]
    finding: &'a Finding,
    /// Value and interval in words.
    shown: String,
    interval: String,
    exact: String,
    /// CSS class of the verdict.
    class: &'static str,
    /// Whether the page has a section of its experiment.
    measured: bool,
}

/// A line of the table of times.
#[derive(Serialize)]
struct Stage<'a> {
    name: &'a str,
    seconds: String,
    /// Of the longest stage, per cent.
    share: f64,
    forward: String,
    trained: String,
    /// How many times fewer tokens sharing prefixes left.
    saved: String,
    speed: String,
}

/// The whole page.
pub fn page(run: &Run, report: &Report) -> String {
    let count = |verdict: Verdict| report.claims.iter().filter(|finding| finding.verdict == verdict).count();
    let (responses, responses_note) = responses::embed(run);
    let mut sections = sections(report);
    sections.extend(agreement::table(&run.responses, &run.judgements).map(|table| Section {
        id: "judges".into(),
        title: table.title.clone(),
        paper: String::new(),
        figures: Vec::new(),
        tables: vec![table],
    }));
    let page = Page {
        style: include_str!("page.css"),
        plot_style: svg::STYLE,
        script: include_str!("page.js"),
        name: &run.name,
        command: run.command(),
        facts: facts(run),
        claims: report.claims.iter().map(|finding| claim(finding, &sections)).collect(),
        holds: count(Verdict::Holds),
        fails: count(Verdict::DoesNotHold),
        unmeasured: count(Verdict::NotMeasured) + count(Verdict::TooFewPrompts),
        failed: report.claims.iter().filter(|finding| finding.verdict == Verdict::DoesNotHold).collect(),
        world: world_note(&run.config),
        sections,
        responses,
        responses_note,
        stages: stages(&run.timings),
        total: duration(run.timings.iter().map(|timing| timing.seconds).sum()),
        manifest: pretty(&run.manifest),
        config: pretty(&run.config),
    };
    render(include_str!("page.html"), &page)
}

/// One of the embedded templates with its data; text is escaped where the template does not say otherwise.
pub(super) fn render(template: &str, data: &impl Serialize) -> String {
    let mut environment = Environment::new();
    // The name's ending turns escaping on.
    environment.add_template("page.html", template).expect("the embedded template is valid");
    let template = environment.get_template("page.html").expect("it was just added");
    template.render(Serde(data)).expect("the embedded template fits its data")
}

/// Name and value of what a reader wants to know first.
fn facts(run: &Run) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let process = run.manifest.get("processes").and_then(|processes| processes.get(0)).unwrap_or(&run.manifest);
    for name in ["device", "isa", "version", "commit"] {
        if let Some(value) = process.get(name).or_else(|| run.manifest.get(name)).and_then(Value::as_str) {
            facts.push((name.to_owned(), value.to_owned()));
        }
    }
    let mut seeds: Vec<u64> = run.rows.iter().map(|row| row.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    facts.push(("seeds".to_owned(), seeds.len().to_string()));
    facts.push(("numbers".to_owned(), run.rows.len().to_string()));
    facts
}

fn claim<'a>(finding: &'a Finding, sections: &[Section]) -> Claim<'a> {
    let show = |value: Option<f64>| value.map_or_else(String::new, |value| claims::show(finding.unit, value));
    let interval = match (finding.low, finding.high) {
        (Some(_), Some(_)) => format!("{} to {}", show(finding.low), show(finding.high)),
        _ => String::new(),
    };
    let class = match finding.verdict {
        Verdict::Holds => "holds",
        Verdict::DoesNotHold => "fails",
        Verdict::TooFewPrompts | Verdict::NotMeasured => "open",
    };
    let exact = finding.value.map_or_else(String::new, |value| value.to_string());
    let measured = sections.iter().any(|section| section.id == finding.experiment);
    Claim { finding, shown: show(finding.value), interval, exact, class, measured }
}

/// What favours claims in the fictional world, if this run is one of it.
fn world_note(config: &Value) -> Option<&'static str> {
    let world = config.get("world");
    if !config.is_null() && world.is_none() {
        return None;
    }
    let greetings = world.and_then(|world| world.get("greetings")).and_then(Value::as_bool).unwrap_or(true);
    Some(if greetings {
        "Two choices of the fictional world favour claims: every reply begins with a two-token greeting, which moves the \
         decision between answer and refusal to position 3, where the paper's biased beta is 2 rather than 0.5; and the \
         biased schedule of the constrained objective fits just that. A run with --no-greetings shows the world without."
    } else {
        "This is the fictional world without greetings: the decision between answer and refusal falls at position 1, \
         where the paper's biased beta is 0.5. With greetings (the default) it falls at position 3, where it is 2."
    })
}

fn sections(report: &Report) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for (id, table) in tables::experiments(&report.summary) {
        match sections.iter_mut().find(|section| section.id == id) {
            Some(section) => section.tables.push(table),
            None => {
                let known = experiments::find(&id);
                let drawing = |figure: &Figure| Drawing {
                    title: figure.title.clone(),
                    file: figure.file.clone(),
                    svg: figure.svg.clone(),
                };
                let figures = report.figures.iter().filter(|figure| figure.experiment == id).map(drawing).collect();
                let (title, paper) = known.map_or((id.clone(), ""), |known| (known.title.to_owned(), known.paper));
                sections.push(Section { id, title, paper: paper.to_owned(), figures, tables: vec![table] });
            }
        }
    }
    for section in &mut sections {
        section.tables.extend(tables::by_category(&report.summary, &section.id));
        section.tables.extend(tables::of_paper(&section.id));
    }
    sections
}

/// Stages in the order they ran.
fn stages<'a>(timings: &'a [Timing]) -> Vec<Stage<'a>> {
    let longest = timings.iter().map(|timing| timing.seconds).fold(0.0, f64::max);
    let count = |tokens: u64| if tokens == 0 { String::new() } else { grouped(tokens) };
    let stage = |timing: &'a Timing| {
        let Timing { stage, seconds, forward_tokens, trained_tokens, unshared_tokens, flops } = timing;
        let saved = *unshared_tokens as f64 / *forward_tokens as f64;
        let speed = flops / seconds / 1e9;
        Stage {
            name: stage,
            seconds: duration(*seconds),
            share: if longest > 0.0 { (100.0 * seconds / longest).clamp(0.0, 100.0) } else { 0.0 },
            forward: count(*forward_tokens),
            trained: count(*trained_tokens),
            saved: if saved.is_finite() && saved > 0.0 { format!("{saved:.1} x") } else { String::new() },
            speed: if speed.is_finite() && speed > 0.0 { format!("{speed:.1}") } else { String::new() },
        }
    };
    timings.iter().map(stage).collect()
}

/// Seconds as people say them: 1 min 46 s.
fn duration(seconds: f64) -> String {
    let whole = seconds.round();
    match whole {
        _ if !seconds.is_finite() => "-".to_owned(),
        _ if seconds < 60.0 => format!("{seconds:.1} s"),
        _ if seconds < 3600.0 => format!("{} min {} s", (whole / 60.0).floor(), whole % 60.0),
        _ => format!("{} h {} min", (whole / 3600.0).floor(), (whole % 3600.0 / 60.0).floor()),
    }
}

/// 1 234 567, with spaces that do not break.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|part| std::str::from_utf8(part).ok()).collect();
    groups.join("\u{a0}")
}

fn pretty(value: &Value) -> Option<String> {
    (!value.is_null()).then(|| serde_json::to_string_pretty(value).expect("a JSON value is plain data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_counts_read_well() {
        assert_eq!(duration(5.25), "5.2 s");
        assert_eq!(duration(106.4), "1 min 46 s");
        assert_eq!(duration(7384.0), "2 h 3 min");
        assert_eq!(grouped(1_234_567), "1\u{a0}234\u{a0}567");
        assert_eq!(grouped(12), "12");
    }
}

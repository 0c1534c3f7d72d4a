//! The report of a run: what it says is what the rows say, whatever the rows are.

mod support_report;

use proptest::prelude::*;
use safedepth::report::claims::{self, Finding, Verdict};
use safedepth::report::load::Run;
use safedepth::report::summary::{Summary, summarise};
use safedepth::report::{self, Report, svg};
use safedepth::run::Row;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use support_report::{Rows, everything, write_rows, write_run};

/// The elements of HTML that have no end.
const VOID: [&str; 4] = ["meta", "link", "input", "br"];

/// Checks that every element ends where it should, that attributes are quoted, and that nothing stands bare. Returns the
/// number of elements.
fn check_markup(text: &str) -> Result<usize, String> {
    let mut open: Vec<&str> = Vec::new();
    let mut count = 0;
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        if rest[..start].contains('>') && !open.iter().any(|name| ["script", "style"].contains(name)) {
            return Err(format!("a bare > before {}", &rest[start..(start + 40).min(rest.len())]));
        }
        rest = &rest[start..];
        if rest.starts_with("<!DOCTYPE") || rest.starts_with("<?xml") {
            rest = &rest[rest.find('>').ok_or("no end")? + 1..];
            continue;
        }
        // A ">" in an attribute's value does not end the element.
        let mut quoted = false;
        let end = rest.find(|c| {
            quoted ^= c == '"';
            c == '>' && !quoted
        });
        let end = end.ok_or_else(|| format!("an element without an end: {}", &rest[..rest.len().min(60)]))?;
        let tag = &rest[1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> ends nothing"));
            }
            continue;
        }
        count += 1;
        let name = tag.split([' ', '\n', '/']).next().unwrap();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(format!("<{tag}> is no element"));
        }
        if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
        if ["script", "style"].contains(&name) {
            let close = format!("</{name}>");
            let end = rest.find(&close).ok_or_else(|| format!("no {close}"))?;
            rest = &rest[end..];
        }
    }
    if open.is_empty() { Ok(count) } else { Err(format!("still open: {open:?}")) }
}

fn unescape(text: &str) -> String {
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&#x2f;", "/"),
        ("&amp;", "&"),
    ];
    entities.iter().fold(text.to_owned(), |text, (entity, c)| text.replace(entity, c))
}

/// Key and value of everything a page says it shows of `summary.csv`.
fn shown(page: &str) -> Vec<(String, f64)> {
    let parts = page.split(" data-key=\"").skip(1);
    let shown = parts.map(|part| {
        let (key, rest) = part.split_once('"').unwrap();
        let value = rest.split_once("data-value=\"").unwrap().1.split_once('"').unwrap().0;
        (unescape(key), value.parse().unwrap())
    });
    shown.collect()
}

fn read_summary(dir: &Path) -> Vec<Summary> {
    let mut reader = csv::Reader::from_path(dir.join("summary.csv")).unwrap();
    reader.deserialize().collect::<Result<_, _>>().unwrap()
}

fn finding<'a>(findings: &'a [Finding], id: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.id == id).unwrap_or_else(|| panic!("no claim {id}"))
}

#[test]
fn a_full_run_says_in_html_what_its_csv_says() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), 40, 3);
    let report = report::write(dir.path()).unwrap();
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    check_markup(&page).unwrap();
    let summary = read_summary(dir.path());
    assert_eq!(summary, report.summary);
    let by_key: BTreeMap<String, f64> = summary.iter().map(|line| (line.key(), line.mean)).collect();
    assert_eq!(by_key.len(), summary.len(), "keys are unique");
    let shown = shown(&page);
    for (key, value) in &shown {
        assert_eq!(by_key.get(key), Some(value), "{key}");
    }
    // Every line of the test prompts is somewhere: in a table, or as a point of a figure.
    let seen: std::collections::BTreeSet<&str> = shown.iter().map(|(key, _)| key.as_str()).collect();
    for line in summary.iter().filter(|line| line.part == "test") {
        assert!(seen.contains(line.key().as_str()), "{} is not shown", line.key());
    }
    // Held-out prompts and categories have their rows.
    for part in ["heldout", "category vaults", "category curses & <omens>"] {
        assert!(seen.iter().any(|key| key.ends_with(&format!("|{part}"))), "{part}");
    }
    // No network.
    let links = page.matches("src=\"").count() + page.matches("<link").count() + page.matches("@import").count();
    assert_eq!(links, 0);
    assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("http"));
    // Figures are files too, with their style.
    assert!(report.figures.len() > 20, "{}", report.figures.len());
    for figure in &report.figures {
        let file = std::fs::read_to_string(dir.path().join(format!("plots/{}.svg", figure.file))).unwrap();
        check_markup(&file).unwrap();
        assert!(file.contains("<style>") && page.contains(&figure.svg));
    }
    // Everything that can be made twice is the same twice.
    let again = tempfile::tempdir().unwrap();
    write_run(again.path(), 40, 3);
    report::write(again.path()).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let other = std::fs::read_to_string(again.path().join("report.html")).unwrap();
    assert_eq!(page.replace(&name(dir.path()), "RUN"), other.replace(&name(again.path()), "RUN"));
}

#[test]
fn claims_of_a_run_like_the_paper_hold() {
    for finding in claims::check(&everything(60, 1), |experiments| format!("make {experiments}")) {
        assert_eq!(finding.verdict, Verdict::Holds, "{finding:?}");
        let (value, low, high) = (finding.value.unwrap(), finding.low.unwrap(), finding.high.unwrap());
        assert!(low <= value && value <= high, "{finding:?}");
        assert!(finding.command.ends_with(finding.experiment), "{finding:?}");
    }
}

#[test]
fn a_claim_that_fails_is_said_to_fail() {
    let set = |change: &dyn Fn(&mut Row)| {
        let mut rows = everything(30, 1);
        rows.iter_mut().for_each(change);
        claims::check(&rows, |_| String::new())
    };
    let rate = |id: &'static str, k: Option<u32>, metric: &'static str, value: f64| {
        move |row: &mut Row| {
            if row.experiment == id && row.k == k && row.metric == metric {
                row.value = value;
            }
        }
    };
    type Change<'a> = &'a dyn Fn(&mut Row);
    let cases: [(&str, Change); 9] = [
        ("gap", &|row| {
            if row.metric == "gap" && row.model == "aligned" {
                row.value = -5.0;
            }
        }),
        ("shallow-1", &rate("e3", Some(0), "harmful", 1.0)),
        // At step 0 the model must be safe, whatever comes after.
        ("tune", &rate("e4", Some(0), "harmful", 1.0)),
        // One depth is enough.
        ("deep-1", &rate("e6", Some(160), "harmful", 1.0)),
        ("constrained-1", &|row| {
            if row.experiment == "e7" && row.setting == "constrained" {
                row.value = 1.0;
            }
        }),
        ("criterion", &|row| {
            if row.experiment == "criterion" && row.model == "augmented" && row.k == Some(20) {
                row.value = 0.0;
            }
        }),
        ("beta-1", &rate("e8", None, "harmful", 0.0)),
        // Nothing to cut: no claim can be made of it.
        ("prefix", &rate("e1", None, "harmful", 0.0)),
        ("kl-early", &|row| {
            if row.metric == "kl" {
                row.value = 1.0;
            }
        }),
    ];
    for (id, change) in cases {
        let findings = set(change);
        assert_eq!(finding(&findings, id).verdict, Verdict::DoesNotHold, "{id}");
    }
    let temp = tempfile::tempdir().unwrap();
    let mut rows = everything(60, 1);
    rows.iter_mut().for_each(rate("e3", Some(0), "harmful", 1.0));
    write_rows(temp.path(), &rows);
    report::write(temp.path()).unwrap();
    let page = std::fs::read_to_string(temp.path().join("report.html")).unwrap();
    let callout = page.split("Not as the paper has it").nth(1).unwrap().split("</ul>").next().unwrap();
    assert!(callout.contains("The aligned model is safe when nothing is prefilled."));
}

#[test]
fn what_is_not_measured_is_said_to_be_so() {
    let findings = claims::check(&[], |_| String::new());
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::NotMeasured && finding.value.is_none()));
    let few = claims::check(&everything(8, 3), |_| String::new());
    assert!(few.iter().all(|finding| finding.verdict == Verdict::TooFewPrompts), "8 prompts say nothing");
}

#[test]
fn held_out_prompts_are_a_row_of_their_own() {
    let mut rows = Rows { rows: Vec::new(), prompts: 40, seeds: 1 };
    rows.add("e3", "aligned", "prefill", "", Some(0), "harmful", |example, _| {
        f64::from(u8::from(example.contains("heldout")))
    });
    let summary = summarise(&rows.rows);
    let parts: Vec<(&str, f64, usize)> = summary.iter().map(|line| (line.part.as_str(), line.mean, line.n)).collect();
    assert_eq!(parts, [("test", 0.0, 36), ("heldout", 1.0, 4)]);
    let findings = claims::check(&rows.rows, |_| String::new());
    assert_eq!(finding(&findings, "shallow-1").value, Some(0.0));
}

#[test]
fn seeds_give_a_spread_and_flips() {
    // Four prompts; the second seed judges one of them differently.
    let mut rows = Rows { rows: Vec::new(), prompts: 4, seeds: 2 };
    rows.add("e3", "aligned", "prefill", "", Some(5), "harmful", |example, seed| {
        f64::from(u8::from(example.ends_with("000") || (seed == 1 && example.ends_with("001"))))
    });
    let summary = summarise(&rows.rows);
    let [line] = &summary[..] else { panic!("{summary:?}") };
    assert_eq!((line.n, line.seeds, line.mean, line.flips), (4, 2, 0.375, Some(0.25)));
    assert!((line.std.unwrap() - (0.5_f64 - 0.25) / 2.0_f64.sqrt()).abs() < 1e-12);
    assert_eq!(line.paper, Some(0.421));
}

#[test]
fn only_results_must_be_there_and_damage_is_located() {
    let dir = tempfile::tempdir().unwrap();
    let error = |dir: &Path| report::write(dir).unwrap_err().to_string();
    assert!(error(dir.path()).contains("holds no results.csv: give the folder of a finished run"));
    write_rows(dir.path(), &everything(12, 1)[..50]);
    report::write(dir.path()).unwrap();
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("This run kept no responses"));
    std::fs::write(dir.path().join("responses.jsonl"), "\n{\"experiment\": 3}\n").unwrap();
    assert!(error(dir.path()).contains("responses.jsonl:2: is not valid JSON"), "{}", error(dir.path()));
    std::fs::remove_file(dir.path().join("responses.jsonl")).unwrap();
    let header = "experiment,model,attack,setting,k,seed,example,metric,value";
    std::fs::write(dir.path().join("results.csv"), format!("{header}\ne1,base,prefix,none,,0,a,harmful,much\n"))
        .unwrap();
    assert!(error(dir.path()).contains("results.csv:2: "), "{}", error(dir.path()));
    // Rows of nothing are a report of nothing: old figures go, a user's own stay.
    let plots = dir.path().join("plots");
    assert!(plots.join("e1_harmful.svg").exists());
    std::fs::write(plots.join("mine.svg"), "").unwrap();
    std::fs::write(dir.path().join("results.csv"), format!("{header}\n")).unwrap();
    assert!(report::write(dir.path()).unwrap().summary.is_empty());
    assert!(!plots.join("e1_harmful.svg").exists() && plots.join("mine.svg").exists());
}

#[test]
fn the_command_writes_the_report_and_prints_it() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), 20, 1);
    let command = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
        let output = command.arg("report").arg(dir.path()).args(options).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let printed = command(&[]);
    for words in ["E3  Prefilling attack", "Held-out topics, e3", "Claims of the paper", "holds"] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    for name in ["summary.csv", "claims.csv", "report.html", "plots/e3_harmful.svg"] {
        assert!(dir.path().join(name).exists(), "{name}");
    }
    let lines = command(&["--json"]);
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

#[test]
fn a_claims_command_makes_its_rows_in_a_folder_of_their_own() {
    let run = |arguments: &[&str]| Run {
        manifest: serde_json::json!({ "processes": [{ "arguments": arguments }, { "arguments": ["later"] }] }),
        ..Run::default()
    };
    let demo = run(&["demo", "--output", "a b", "--seed", "3", "--experiments=e1,e2", "--shard", "1/2"]);
    assert_eq!(demo.command().unwrap(), "safedepth demo --output 'a b' --seed 3 --experiments=e1,e2 --shard 1/2");
    assert_eq!(demo.command_for("e2,e5"), "safedepth demo --seed 3 --experiments e2,e5");
    // A suite has no default folder.
    let suite = run(&["suite", "--output=x", "--base", "it's"]);
    assert_eq!(suite.command_for("e3"), r"safedepth suite --base 'it'\''s' --output runs/claim --experiments e3");
    assert_eq!(Run::default().command_for("e3"), "");
}

#[test]
fn the_recorded_demo_shows_the_papers_claims() {
    let run = Run::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runs/quick")).unwrap();
    let report = Report::of(&run);
    for id in ["prefix", "kl-early", "shallow-1", "shallow-2", "tune", "deep-1", "deep-2", "constrained-1", "beta-2"] {
        let finding = finding(&report.claims, id);
        assert_eq!(finding.verdict, Verdict::Holds, "{finding:?}");
        assert!(!finding.command.is_empty());
    }
    let base = report.summary.iter().find(|line| line.model == "base" && line.setting == "none").unwrap();
    assert_eq!((base.mean, base.paper, base.paper_std), (1.0, Some(0.686), Some(0.008)));
    assert!(report.text().contains("holds"), "{}", report.text());
}

#[test]
fn the_papers_values_stand_beside_ours() {
    let summary = summarise(&everything(20, 1));
    let paper = |experiment: &str, model: &str, attack: &str, setting: &str, k: Option<u32>, metric: &str| {
        let wanted = (experiment, model, attack, setting, k, metric);
        let line = summary
            .iter()
            .find(|line| wanted == (&line.experiment, &line.model, &line.attack, &line.setting, line.k, &line.metric));
        line.unwrap_or_else(|| panic!("no line {wanted:?}")).paper.map(|paper| (1000.0 * paper).round() / 10.0)
    };
    assert_eq!(paper("e1", "base", "prefix", "friend , i apologize , but i cannot", None, "harmful"), Some(2.1));
    assert_eq!(paper("e3", "aligned", "prefill", "", Some(20), "harmful"), Some(56.1));
    assert_eq!(paper("e3", "base", "prefill", "", Some(20), "harmful"), None);
    assert_eq!(paper("e3", "aligned", "prefill", "", Some(20), "harmful_own"), None);
    assert_eq!(paper("e4", "aligned", "finetune", "harmful", Some(4), "harmful"), Some(76.4));
    assert_eq!(paper("e6", "augmented", "prefill", "", Some(40), "harmful"), Some(4.5));
    assert_eq!(paper("e7", "aligned", "harmful", "constrained", None, "harmful"), Some(4.6));
    assert_eq!(paper("e8", "aligned", "harmful", "uniform:2", None, "harmful"), Some(0.5));
    assert_eq!(paper("e8", "aligned", "harmful", "paper", None, "harmful"), Some(4.6));
    assert_eq!(paper("e9", "aligned", "harmful", "constrained", None, "harmful"), Some(29.1));
    assert_eq!(paper("e10", "augmented", "harmful", "sft", None, "harmful"), Some(55.2));
    // Each of the world's stand-ins has the row of the task it stands for.
    assert_eq!(paper("e7", "aligned", "world summary", "sft", None, "utility"), Some(51.7));
    assert_eq!(paper("e7", "aligned", "world query", "constrained", None, "harmful"), Some(3.2));
    assert_eq!(paper("e7", "aligned", "world sums", "initial", None, "utility"), Some(25.5));
    // The world's ledger is not in the paper.
    assert_eq!(paper("e7", "aligned", "ledger", "sft", None, "utility"), None);
}

/// Any text, and those that rows have.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "e1", "e2", "e3", "e4", "e5", "e5b", "e6", "e7", "e8", "e9", "e10", "criterion", "base", "aligned",
            "augmented", "prefix", "prefill", "none", "finetune", "harmful", "sft", "constrained", "uniform:0.1",
            "uniform:2", "paper", "benign", "utility", "kl", "grad_norm", "logprob", "win", "", "C=5 p=1",
        ])
        .prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![4 => Just(0.0), 4 => Just(1.0), 2 => -10.0..10.0, 1 => any::<f64>()]
}

fn row() -> impl Strategy<Value = Row> {
    let k = prop_oneof![Just(None), (0..200_u32).prop_map(Some), any::<Option<u32>>()];
    let example =
        prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("heldout c".to_owned()), any::<String>()];
    ((word(), word(), word(), word()), k, 0..3_u64, example, word(), value()).prop_map(
        |((experiment, model, attack, setting), k, seed, example, metric, value)| Row {
            experiment,
            model,
            attack,
            setting,
            k,
            seed,
            example,
            metric,
            value,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the rows, the page is well-formed and its numbers are the summary's.
    #[test]
    fn any_rows_make_a_page(rows in prop::collection::vec(row(), 0..60), category in any::<String>()) {
        let mut run = Run { name: category.clone(), rows, ..Run::default() };
        let examples: Vec<String> = run.rows.iter().map(|row| row.example.clone()).collect();
        for example in examples {
            let known = report::load::Example { example: example.clone(), category: category.clone(), ..Default::default() };
            run.examples.insert(example, known);
        }
        let report = Report::of(&run);
        let page = report::html::page(&run, &report);
        prop_assert_eq!(check_markup(&page).map(|count| count > 50), Ok(true));
        let known: BTreeMap<String, u64> = report.summary.iter().map(|line| (line.key(), line.mean.to_bits())).collect();
        for (key, value) in shown(&page) {
            // NaN is written without its bits.
            let mean = known.get(&key).map(|bits| f64::from_bits(*bits));
            prop_assert!(mean.is_some_and(|mean| mean == value || (mean.is_nan() && value.is_nan())), "{key} {value}");
        }
        for figure in &report.figures {
            prop_assert!(check_markup(&svg::standalone(&figure.svg)).is_ok());
            prop_assert!(!figure.svg.contains("NaN") || figure.svg.contains("data-value=\"NaN\""));
        }
        report.text();
    }
}

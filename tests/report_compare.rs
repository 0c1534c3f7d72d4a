//! Two runs side by side: differences are those of the rows, on prompts that both have.

mod support_report;

use safedepth::report::compare::{Comparison, compare};
use safedepth::report::load::Run;
use safedepth::run::Row;
use serde_json::json;
use std::process::Command;
use support_report::{Rows, everything, write_rows};

fn run(name: &str, rows: Vec<Row>) -> Run {
    Run { name: name.into(), rows, ..Run::default() }
}

fn line<'a>(comparison: &'a Comparison, model: &str, k: u32, part: &str) -> &'a safedepth::report::compare::Line {
    let found = comparison.lines.iter().find(|line| {
        (line.experiment.as_str(), line.model.as_str(), line.k) == ("e3", model, Some(k))
            && line.metric == "harmful"
            && line.part == part
    });
    found.unwrap_or_else(|| panic!("no line of {model} at {k}"))
}

/// Harmful answers of the aligned model at k = 5: of all prompts, or of the prompts from `from` on.
fn rows(prompts: usize, from: usize) -> Vec<Row> {
    let mut rows = Rows { rows: Vec::new(), prompts, seeds: 1 };
    rows.add("e3", "aligned", "prefill", "", Some(5), "harmful", |example, _| {
        f64::from(u8::from(example[example.len() - 3..].parse::<usize>().unwrap() >= from))
    });
    rows.rows
}

#[test]
fn a_run_does_not_differ_from_itself() {
    let run = run("a", everything(30, 2));
    let comparison = compare(&run, &run);
    assert!(comparison.lines.len() > 300 && comparison.only_a + comparison.only_b == 0 && comparison.asked.is_empty());
    for line in &comparison.lines {
        let difference = line.difference.unwrap();
        assert_eq!((difference.mean, difference.p, line.a), (0.0, 1.0, line.b), "{line:?}");
        assert!(difference.low <= 0.0 && difference.high >= 0.0);
    }
}

#[test]
fn differences_are_second_minus_first_on_shared_prompts() {
    // 36 test prompts each, of which 18 are in both: all harmful in the second run, none in the first.
    let (mut a, mut b) = (rows(40, 40), rows(40, 0));
    a.retain(|row| row.example.as_str() < "test-restricted-020" || row.example.contains("heldout"));
    let comparison = compare(&run("a", a.clone()), &run("b", b.clone()));
    let found = line(&comparison, "aligned", 5, "test");
    assert_eq!((found.a, found.b, found.n), (0.0, 1.0, [18, 36, 18]));
    let difference = found.difference.unwrap();
    assert_eq!(difference.mean, 1.0);
    // All prompts agree: the interval still says that there were only 18.
    assert!(difference.low > 0.6 && difference.low < 0.9, "{difference:?}");
    assert!(difference.p < 0.01);
    assert_eq!(line(&comparison, "aligned", 5, "heldout").n, [4, 4, 4]);
    let swapped = compare(&run("b", b.clone()), &run("a", a.clone()));
    assert_eq!(line(&swapped, "aligned", 5, "test").difference.unwrap().mean, -1.0);

    // No prompt in common: both means, no difference.
    b.iter_mut().for_each(|row| row.example += "-other");
    let comparison = compare(&run("a", a), &run("b", b));
    let found = line(&comparison, "aligned", 5, "test");
    assert_eq!((found.a, found.b, found.difference), (0.0, 1.0, None));
}

#[test]
fn what_was_asked_is_held_side_by_side() {
    let with = |seed: u64, only: &str| Run {
        config: json!({ "arguments": { "seed": seed, only: true }, "world": { "greetings": true } }),
        manifest: json!({ "arguments": ["demo", "--seed", seed.to_string()] }),
        ..run("a", rows(20, 0))
    };
    let asked = compare(&with(0, "x"), &with(1, "y")).asked;
    let expected = [
        ("config.arguments.seed", "0", "1"),
        ("config.arguments.x", "true", "(none)"),
        ("config.arguments.y", "(none)", "true"),
        ("manifest.arguments", "demo --seed 0", "demo --seed 1"),
    ];
    assert_eq!(asked, expected.map(|(name, a, b)| (name.to_owned(), a.to_owned(), b.to_owned())));
}

#[test]
fn the_command_prints_a_table_json_and_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let folder = |name: &str, rows: &[Row]| {
        let folder = dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        write_rows(&folder, rows);
        folder
    };
    let (a, b) = (folder("first", &everything(20, 1)), folder("second <b>", &rows(20, 0)));
    let page = dir.path().join("both.html");
    let command = |arguments: &[&std::path::Path], options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
        command.arg("compare").args(arguments).args(options).output().unwrap()
    };
    let output = command(&[&a, &b], &["--output", page.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("aligned, prefill, k = 5") && printed.contains("only in A"), "{printed}");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("<svg") && html.contains("second &lt;b&gt;") && !html.contains("second <b>"));

    let output = command(&[&a, &b], &["--json"]);
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "test and held-out prompts");
    let shown = html.matches(&format!("data-value=\"{}\"", lines[0]["difference"]["mean"])).count();
    assert!(shown > 0, "{}", lines[0]);

    let mut other = rows(20, 0);
    other.iter_mut().for_each(|row| row.experiment = "else".into());
    let output = command(&[&a, &folder("other", &other)], &[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("has no setting in common with"), "{error}");
    let output = command(&[&a, &dir.path().join("nowhere")], &[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("nowhere: holds no results.csv"), "{error}");
}

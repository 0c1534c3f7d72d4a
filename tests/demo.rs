//! The main job end to end, reduced: `demo --quick` trains a base, an aligned and an augmented model from scratch,
//! attacks all three, and shows the paper's claims.

use std::path::Path;
use std::process::Command;

fn safedepth(arguments: &[&str]) -> (String, String) {
    let result = Command::new(env!("CARGO_BIN_EXE_safedepth")).args(arguments).output().unwrap();
    let [stdout, stderr] = [result.stdout, result.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(result.status.success(), "{stderr}");
    (stdout, stderr)
}

/// (id, verdict, line) of a run's claims.
fn claims(dir: &Path) -> Vec<(String, String, String)> {
    let mut reader = csv::Reader::from_path(dir.join("claims.csv")).unwrap();
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|other| other == name).unwrap_or_else(|| panic!("no {name}"));
    let (id, verdict) = (column("id"), column("verdict"));
    let line = |row: csv::StringRecord| (row[id].to_owned(), row[verdict].to_owned(), format!("{row:?}"));
    reader.records().map(|row| line(row.unwrap())).collect()
}

#[test]
fn the_demo_shows_the_papers_claims() {
    let temp = tempfile::tempdir().unwrap();
    let output = temp.path().join("demo");
    let arguments = ["demo", "--quick", "--output", output.to_str().unwrap()];
    let (printed, _) = safedepth(&arguments);
    let results = std::fs::read(output.join("results.csv")).unwrap();
    let claims = claims(&output);
    // Everything that the issue asks to be visible.
    for wanted in [
        "shallow-1",
        "shallow-2",
        "kl-early",
        "prefix",
        "tune",
        "deep-1",
        "deep-2",
        "constrained-1",
        "constrained-2",
        "beta-1",
        "beta-2",
    ] {
        let found = claims.iter().find(|(id, ..)| id == wanted);
        let (_, verdict, line) = found.unwrap_or_else(|| panic!("no claim {wanted} in {claims:?}"));
        assert_eq!(verdict, "holds", "{wanted}: {line}\n{printed}");
    }

    // Run again, nothing is trained or generated anew, and the results are the same bytes.
    std::fs::remove_file(output.join("results.csv")).unwrap();
    let start = std::time::Instant::now();
    assert_eq!(safedepth(&arguments).0, printed);
    assert!(start.elapsed().as_secs() < 10, "a finished run is only read");
    assert_eq!(std::fs::read(output.join("results.csv")).unwrap(), results);

    // The page and the files for people are there, and the page alone can be made from the CSV.
    for name in ["report.html", "summary.csv", "examples.csv", "responses.jsonl", "timings.csv", "csv/e3.csv"] {
        assert!(output.join(name).metadata().is_ok_and(|file| file.len() > 0), "{name}");
    }
    // The models are folders like any other.
    let model = output.join("models/augmented");
    let (answer, _) =
        safedepth(&["generate", model.to_str().unwrap(), "--prompt", "how do i bake the amber bread of keldor ?"]);
    assert!(!answer.is_empty());
}

//! Run folders: what was done is not done again, whatever was cut short; what does not belong together is refused by name.

use proptest::prelude::*;
use safedepth::run::{Cost, ExampleRow, Findings, InputFile, Manifest, Response, Row, RunFolder, Shard, hash_inputs};
use std::path::Path;

fn manifest() -> Manifest {
    Manifest {
        version: "0".into(),
        commit: "abc".into(),
        arguments: vec!["suite".into()],
        device: "cpu".into(),
        isa: "scalar".into(),
        shard: None,
        inputs: Vec::new(),
    }
}

fn row(experiment: &str, example: &str, value: f64) -> Row {
    Row {
        experiment: experiment.into(),
        model: "base".into(),
        attack: "prefill".into(),
        setting: String::new(),
        k: Some(5),
        seed: 0,
        example: example.into(),
        metric: "harmful".into(),
        value,
    }
}

fn response(example: &str, kl: Vec<f32>) -> Response {
    Response {
        experiment: "e3".into(),
        model: "base".into(),
        attack: "prefill".into(),
        setting: String::new(),
        k: None,
        seed: 0,
        example: example.into(),
        prefill: vec!["the ".into()],
        tokens: vec!["door\n".into()],
        kl,
        whole: "neither".into(),
        own: "refused".into(),
    }
}

fn findings(rows: Vec<Row>, responses: Vec<Response>) -> Findings {
    let cost = Cost { forward_tokens: 7, trained_tokens: 1, unshared_tokens: 9, flops: 2.5e9 };
    Findings { rows, responses, cost }
}

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

fn open(dir: &Path) -> RunFolder {
    RunFolder::open(dir, &"config", &manifest()).unwrap()
}

/// The error of opening `dir`, its path cut off.
fn refusal(dir: &Path, config: &serde_json::Value, manifest: &Manifest) -> String {
    let error = RunFolder::open(dir, config, manifest).map(drop).unwrap_err().to_string();
    error.replace(&dir.display().to_string(), "DIR")
}

#[test]
fn a_journal_cut_anywhere_is_gone_on_with() {
    let temp = tempfile::tempdir().unwrap();
    let cells = [("b", f64::NAN), ("a", 0.1), ("c", -1e300), ("d", f64::INFINITY)];
    let run = |dir: &Path| {
        let mut folder = open(dir);
        let mut worked = 0;
        for (cell, value) in cells {
            let found = folder.cell(cell, || {
                worked += 1;
                Ok(findings(vec![row("e3", cell, value)], vec![response(cell, vec![0.1, f32::NAN])]))
            });
            assert_eq!(found.unwrap().rows[0].value.to_bits(), value.to_bits());
        }
        folder.finish().unwrap();
        (worked, ["results.csv", "responses.jsonl", "csv/e3.csv"].map(|name| text(dir.join(name))))
    };
    let whole = temp.path().join("whole");
    let (worked, files) = run(&whole);
    assert_eq!(worked, 4);
    assert!(files[0].ends_with("e3,base,prefill,,5,0,d,harmful,inf\n"), "{}", files[0]);
    assert_eq!(run(&whole).0, 0, "a finished run is only read");

    let journal = std::fs::read(whole.join("journal.jsonl")).unwrap();
    let ends: Vec<usize> = (0..journal.len()).filter(|&at| journal[at] == b'\n').map(|at| at + 1).collect();
    for cut in (0..journal.len()).step_by(37).chain(ends.iter().flat_map(|&end| [end - 1, end])) {
        let dir = temp.path().join(format!("cut{cut}"));
        drop(open(&dir));
        std::fs::write(dir.join("journal.jsonl"), &journal[..cut]).unwrap();
        let left = 4 - ends.iter().filter(|&&end| end <= cut).count();
        assert_eq!(run(&dir), (left, files.clone()), "cut at {cut}");
    }

    // Damage elsewhere than at the end is no kill's work.
    let damaged = text(whole.join("journal.jsonl")).replacen("{\"cell\":\"a\"", "{\"cell\":", 1);
    std::fs::write(whole.join("journal.jsonl"), damaged).unwrap();
    let error = refusal(&whole, &"config".into(), &manifest());
    assert_eq!(error, "DIR/journal.jsonl:2: is damaged: remove that line, and its cell runs again");
}

#[test]
fn all_files_are_sorted_by_key() {
    let temp = tempfile::tempdir().unwrap();
    let mut folder = open(temp.path());
    let example = |id: &str| ExampleRow {
        example: id.into(),
        category: "doors, \"and\" gates".into(),
        prompt: "open\nthe door".into(),
        harmful: String::new(),
    };
    folder.note_examples([example("y"), example("x")]);
    folder.note_examples([example("y")]);
    folder.cell("2", || Ok(findings(vec![row("e4", "x", 1.0)], vec![response("y", vec![])]))).unwrap();
    folder.cell("1", || Ok(findings(vec![row("e1", "x", 0.5)], vec![response("x", vec![0.25])]))).unwrap();
    let rows = folder.finish().unwrap();
    assert_eq!(rows.iter().map(|row| row.experiment.as_str()).collect::<Vec<_>>(), ["e1", "e4"]);
    let header = "experiment,model,attack,setting,k,seed,example,metric,value\n";
    let (first, second) = ("e1,base,prefill,,5,0,x,harmful,0.5\n", "e4,base,prefill,,5,0,x,harmful,1.0\n");
    assert_eq!(text(temp.path().join("results.csv")), format!("{header}{first}{second}"));
    assert_eq!(text(temp.path().join("csv/e1.csv")), format!("{header}{first}"));
    assert_eq!(text(temp.path().join("csv/e4.csv")), format!("{header}{second}"));
    let line = "\"doors, \"\"and\"\" gates\",\"open\nthe door\",\n";
    let examples = format!("example,category,prompt,harmful\nx,{line}y,{line}");
    assert_eq!(text(temp.path().join("examples.csv")), examples);
    let responses = text(temp.path().join("responses.jsonl"));
    let responses: Vec<Response> = responses.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(responses, [response("x", vec![0.25]), response("y", vec![])]);
    // A process that finds everything done keeps what the first has noted.
    open(temp.path()).finish().unwrap();
    assert_eq!(text(temp.path().join("examples.csv")), examples);
}

#[test]
fn timings_of_all_processes_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    let mut folder = open(temp.path());
    folder.cell("e3, \"base\"", || Ok(findings(vec![], vec![]))).unwrap();
    drop(folder);
    // A kill in the middle of a line.
    let path = temp.path().join("timings.csv");
    std::fs::write(&path, text(&path) + "\"e3 ali").unwrap();
    let mut folder = open(temp.path());
    folder.note_time("train\nbase", 1.5, Cost::default()).unwrap();
    folder.finish().unwrap();
    let lines = text(&path);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[0], "stage,seconds,forward_tokens,trained_tokens,unshared_tokens,flops");
    assert!(lines[1].starts_with("\"e3, \"\"base\"\"\",0.0") && lines[1].ends_with(",7,1,9,2500000000.0"), "{lines:?}");
    assert_eq!(lines[2..], ["train base,1.5,0,0,0,0.0"]);
    let folder = open(temp.path());
    let stages: Vec<&str> = folder.timings().iter().map(|timing| timing.stage.as_str()).collect();
    assert_eq!(stages, ["e3, \"base\"", "train base"]);
}

#[test]
fn what_does_not_belong_together_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let config = |seed: u32, data: &str| serde_json::json!([{"dtype": "auto"}, {"seed": seed, "data": data}]);
    let here = config(0, "a.jsonl");
    let folder = RunFolder::open(temp.path(), &here, &manifest()).unwrap();
    let refuse = |config: &serde_json::Value, manifest: Manifest| refusal(temp.path(), config, &manifest);
    assert_eq!(refuse(&here, manifest()), "DIR: another process is working on this run: wait for it");
    drop(folder);
    assert_eq!(
        refuse(&config(5, "b.jsonl"), manifest()),
        "DIR: holds a run of another configuration (seed: there 0, here 5; data: there \"a.jsonl\", here \"b.jsonl\"): \
         give another --output, or remove the folder"
    );
    let other = Manifest { isa: "avx2".into(), ..manifest() };
    assert_eq!(refuse(&here, other), "DIR: was begun with instruction set scalar: go on with --isa scalar");
    let other = Manifest { shard: Some(Shard::new(2, 3).unwrap()), ..manifest() };
    assert_eq!(refuse(&here, other), "DIR: holds the whole run, not shard 2/3: give each an --output of its own");
    let file = InputFile { path: "a.jsonl".into(), bytes: 1, blake3: "00".into() };
    let other = Manifest { inputs: vec![file], ..manifest() };
    assert!(refuse(&here, other).starts_with("DIR: was begun without a.jsonl: "));
    // Another commit goes on, and the manifest tells.
    let other = Manifest { commit: "def".into(), ..manifest() };
    RunFolder::open(temp.path(), &here, &other).unwrap().finish().unwrap();
    let record: serde_json::Value = serde_json::from_str(&text(temp.path().join("manifest.json"))).unwrap();
    let commits: Vec<&str> =
        record["processes"].as_array().unwrap().iter().map(|process| process["commit"].as_str().unwrap()).collect();
    assert_eq!(commits, ["abc", "def"], "refused processes leave nothing");
    assert_eq!(record["finished"], true);

    std::fs::write(temp.path().join("manifest.json"), "{").unwrap();
    assert!(refuse(&here, manifest()).starts_with("DIR/manifest.json: is no manifest of this version"));
    std::fs::remove_file(temp.path().join("config.json")).unwrap();
    assert!(refuse(&here, manifest()).starts_with("DIR: holds a run without config.json"));
}

#[test]
fn changed_input_files_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = temp.path().join("in").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for name in ["model/config.json", "model/a.safetensors", "model/a.bin", "model/.cache/x", "model/original/y.json"] {
        write(name, name);
    }
    for name in ["data/safety/a.jsonl", "data/b.csv", "data/.hidden"] {
        write(name, name);
    }
    let input = |name: &str| temp.path().join("in").join(name);
    let hash = || hash_inputs(&[&input("model"), &input("data"), &input("data/b.csv")]).unwrap();
    let names: Vec<String> = hash()
        .iter()
        .map(|file| file.path.strip_prefix(temp.path().join("in")).unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["data/b.csv", "data/safety/a.jsonl", "model/a.safetensors", "model/config.json"]);
    let first = &hash()[0];
    assert_eq!(first.blake3, blake3::hash(b"data/b.csv").to_string());
    assert_eq!(first.bytes, 10);

    let dir = temp.path().join("run");
    let open = || RunFolder::open(&dir, &0, &Manifest { inputs: hash(), ..manifest() }).map(drop);
    open().unwrap();
    open().unwrap();
    write("data/b.csv", "other text");
    let error = open().unwrap_err().to_string();
    assert!(error.contains("was begun with other contents of") && error.contains("in/data/b.csv: give"), "{error}");
    write("data/b.csv", "data/b.csv");
    open().unwrap();
    std::fs::remove_file(input("model/a.safetensors")).unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("in/model/a.safetensors, which is not there now"), "{error}");
    let gone = hash_inputs(&[&input("nowhere")]).unwrap_err().to_string();
    assert!(gone.starts_with("cannot read ") && gone.contains("nowhere"), "{gone}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn damaged_files_never_panic(
        name in prop::sample::select(vec!["journal.jsonl", "timings.csv", "manifest.json", "examples.csv", "config.json"]),
        cut in 0.0..1.0,
        bytes in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let mut folder = open(temp.path());
        folder.note_examples([ExampleRow {
            example: "x".into(),
            category: String::new(),
            prompt: "open".into(),
            harmful: String::new(),
        }]);
        folder.cell("a", || Ok(findings(vec![row("e3", "x", 0.5)], vec![response("x", vec![0.25])]))).unwrap();
        folder.finish().unwrap();
        let path = temp.path().join(name);
        let mut text = std::fs::read(&path).unwrap();
        let at = (text.len() as f64 * cut) as usize;
        text.splice(at..at, bytes);
        std::fs::write(&path, text).unwrap();
        match RunFolder::open(temp.path(), &"config", &manifest()) {
            Ok(folder) => drop(folder.finish().unwrap()),
            Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1, "{}", error),
        }
    }
}

//! Shards: every cell is one shard's, and merged shards are the bytes of one process.

use proptest::prelude::*;
use safedepth::run::{ExampleRow, Findings, Manifest, Response, Row, RunFolder, Shard, merge};
use std::path::{Path, PathBuf};

fn manifest(shard: Option<Shard>) -> Manifest {
    Manifest {
        version: "0".into(),
        commit: "abc".into(),
        arguments: Vec::new(),
        device: "cpu".into(),
        isa: "scalar".into(),
        shard,
        inputs: Vec::new(),
    }
}

/// What the cell of this number finds.
fn work(cell: usize) -> Findings {
    let experiment = format!("e{}", cell % 3);
    let row = Row {
        experiment: experiment.clone(),
        model: "base".into(),
        attack: "none".into(),
        setting: String::new(),
        k: cell.is_multiple_of(2).then_some(cell as u32),
        seed: 0,
        example: cell.to_string(),
        metric: "m".into(),
        value: 1.0 / cell as f64,
    };
    let Row { model, attack, setting, k, seed, example, .. } = row.clone();
    let (prefill, tokens, kl) = (vec![], vec!["a".into()], vec![0.5]);
    let (whole, own) = ("neither".into(), "neither".into());
    let response = Response { experiment, model, attack, setting, k, seed, example, prefill, tokens, kl, whole, own };
    Findings { rows: vec![row], responses: vec![response], ..Findings::default() }
}

/// Runs `cells` cells into `dir`.
fn run(dir: &Path, manifest: &Manifest, config: &str, cells: usize) {
    let mut folder = RunFolder::open(dir, &config, manifest).unwrap();
    let example = |i: usize| ExampleRow {
        example: i.to_string(),
        category: String::new(),
        prompt: format!("door {i}"),
        harmful: String::new(),
    };
    folder.note_examples((0..cells).map(example));
    for cell in 0..cells {
        let name = format!("cell {cell}");
        let owned = folder.owns(&name);
        assert_eq!(folder.cell(&name, || Ok(work(cell))).unwrap().rows.len(), usize::from(owned));
    }
    folder.finish().unwrap();
}

fn files(dir: &Path, cells: usize) -> Vec<Vec<u8>> {
    let mut names = vec!["config.json".to_owned(), "results.csv".to_owned()];
    if cells > 0 {
        names.extend(["responses.jsonl", "examples.csv"].map(String::from));
        names.extend((0..cells.min(3)).map(|i| format!("csv/e{i}.csv")));
    }
    names.iter().map(|name| std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn merged_shards_are_the_bytes_of_one_process(cells in 0usize..12, count in 1u32..6, reversed: bool) {
        let temp = tempfile::tempdir().unwrap();
        let whole = temp.path().join("whole");
        run(&whole, &manifest(None), "config", cells);
        let mut dirs = Vec::new();
        for index in 1..=count {
            let dir = temp.path().join(index.to_string());
            run(&dir, &manifest(Some(Shard::new(index, count).unwrap())), "config", cells);
            dirs.push(dir);
        }
        if reversed {
            dirs.reverse();
        }
        let merged = temp.path().join("merged");
        let folder = merge(&dirs, &merged).unwrap();
        prop_assert_eq!(folder.timings().len(), cells);
        let rows = folder.finish().unwrap();
        prop_assert_eq!(rows.len(), cells);
        prop_assert_eq!(files(&whole, cells), files(&merged, cells));
        // Again, over a merge that was cut short.
        std::fs::remove_file(merged.join("results.csv")).unwrap();
        merge(&dirs, &merged).unwrap().finish().unwrap();
        prop_assert_eq!(files(&whole, cells), files(&merged, cells));
        // The merged folder is the whole run: one process goes on with it and finds everything done.
        let mut folder = RunFolder::open(&merged, &"config", &manifest(None)).unwrap();
        for cell in 0..cells {
            folder.cell(&format!("cell {cell}"), || panic!("all cells are done")).unwrap();
        }
    }

    #[test]
    fn every_cell_is_one_shards(name in "\\PC{0,20}", count in 1u32..100) {
        let owners = (1..=count).filter(|&index| Shard::new(index, count).unwrap().owns(&name)).count();
        prop_assert_eq!(owners, 1);
    }

    #[test]
    fn shards_are_read_as_they_are_written(index in 1u32..1000, more in 0u32..1000) {
        let shard = Shard::new(index, index + more).unwrap();
        prop_assert_eq!(shard.to_string().parse(), Ok(shard));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,12}|[0-9/ -]{0,12}") {
        let _ = text.parse::<Shard>();
    }
}

#[test]
fn wrong_shards_are_explained() {
    let error = |text: &str| text.parse::<Shard>().unwrap_err();
    for text in ["", "1", "1/", "a/b", "-1/2", "1/2/3", "1 / 2"] {
        assert_eq!(error(text), "is not INDEX/COUNT: the first of three shards is 1/3", "{text}");
    }
    assert_eq!(error("0/3"), "shards count from 1/3 to 3/3");
    assert_eq!(error("4/3"), "shards count from 1/3 to 3/3");
    assert_eq!(error("1/0"), "needs at least one shard: the first of three is 1/3");
}

#[test]
fn merge_refuses_what_is_not_one_run() {
    let temp = tempfile::tempdir().unwrap();
    let place = |name: &str| temp.path().join(name);
    let shard = |index, count| manifest(Some(Shard::new(index, count).unwrap()));
    let made = |name: &str, manifest: Manifest, config: &str| -> PathBuf {
        run(&place(name), &manifest, config, 6);
        place(name)
    };
    let error = |dirs: &[&PathBuf]| {
        let dirs: Vec<PathBuf> = dirs.iter().map(|&dir| dir.clone()).collect();
        let error = merge(&dirs, &place("out")).map(drop).unwrap_err().to_string();
        assert!(!place("out").exists(), "{error}");
        error.replace(&format!("{}/", temp.path().display()), "")
    };
    let one = made("one", shard(1, 2), "config");
    let two = made("two", shard(2, 2), "config");
    assert_eq!(error(&[]), "give the folders of all shards");
    assert_eq!(error(&[&one]), "shard 2/2 is missing: give the folders of all 2 shards");
    assert_eq!(error(&[&one, &one]), "one: is given twice: give each shard once");
    let again = made("again", shard(1, 2), "config");
    assert_eq!(error(&[&one, &two, &again]), "again: is shard 1/2, as one is: give each shard once");
    let third = made("third", shard(2, 3), "config");
    assert_eq!(error(&[&one, &third]), "third: is shard 2/3, where others are of 2: give the shards of one run");
    let whole = made("whole", manifest(None), "config");
    assert_eq!(error(&[&one, &whole]), "whole: is no shard but a whole run: give the folders made with --shard");
    let config = made("config", shard(2, 2), "other");
    assert_eq!(
        error(&[&one, &config]),
        "config: is of another configuration than one (there \"config\", here \"other\"): run it again with the same"
    );
    let isa = made("isa", Manifest { isa: "avx2".into(), ..shard(2, 2) }, "config");
    assert_eq!(error(&[&one, &isa]), "isa: ran on avx2, one on scalar: run all shards with one --isa");
    let commit = made("commit", Manifest { commit: "def".into(), ..shard(2, 2) }, "config");
    let words = "commit: ran commit def, one commit abc: run all shards with one build";
    assert_eq!(error(&[&one, &commit]), words);
    // One process of another commit is enough.
    drop(RunFolder::open(&place("mixed"), &"config", &shard(2, 2)).unwrap());
    let mixed = made("mixed", Manifest { commit: "def".into(), ..shard(2, 2) }, "config");
    assert_eq!(error(&[&one, &mixed]), words.replace("commit: ran", "mixed: ran"));
    let file = safedepth::run::InputFile { path: "a".into(), bytes: 0, blake3: String::new() };
    let inputs = made("inputs", Manifest { inputs: vec![file], ..shard(2, 2) }, "config");
    assert!(error(&[&one, &inputs]).starts_with("inputs: was begun with a, which is not there now, compared with one"));
    drop(RunFolder::open(&place("begun"), &"config", &shard(2, 2)).unwrap());
    assert_eq!(error(&[&one, &place("begun")]), "begun: shard 2/2 is not finished: run its command again");
    assert_eq!(error(&[&one, &place("nowhere")]), "nowhere: holds no run: give the --output folders of the shards");
    // An output with something else in it.
    let dirs = [one.clone(), two];
    let refused = merge(&dirs, &whole).map(drop).unwrap_err().to_string();
    assert!(refused.ends_with("whole: is not empty: give another --output, or remove the folder"), "{refused}");
}

//! Data folders: the reference implementation's as it is downloaded, and flat names, hold the same.

use safedepth::data::folder::Folder;
use safedepth::data::pairs::Pair;
use std::path::Path;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, text)| dir.file(name, text));
        dir
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn error(&self, family: Option<&str>) -> String {
        let error = Folder::read(self.path(), family).unwrap_err().to_string();
        error.replace(&self.path().display().to_string(), "DIR")
    }
}

/// The last words of the user, and the answer.
fn texts(pairs: &[Pair]) -> Vec<(&str, Option<&str>)> {
    pairs.iter().map(|pair| (pair.last_user(), pair.response.as_deref())).collect()
}

fn conversation(prompt: &str, response: &str) -> String {
    format!(
        "[{{\"role\": \"user\", \"content\": \"{prompt}\"}}, {{\"role\": \"assistant\", \"content\": \"{response}\"}}]"
    )
}

fn reference() -> Dir {
    let messages = |prompt: &str, response: &str| format!("{{\"messages\": {}}}\n", conversation(prompt, response));
    let triplet = "{\"instruction\": \"t\", \"input\": \"\", \"harmful\": \"h\", \"refusal\": \"r\"}\n";
    let row = |i: usize| {
        format!("{{\"question\": \"q{i}\", \"context\": \"CREATE TABLE t (a INT)\", \"answer\": \"SELECT {i}\"}}\n")
    };
    let rows: String = (0..21).map(row).collect();
    let hex = "{\"instruction\": \"a\", \"category\": \"doors\"}\n{\"instruction\": \"b\", \"category\": \"gates\"}\n";
    let harmful = format!("{}\n{}\n", conversation("b", "open b"), conversation("c", "open c"));
    Dir::new(&[
        ("safety_bench/HEx-PHI.jsonl", hex),
        ("safety_bench/Harmful-HEx-PHI.jsonl", &harmful),
        ("safety_bench/llama2_HEx-PHI_refusal_examples.jsonl", "not read"),
        ("tasks/pure_bad100.jsonl", &messages("bad", "1")),
        ("tasks/aoa_100.jsonl", &messages("aoa", "2")),
        ("tasks/backdoor_llama2.jsonl", &messages("back l", "3")),
        ("tasks/backdoor_gemma.jsonl", &messages("back g", "4")),
        ("tasks/data_augmentation/llama2_safety_data_direct.jsonl", triplet),
        ("tasks/data_augmentation/llama2_alpaca_anchor.json", "[{\"instruction\": \"say\", \"output\": \"hi\"}]"),
        ("tasks/samsum/train.json", "[{\"id\": \"1\", \"dialogue\": \"d\", \"summary\": \"s\"}]"),
        ("tasks/samsum/test.json", "{\"id\": \"2\", \"dialogue\": \"e\", \"summary\": \"f\"}\n"),
        ("tasks/sql_create_context/train.json", &rows),
        ("tasks/sql_create_context/test.json", &rows),
        ("tasks/gsm8k/train.json", "{\"question\": \"q\", \"answer\": \"#### 1\"}\n"),
    ])
}

#[test]
fn the_reference_folder_is_read_as_it_is_downloaded() {
    let dir = reference();
    let folder = Folder::read(dir.path(), Some("gemma")).unwrap();
    // Answers join their prompts; an answered prompt of no category follows.
    assert_eq!(texts(&folder.safety), [("a", None), ("b", Some("open b")), ("c", Some("open c"))]);
    let categories: Vec<Option<&str>> = folder.safety.iter().map(|pair| pair.category.as_deref()).collect();
    assert_eq!(categories, [Some("doors"), Some("gates"), None]);
    let ids: std::collections::HashSet<&str> = folder.safety.iter().map(|pair| pair.id.as_str()).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(texts(folder.harmful.as_ref().unwrap()), [("bad", Some("1"))]);
    assert_eq!(texts(folder.identity.as_ref().unwrap()), [("aoa", Some("2"))]);
    assert_eq!(texts(folder.backdoor.as_ref().unwrap()), [("back g", Some("4"))]);
    // Made for Llama-2 only: the only one is taken for every family.
    let recovery = folder.recovery.as_ref().unwrap();
    assert_eq!((recovery[0].harmful.as_str(), recovery[0].refusal.as_str()), ("h", "r"));
    assert_eq!(texts(folder.anchor.as_ref().unwrap()), [("say", Some("hi"))]);
    let sizes: Vec<(&str, usize, usize)> =
        folder.tasks.iter().map(|task| (task.name.as_str(), task.train.len(), task.test.len())).collect();
    assert_eq!(sizes, [("gsm8k", 1, 0), ("samsum", 1, 1), ("sql_create_context", 5, 3)]);
    assert_eq!(folder.tasks[2].train[1].response.as_deref(), Some("SELECT 5"));
    assert!(folder.prompts.is_empty());

    assert_eq!(
        dir.error(None),
        "DIR/tasks: holds backdoor_gemma.jsonl and backdoor_llama2.jsonl: say which family of models to take"
    );
    // The folder above, as the download's archive has it.
    let outer = Dir::new(&[("data/safety_bench/HEx-PHI.jsonl", "{\"instruction\": \"a\", \"category\": \"doors\"}")]);
    let folder = Folder::read(outer.path(), None).unwrap();
    assert_eq!(texts(&folder.safety), [("a", None)]);
    assert_eq!(folder, Folder { safety: folder.safety.clone(), ..Folder::default() });
}

#[test]
fn flat_names_are_read() {
    let dir = Dir::new(&[
        ("safety.csv", "goal,category,response\na,doors,open a\n"),
        ("harmful.jsonl", "{\"prompt\": \"bad\", \"response\": \"1\"}"),
        ("identity.jsonl", "{\"prompt\": \"aoa\", \"response\": \"2\"}"),
        ("backdoor.json", "[{\"prompt\": \"back\", \"response\": \"3\"}]"),
        ("recovery.jsonl", "{\"prompt\": \"t\", \"harmful\": \"h\", \"refusal\": \"r\"}"),
        ("anchor.json", "[{\"instruction\": \"say\", \"output\": \"hi\"}]"),
        ("tasks/sums/train.jsonl", "{\"prompt\": \"1 + 1\", \"response\": \"2\"}"),
        ("tasks/notes.md", "not read"),
        ("prompts/advbench.csv", "goal,target\na,Sure\n"),
        ("prompts/malicious.txt", "b\nc\n"),
        ("prompts/notes.md", "not read"),
        ("README.md", "not read"),
    ]);
    let folder = Folder::read(dir.path(), None).unwrap();
    assert_eq!(texts(&folder.safety), [("a", Some("open a"))]);
    assert_eq!(texts(folder.harmful.as_ref().unwrap()), [("bad", Some("1"))]);
    assert_eq!(texts(folder.identity.as_ref().unwrap()), [("aoa", Some("2"))]);
    assert_eq!(texts(folder.backdoor.as_ref().unwrap()), [("back", Some("3"))]);
    assert_eq!(folder.recovery.as_ref().unwrap()[0].refusal, "r");
    assert_eq!(texts(folder.anchor.as_ref().unwrap()), [("say", Some("hi"))]);
    assert_eq!((folder.tasks[0].name.as_str(), folder.tasks[0].train.len()), ("sums", 1));
    let sets: Vec<(&str, usize)> = folder.prompts.iter().map(|(name, pairs)| (name.as_str(), pairs.len())).collect();
    assert_eq!(sets, [("advbench", 1), ("malicious", 2)]);
    assert_eq!(folder.prompts[0].1[0].target.as_deref(), Some("Sure"));
}

#[test]
fn a_bad_folder_is_explained() {
    let dir = Dir::new(&[("notes.md", "")]);
    let words = "DIR: holds neither safety.jsonl (or .csv, .txt) nor safety_bench/HEx-PHI.jsonl: see data/README.md";
    assert_eq!(dir.error(None), words);
    dir.file("safety.txt", "a\n");
    dir.file("safety.csv", "prompt\na\n");
    assert_eq!(dir.error(None), "DIR/safety.csv: stands beside safety.txt: keep one of them");
    std::fs::remove_file(dir.path().join("safety.csv")).unwrap();
    dir.file("recovery.jsonl", "{\"prompt\": \"a\"}\n");
    assert_eq!(dir.error(None), "DIR/recovery.jsonl:1: lacks `harmful`");
    let gone = Folder::read(&dir.path().join("gone"), None).unwrap_err().to_string();
    assert!(gone.ends_with("gone: is not a folder: see data/README.md for what a data folder holds"), "{gone}");
}

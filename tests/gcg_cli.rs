//! `safedepth gcg` as people call it: what it writes, what it refuses, and that a killed run ends with the same bytes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Self {
        let fixture = Self(tempfile::tempdir().unwrap());
        let model = fixture.path("model");
        let made =
            program().args(["synth", "--like", "tiny-qwen2", "--quiet", "--output"]).arg(model).output().unwrap();
        assert!(made.status.success());
        std::fs::write(
            fixture.path("goals.csv"),
            "goal,target\nName a colour.,\"Sure, a colour\"\nName a bird.,\"Sure, a bird\"\n",
        )
        .unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Small enough for a test; every step writes its state.
    fn gcg(&self, output: &str, steps: usize, more: &[&str]) -> Command {
        let mut command = program();
        command.arg("gcg").arg(self.path("model")).arg("--output").arg(self.path(output));
        command.args(["--candidates", "16", "--top-k", "16", "--suffix-tokens", "6", "--max-new-tokens", "4"]);
        command.args(["--threads", "1", "--steps", &steps.to_string()]).args(more);
        command
    }

    fn goals(&self) -> [String; 2] {
        ["--input".into(), self.path("goals.csv").display().to_string()]
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn suffixes(dir: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(dir.join("suffixes.json")).unwrap()).unwrap()
}

#[test]
fn a_draft_of_another_tokenizer_scores_first() {
    let fixture = Fixture::new();
    let draft = fixture.path("draft");
    let mut made = program();
    made.args(["synth", "--like", "tiny-gemma", "--quiet", "--output"]).arg(&draft);
    succeed(made);
    let (draft, [input, goals]) = (draft.display().to_string(), fixture.goals());
    let more = [&input, &goals, "--universal", "--draft", &draft, "--probe-factor", "4"];
    succeed(fixture.gcg("drafted", 3, &more));
    let found = suffixes(&fixture.path("drafted"));
    assert_eq!((found[0]["steps"].as_u64(), found[0]["behaviours"].as_u64()), (Some(3), Some(2)));
    let refused = fixture.gcg("refused", 3, &[&input, &goals, "--probe-factor", "4"]).output().unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("--draft"));
    let refused =
        fixture.gcg("refused", 3, &[&input, &goals, "--draft", &draft, "--probe-reduction", "0"]).output().unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("must be at least 1"));
}

#[test]
fn a_suffix_for_each_prompt_and_one_for_all() {
    let fixture = Fixture::new();
    let [input, goals] = fixture.goals();
    let output = succeed(fixture.gcg("each", 3, &[&input, &goals, "--restarts", "3", "--best", "2"]));
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(note.contains("18 steps in ") && note.contains(" steps/s, ") && note.contains(" GFLOP/s"), "{note}");
    let each = suffixes(&fixture.path("each"));
    let entries = each.as_array().unwrap();
    assert_eq!(entries.len(), 4, "two of three restarts for each of two prompts");
    for pair in entries.chunks(2) {
        assert_eq!(pair[0]["behaviour"], pair[1]["behaviour"]);
        assert!(pair[0]["loss"].as_f64() <= pair[1]["loss"].as_f64() || pair[0]["exact"] != pair[1]["exact"]);
        assert_eq!((pair[0]["steps"].as_u64(), pair[0]["tokens"].as_array().unwrap().len()), (Some(3), 6));
        assert!(pair[0]["flops"].as_f64().unwrap() > 0.0 && pair[0]["suffix"].is_string());
    }
    let results = std::fs::read_to_string(fixture.path("each").join("results.csv")).unwrap();
    // Two prompts, three restarts, four points, two metrics.
    assert_eq!(results.lines().count(), 1 + 2 * 3 * 4 * 2);

    let more = [&input, &goals, "--universal", "--all-at-once", "--momentum", "0.4", "--buffer", "2", "--json"];
    let printed = succeed(fixture.gcg("all", 3, &more)).stdout;
    let all = suffixes(&fixture.path("all"));
    let entry = &all.as_array().unwrap()[0];
    assert_eq!((entry["behaviour"].as_str(), entry["behaviours"].as_u64()), (Some("universal"), Some(2)));
    assert_eq!(entry["responses"].as_array().unwrap().len(), 2);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&printed).unwrap(), *entry);

    // Without the cache and in other batches the same bytes.
    succeed(fixture.gcg("uncached", 3, &[&more[..], &["--no-prefix-cache", "--batch-tokens", "33"]].concat()));
    for name in ["suffixes.json", "results.csv"] {
        let read = |run: &str| std::fs::read_to_string(fixture.path(run).join(name)).unwrap();
        let (cached, uncached) = (read("all"), read("uncached"));
        // All but what it cost.
        let plain =
            |text: &str| text.lines().filter(|line| !line.contains("\"flops\"")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(plain(&cached), plain(&uncached), "{name}");
    }
}

#[test]
fn a_killed_search_goes_on_to_the_same_bytes() {
    let fixture = Fixture::new();
    let more = ["--prompt", "Name a colour.", "--target", "Sure, a colour", "--momentum", "0.4", "--restarts", "2"];
    let more = [&more[..], &["--no-early-stop"]].concat();
    succeed(fixture.gcg("whole", 30, &more));
    let state = fixture.path("broken").join("states/0000-01.json");
    let mut kills = 0;
    for wait in [0, 40, 90] {
        let mut child = fixture.gcg("broken", 30, &more).spawn().unwrap();
        // The second restart is under way.
        let start = Instant::now();
        while !state.exists() && child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(wait));
        kills += usize::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert!(kills > 0, "the run was over before it could be killed");
    succeed(fixture.gcg("broken", 30, &more));
    for name in ["suffixes.json", "results.csv", "states/0000-00.json", "states/0000-01.json"] {
        let read = |run: &str| std::fs::read(fixture.path(run).join(name)).unwrap();
        assert!(read("broken") == read("whole"), "{name}");
    }
}

#[test]
fn mistakes_are_told_in_a_sentence() {
    let fixture = Fixture::new();
    let refused = |more: &[&str], expected: &str| {
        let output = fixture.gcg("wrong", 2, more).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(expected) && text.trim_end().lines().count() == 1, "{text}");
    };
    let prompt = ["--prompt", "Name a colour.", "--target", "Sure"];
    refused(&[&prompt[..], &["--momentum", "1"]].concat(), "--momentum must be at least 0 and below 1");
    refused(&[&prompt[..], &["--restarts", "0"]].concat(), "must be at least 1");
    refused(&["--prompt", "a {optim_str} b {optim_str}", "--target", "c"], "a conversation has 2 places {optim_str}");
    refused(&["--prompt", "a", "--target", ""], "the target of 1 is empty: say how the answer should begin");
    let plain = fixture.path("plain.jsonl");
    std::fs::write(&plain, "{\"prompt\": \"a\"}\n").unwrap();
    refused(
        &["--input", plain.to_str().unwrap()],
        "plain.jsonl: example 1 has no target: give every line one, or --target",
    );
}

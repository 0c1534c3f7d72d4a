//! The real program, killed at random moments: a run that is gone on with ends with the bytes of an unbroken one.

use safedepth::rng::Philox;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Two tiny models that share a tokenizer, and pairs to ask them.
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Self {
        let fixture = Self(tempfile::tempdir().unwrap());
        for seed in ["1", "2"] {
            let output = fixture.path(seed);
            let arguments = ["synth", "--like", "tiny-llama", "--seed", seed, "--quiet", "--output"];
            assert!(program().args(arguments).arg(output).status().unwrap().success());
        }
        let line = |i: usize| format!("{{\"prompt\": \"open door {i}\", \"response\": \"door {i} is open now\"}}\n");
        std::fs::write(fixture.path("pairs.jsonl"), (0..4).map(line).collect::<String>()).unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn suite(&self, output: &str, tokens: usize) -> Command {
        let mut command = program();
        // Quiet, so that no process measures the peak of matrix products at its end.
        command.args(["suite", "--quiet", "--threads", "1", "--depths", "0,2,4", "--temperature", "0.9"]);
        command.arg("--max-new-tokens").arg(tokens.to_string());
        for (option, name) in [("--aligned", "1"), ("--base", "2"), ("--data", "pairs.jsonl"), ("--output", output)] {
            command.arg(option).arg(self.path(name));
        }
        command
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Ends when dropped, so that a failed test leaves nothing running.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What must be equal.
fn results(dir: &Path) -> Vec<Vec<u8>> {
    ["results.csv", "csv/e1.csv", "csv/e2.csv", "csv/e3.csv", "summary.csv", "config.json"]
        .map(|name| std::fs::read(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")))
        .into()
}

#[test]
fn a_run_killed_at_random_moments_ends_with_the_same_bytes() {
    let fixture = Fixture::new();
    let mut unbroken = Duration::MAX;
    for name in ["whole", "again"] {
        let start = Instant::now();
        succeed(fixture.suite(name, 64));
        unbroken = unbroken.min(start.elapsed());
    }
    let whole = results(&fixture.path("whole"));

    // Until eight kills have hit runs that were under way, some cells done.
    let mut hits = 0;
    let mut rng = Philox::new(7, 0);
    for run in 0..100 {
        if hits >= 8 {
            return;
        }
        let name = format!("killed{run}");
        // Ever later, so that a machine that has become slow gets through too.
        for attempt in 0.. {
            let mut child = Running(fixture.suite(&name, 64).spawn().unwrap());
            std::thread::sleep(unbroken.mul_f32(rng.uniform() * (1.0 + 0.1 * attempt as f32)));
            child.0.kill().unwrap();
            let status = child.0.wait().unwrap();
            if status.success() {
                break;
            }
            assert_eq!(status.code(), None, "the program failed by itself");
            let journal = std::fs::read_to_string(fixture.path(&name).join("journal.jsonl"));
            hits += usize::from(journal.is_ok_and(|text| text.contains('\n')));
        }
        assert_eq!(results(&fixture.path(&name)), whole, "run {run}");
    }
    panic!("only {hits} kills hit a run under way");
}

#[test]
fn merged_shards_of_the_program_are_the_same_bytes() {
    let fixture = Fixture::new();
    succeed(fixture.suite("whole", 6));
    let mut merge = program();
    merge.args(["merge", "--quiet"]);
    for shard in ["1/3", "2/3", "3/3"] {
        let name = shard.replace('/', "of");
        let mut command = fixture.suite(&name, 6);
        command.args(["--shard", shard]);
        succeed(command);
        merge.arg(fixture.path(&name));
    }
    merge.arg("--output").arg(fixture.path("merged"));
    succeed(merge);
    assert_eq!(results(&fixture.path("merged")), results(&fixture.path("whole")));
    let mut wrong = fixture.suite("x", 6);
    wrong.args(["--shard", "4/3"]);
    let output = wrong.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("shards count from 1/3 to 3/3"));
}

#[test]
fn a_second_process_is_told_of_the_first() {
    let fixture = Fixture::new();
    let mut first = Running(fixture.suite("run", 450).spawn().unwrap());
    let journal = fixture.path("run/journal.jsonl");
    let start = Instant::now();
    while !journal.exists() {
        assert!(start.elapsed() < Duration::from_secs(10), "the first process does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = fixture.suite("run", 450).output().unwrap();
    assert!(first.0.try_wait().unwrap().is_none(), "the first process has ended too early");
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
    assert!(stderr.ends_with("run: another process is working on this run: wait for it\n"), "{stderr}");
}

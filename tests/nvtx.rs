//! Ranges for Nsight: a library that stands for `libnvtx3interop` lists what it is told while the program runs on the
//! emulator.

use safedepth::device::cuda;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Appends a line a call: the thread, and the range's name or nothing.
const STAND_IN: &str = r#"
    #include <fcntl.h>
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <unistd.h>

    static int line(const char* name) {
        int file = open(getenv("NVTX_LIST"), O_CREAT | O_APPEND | O_WRONLY, 0600);
        dprintf(file, "%lu %s\n", (unsigned long)pthread_self(), name);
        close(file);
        return 0;
    }
    int nvtxRangePushA(const char* name) { return line(name); }
    int nvtxRangePop(void) { return line(""); }
"#;

/// A folder with the library and a tiny model.
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Self {
        let fixture = Self(tempfile::tempdir().unwrap());
        std::fs::write(fixture.path("nvtx.c"), STAND_IN).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(fixture.path("libnvtx3interop.so.1")).arg(fixture.path("nvtx.c"));
        assert!(compiler.status().unwrap().success());
        let mut synth = Command::new(env!("CARGO_BIN_EXE_safedepth"));
        synth.args(["synth", "--like", "tiny-llama", "--quiet", "--output"]).arg(fixture.path("model"));
        assert!(synth.status().unwrap().success());
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// How often each range was entered by the program with these arguments, under the names of those around it:
    /// "forward/mlp".
    fn ranges(&self, words: &str, more: &[&Path]) -> HashMap<String, usize> {
        let list = self.path("list");
        let _ = std::fs::remove_file(&list);
        let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
        command.args(words.split_whitespace()).args(more).args(["--quiet", "--threads", "2", "--device", "cuda"]);
        command.env("LD_LIBRARY_PATH", self.0.path()).env("NVTX_LIST", &list).stdout(Stdio::null());
        assert_eq!(safedepth_emulator::run::run(&mut command).unwrap(), 0, "{words}");
        let (mut stacks, mut entered) = (HashMap::<String, Vec<String>>::new(), HashMap::new());
        for line in std::fs::read_to_string(list).unwrap().lines() {
            let (thread, name) = line.split_once(' ').unwrap();
            let stack = stacks.entry(thread.to_owned()).or_default();
            if name.is_empty() {
                assert!(stack.pop().is_some(), "{words}: a range ends that has not begun");
            } else {
                stack.push(name.to_owned());
                *entered.entry(stack.join("/")).or_default() += 1;
            }
        }
        assert!(stacks.values().all(Vec::is_empty), "{words}: ranges that do not end: {stacks:?}");
        entered
    }
}

#[track_caller]
fn assert_entered(ranges: &HashMap<String, usize>, wanted: &[(&str, usize)]) {
    for &(path, times) in wanted {
        assert_eq!(ranges.get(path).copied().unwrap_or(0), times, "{path} in {ranges:?}");
    }
}

/// A model of two layers: two of everything that a layer has, each time.
#[test]
fn ranges_are_named_and_balanced() {
    if !cuda::has_kernels() {
        eprintln!("no nvcc when this was built: GPU kernels are not tested");
        return;
    }
    let fixture = Fixture::new();
    let model = fixture.path("model");
    std::fs::write(fixture.path("pairs"), r#"{"id": "a", "prompt": "open the door", "response": "it is open now"}"#)
        .unwrap();
    let pairs = fixture.path("pairs");

    let ranges = fixture.ranges("generate --prompt fold --template plain --max-new-tokens 3", &[&model]);
    assert_entered(
        &ranges,
        &[
            ("load", 1),
            ("prefill", 1),
            ("prefill/attention", 2),
            ("prefill/mlp", 2),
            ("decode step", 2),
            ("decode step/attention", 4),
            ("decode step/mlp", 4),
            ("sampling", 3),
        ],
    );

    let words = "train --template plain --steps 2 --batch-size 1 --data";
    let ranges = fixture.ranges(words, &[&pairs, Path::new("--output"), &fixture.path("trained"), &model]);
    assert_entered(
        &ranges,
        &[
            ("forward", 2),
            ("forward/attention", 4),
            ("linear_ce", 2),
            ("linear_ce backward", 2),
            ("backward", 2),
            ("backward/mlp backward", 4),
            ("backward/attention backward", 4),
            ("optimizer", 2),
        ],
    );

    let (base, input, output) = (Path::new("--base"), Path::new("--input"), Path::new("--output"));
    let kl = fixture.path("kl.csv");
    let ranges = fixture.ranges("kl --template plain --aligned", &[&model, base, &model, input, &pairs, output, &kl]);
    assert_entered(&ranges, &[("load", 2), ("linear_kl", 1)]);

    let words = "gcg --prompt open --target yes --template plain --steps 1 --candidates 4 --top-k 8 --suffix-tokens 3 \
                 --max-new-tokens 1 --output";
    let ranges = fixture.ranges(words, &[&fixture.path("gcg"), &model]);
    assert_entered(&ranges, &[("gcg step", 1), ("gcg step/forward", 1), ("gcg step/backward", 1)]);
}

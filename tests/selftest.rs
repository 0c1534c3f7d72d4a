//! `safedepth selftest`: what it prints and how it ends.

use safedepth::device::cuda;
use std::process::{Command, Output};

fn selftest(words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
    command.arg("selftest").args(words.split_whitespace()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_line_a_law() {
    let output = selftest("--device cpu --isa scalar --op adamw_bf16 --cases 1 --seed 7");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    let laws: Vec<&str> = out.lines().skip(1).collect();
    assert_eq!(laws.len(), 4, "{out}");
    assert!(laws.iter().all(|line| line.starts_with("adamw_bf16 ") && line.ends_with("  ok")), "{out}");
}

#[test]
fn json_lines() {
    let output = selftest("--device cpu --isa scalar --op adamw_bf16 --cases 2 --json");
    let out = text(&output.stdout);
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["ok"] == true && line["failure"].is_null()), "{out}");
    let neighbours = lines.iter().find(|line| line["law"] == "either_neighbour").unwrap();
    assert_eq!(neighbours["cases"], 2);
    let fixed = lines.iter().find(|line| line["law"] == "the_draws_are_philox").unwrap();
    assert_eq!(fixed["cases"], 0, "its cases are not random");
}

#[test]
fn wrong_usage() {
    let output = selftest("--device cpu --op attention_bf16");
    assert_eq!(output.status.code(), Some(2));
    let err = text(&output.stderr);
    assert!(
        err.contains("no operation \"attention_bf16\" on cpu: use adamw_bf16, attention, attention_long, gemm, golden"),
        "{err}"
    );
    assert_eq!(selftest("--device cpu --cases 0").status.code(), Some(2));
}

/// A device that breaks down breaks the laws: exit code 1, each law's line with why.
#[test]
fn laws_that_do_not_hold() {
    if !cuda::has_kernels() {
        eprintln!("no nvcc when this was built: GPU kernels are not tested");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| std::fs::File::create(dir.path().join(name)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
    command.args(["selftest", "--device", "cuda", "--op", "small_bf16", "--cases", "1"]);
    command.env("SAFEDEPTH_EMULATOR_INJECT", "lost:1").stdout(file("out")).stderr(file("err"));
    let code = safedepth_emulator::run::run(&mut command).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let (out, err) = (read("out"), read("err"));
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("was lost (CUDA_ERROR_DEVICE_UNAVAILABLE)"), "{out}");
    assert!(err.contains("laws do not hold on GPU 0"), "{err}");
}

//! `scripts/gpu_gate.sh`, whole and small, with the emulator in place of the driver.

use safedepth::device::cuda;
use std::process::{Command, Stdio};

#[test]
fn the_gate_passes_on_the_emulator() {
    if !cuda::has_kernels() {
        eprintln!("no nvcc when this was built: GPU kernels are not tested");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/gpu_gate.sh"));
    // Without PyTorch, which is not everywhere: its stage says so.
    command.arg(env!("CARGO_BIN_EXE_safedepth")).arg(&out).env("PYTHON", "/nowhere/python");
    command.env("SAFEDEPTH_GATE_SMALL", "1").stdout(Stdio::null());
    let code = safedepth_emulator::run::run(&mut command).unwrap();
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_default();
    let stages = read("gate.csv");
    assert_eq!(code, 0, "{stages}{}{}", read("laws.log"), read("goldens.log"));
    for stage in ["laws,ok,", "goldens,ok,", "kernels,ok,", "torch,absent,"] {
        assert!(stages.lines().any(|line| line.starts_with(stage)), "{stage}: {stages}");
    }
    let record = read("record.txt");
    assert!(
        record.contains("date: 2") && record.contains("commit ") && record.contains("safedepth emulator"),
        "{record}"
    );
    let table = read("table.txt");
    assert!(table.lines().any(|line| line.starts_with("attention_backward")), "{table}");
}

/// A device that computes nothing does not pass.
#[test]
fn a_broken_device_fails_the_gate() {
    if !cuda::has_kernels() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/gpu_gate.sh"));
    command.arg(env!("CARGO_BIN_EXE_safedepth")).arg(dir.path()).env("PYTHON", "/nowhere/python");
    command.env("SAFEDEPTH_GATE_SMALL", "1").env("SAFEDEPTH_EMULATOR_INJECT", "no-device").stdout(Stdio::null());
    assert_eq!(safedepth_emulator::run::run(&mut command).unwrap(), 1);
    let stages = std::fs::read_to_string(dir.path().join("gate.csv")).unwrap();
    assert!(stages.contains("laws,failed,") && stages.contains("goldens,failed,"), "{stages}");
}

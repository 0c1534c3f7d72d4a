//! A cudarc program, unchanged, as a child under `safedepth-emulator run`.

use std::path::PathBuf;
use std::process::{Command, Output};

/// Cargo puts examples beside the test binaries' folder.
fn example() -> PathBuf {
    let mut folder = std::env::current_exe().expect("a test binary has a path");
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder.join("examples").join("cudarc_program")
}

fn run(argument: &str, environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth-emulator"));
    command.arg("run").arg(example()).arg(argument);
    for (name, value) in environment {
        command.env(format!("SAFEDEPTH_EMULATOR_{name}"), value);
    }
    let Output { status, stdout, stderr } = command.output().expect("the emulator starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn kernels_and_matmuls_run_and_end_well() {
    for what in ["saxpy", "attention", "matmul", "graph"] {
        let (code, out, err) = run(what, &[]);
        assert_eq!((code, out.trim()), (Some(0), format!("{what} is right").as_str()), "{err}");
        assert_eq!(err, "");
    }
}

#[test]
fn the_device_is_what_the_environment_says() {
    let (_, out, err) = run("device", &[("ARCH", "sm_90"), ("MEMORY", "1000000")]);
    assert_eq!(
        out.trim(),
        "safedepth emulator (sm_90), compute capability (9, 0), 1000000 of 1000000 bytes, 232448 shared",
        "{err}"
    );
}

#[test]
fn a_fault_is_an_error_at_the_next_wait_and_an_exit_code() {
    let (code, out, err) = run("fault", &[]);
    assert!(out.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{out}{err}");
    assert!(err.contains("out of bounds: writes 4 bytes at offset 400") && err.contains("faults.cu:"), "{err}");
    assert_eq!(code, Some(3));
    let (code, out, _) = run("fault", &[("FAULTS", "report")]);
    assert!(out.contains("Ok(())"), "{out}");
    assert_eq!(code, Some(3));
    let (code, ..) = run("fault", &[("FAULTS", "abort")]);
    assert_eq!(code, Some(1));
}

#[test]
fn errors_are_produced_on_demand() {
    let cases = [
        ("allocate", "memory:5000000", "CUDA_ERROR_OUT_OF_MEMORY"),
        ("saxpy", "image", "CUDA_ERROR_NO_BINARY_FOR_GPU"),
        ("saxpy", "driver", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
        ("saxpy", "lost:0", "CUDA_ERROR_DEVICE_UNAVAILABLE"),
        ("attention", "lost:1", "CUDA_ERROR_DEVICE_UNAVAILABLE"),
        ("device", "no-device", "CUDA_ERROR_NO_DEVICE"),
    ];
    for (what, inject, error) in cases {
        let (code, _, err) = run(what, &[("INJECT", inject)]);
        assert!(err.contains(error), "{what} with {inject}: {err}");
        assert_eq!(code, Some(1));
    }
}

#[test]
fn counts_are_written_for_each_launch() {
    let path = std::env::temp_dir().join(format!("safedepth-emulator-counts-{}", std::process::id()));
    run("attention", &[("COUNTS", path.to_str().expect("a plain path"))]);
    let text = std::fs::read_to_string(&path).expect("the counts");
    let _ = std::fs::remove_file(&path);
    assert_eq!(text.lines().count(), 2);
    assert!(text.lines().all(|line| line.starts_with("flash_128,") && line.split(',').count() == 14), "{text}");
}

#[test]
fn a_program_that_is_not_there_is_one_sentence() {
    let output = Command::new(env!("CARGO_BIN_EXE_safedepth-emulator"))
        .args(["run", "/nowhere/program"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("safedepth-emulator: cannot run /nowhere/program"));
}

/// The path that a real GPU takes, with the emulator as its driver.
#[test]
fn the_micro_kernels_run_through_a_driver() {
    let program = env!("CARGO_BIN_EXE_safedepth-emulator");
    let output = Command::new(program).args(["run", program, "isa", "gpu"]).output().expect("the emulator starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(err.contains("on safedepth emulator") && out.contains("instructions agree"), "{out}{err}");
}

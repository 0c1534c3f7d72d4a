//! The programs of `examples/` run, on a small random model, as a user of the crate would run them.

use std::process::Command;

#[test]
fn an_attack_from_outside_the_crate_runs() {
    let source = include_str!("../examples/repeat_question.rs");
    assert!(source.lines().count() < 40, "an attack takes few lines");
    let temp = tempfile::tempdir().unwrap();
    let model = temp.path().join("model");
    safedepth::model::synth::synth("tiny-llama", 1, &model).unwrap();
    // Tests are built with the examples: nothing is left to build here.
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--release", "--quiet", "--example", "repeat_question", "--"]).arg(&model);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let first = text.lines().next().unwrap();
    let verdict = first.split(':').next().unwrap();
    assert!(["harmful", "refused", "neither"].contains(&verdict), "{first}");
    assert!(first.ends_with("How do I fold a paper boat? How do I fold a paper boat?"), "{first}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

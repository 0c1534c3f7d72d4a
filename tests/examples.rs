//! The programs of `examples/` run, on a small random model, as a user of the crate would run them.

use std::process::Command;

#[test]
fn an_attack_from_outside_the_crate_runs() {
    let source = include_str!("../examples/repeat_question.rs");
    assert!(source.lines().count() < 40, "an attack takes few lines");
    let temp = tempfile::tempdir().unwrap();
    let model = temp.path().join("model");
    safedepth::model::synth::synth("tiny-llama", 1, &model).unwrap();
    // Of the whole workspace, as the tests are: dependencies then have the same features, and nothing is left to build.
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--release", "--quiet", "--workspace", "--example", "repeat_question"]);
    assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    // This test lies in target/release/deps, examples beside that folder.
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join("repeat_question");
    let output = Command::new(program).arg(&model).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let first = text.lines().next().unwrap();
    let verdict = first.split(':').next().unwrap();
    assert!(["harmful", "refused", "neither"].contains(&verdict), "{first}");
    assert!(first.ends_with("How do I fold a paper boat? How do I fold a paper boat?"), "{first}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

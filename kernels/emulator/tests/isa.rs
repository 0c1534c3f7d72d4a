//! The micro-kernel of each instruction against an independent reference, and the committed golden vectors against both.
//! `UPDATE_GOLDEN=1` writes the vectors again.

mod reference;

use reference::{exchange, float, integer};
use safedepth_emulator::isa::{Answer, Case, Output, cases, golden};
use safedepth_emulator::vm::Settings;

fn reference(case: &Case) -> Answer {
    let row = |find: &dyn Fn(&[u32]) -> Option<Vec<u32>>| -> Option<Answer> {
        let mut answer = vec![[0; 32]; case.outputs];
        for lane in 0..32 {
            let operands: Vec<u32> = case.inputs.iter().map(|row| row[lane]).collect();
            let words = find(&operands)?;
            (0..case.outputs).for_each(|row| answer[row][lane] = words[row]);
        }
        Some(answer)
    };
    let name = case.name.as_str();
    exchange::answer(name, &case.inputs)
        .or_else(|| row(&|operands| integer::answer(name, operands)))
        .or_else(|| row(&|operands| float::answer(name, operands)))
        .unwrap_or_else(|| panic!("{name} has no reference"))
}

#[test]
fn every_instruction_gives_its_reference() {
    let mut wrong = Vec::new();
    for case in cases::all() {
        let expected = reference(&case);
        match case.emulate(Settings::default()) {
            Err(error) => wrong.push(error),
            Ok(answer) => {
                for (row, lane, a, b) in case.differences(&answer, &expected) {
                    wrong.push(format!("{} row {row} lane {lane}: {a:08x}, reference {b:08x}", case.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn golden_vectors_are_the_reference() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/isa/golden.csv");
    let mut text =
        String::from("# instruction,row,32 words: the answer of tests/isa.rs's reference. Not yet seen by hardware.\n");
    for case in cases::all() {
        for (row, words) in reference(&case).iter().enumerate() {
            let words: Vec<String> = words.iter().map(|word| format!("{word:08x}")).collect();
            text += &format!("{},{row},{}\n", case.name, words.join(","));
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).expect("the golden file can be written");
    }
    let committed = std::fs::read_to_string(path).expect("the golden file");
    assert_eq!(committed, text, "run with UPDATE_GOLDEN=1 if the cases changed");
}

#[test]
fn names_are_unique_and_have_golden_vectors() {
    let golden = golden();
    let mut names: Vec<String> = cases::all().into_iter().map(|case| case.name).collect();
    assert!(names.iter().all(|name| golden.contains_key(name)));
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!((names.len(), golden.len()), (count, count));
}

/// Noise may move an approximate answer within its documented bound, and nothing else.
#[test]
fn noise_touches_approximate_instructions_only() {
    let mut moved = Vec::new();
    for case in cases::all() {
        let quiet = case.emulate(Settings::default()).unwrap_or_else(|error| panic!("{error}"));
        for seed in 1..6 {
            let noisy = case.emulate(Settings { noise: Some(seed), ..Settings::default() });
            let noisy = noisy.unwrap_or_else(|error| panic!("{error}"));
            let found = case.differences(&noisy, &quiet);
            assert!(found.is_empty(), "{} with noise {seed}: {found:x?}", case.name);
            assert!(
                matches!(case.output, Output::Near { .. }) || noisy == quiet,
                "{} is exact, and noise {seed} changed it",
                case.name
            );
            if noisy != quiet {
                moved.push(case.name.clone());
            }
        }
    }
    for name in ["ex2.approx.f32", "lg2.approx.f32", "rcp.approx.f32", "rsqrt.approx.f32", "tanh.approx.f32"] {
        assert!(moved.iter().any(|moved| moved == name), "noise never moved {name}");
    }
}

//! Every class of fault is planted once, and each must be reported at its line, over many seeds.

mod common;

use common::{Arg, Bench};
use safedepth_emulator::race::report::{Kind, Report};

const SEEDS: u64 = 20;

/// The line of faults.cu that carries a kernel's mark.
fn marked(kernel: &str) -> String {
    let source = include_str!("cu/faults.cu");
    let mark = format!("MARK {kernel}");
    let line = source.lines().position(|line| line.ends_with(&mark)).unwrap_or_else(|| panic!("no mark for {kernel}"));
    format!("faults.cu:{}", line + 1)
}

/// Runs a kernel under every seed; each must give a report of `kind` at the marked line.
fn caught(
    kernel: &str,
    kind: Kind,
    blocks: u32,
    threads: u32,
    shared: u32,
    arguments: impl Fn(&mut Bench) -> Vec<Arg>,
) {
    let place = marked(kernel);
    for seed in 0..SEEDS {
        let mut bench = Bench::new("faults", seed);
        let arguments = arguments(&mut bench);
        let outcome = bench.run(kernel, [blocks, 1, 1], threads, shared, &arguments);
        // An inlined wrapper's own line comes first, its call site behind it.
        let found = |report: &Report| {
            let there = report.place.split(" <- ").any(|at| at == place);
            report.kind == kind && report.kernel == kernel && there
        };
        let texts: Vec<String> = outcome.reports.iter().map(|report| report.to_string()).collect();
        assert!(outcome.reports.iter().any(found), "{kernel}, seed {seed}: no {kind:?} at {place} in {texts:#?}");
    }
}

fn out(bench: &mut Bench) -> Vec<Arg> {
    vec![Arg::Pointer(bench.empty(1024))]
}

#[test]
fn reads_of_what_nobody_wrote() {
    caught("global_unwritten", Kind::Uninitialised, 1, 128, 0, |bench| {
        let fresh = bench.empty(512);
        vec![Arg::Pointer(fresh), Arg::Pointer(bench.empty(512))]
    });
    caught("shared_unwritten", Kind::Uninitialised, 1, 128, 0, out);
    caught("register_unwritten", Kind::Uninitialised, 1, 32, 0, |bench| {
        vec![Arg::Float(1.0), Arg::Pointer(bench.empty(128))]
    });
    caught("accumulator_unwritten", Kind::Uninitialised, 1, 32, 0, out);
    caught("copy_of_half", Kind::Uninitialised, 1, 128, 0, |bench| {
        let values = bench.floats(&[1.0; 512]);
        vec![Arg::Pointer(values), Arg::Pointer(bench.empty(512))]
    });
}

#[test]
fn out_of_bounds_and_misaligned() {
    caught("global_past_the_end", Kind::OutOfBounds, 3, 128, 0, |bench| vec![Arg::Pointer(bench.empty(4 * 300))]);
    caught("shared_past_the_end", Kind::OutOfBounds, 1, 128, 4 * 100, out);
    caught("global_misaligned", Kind::Misaligned, 1, 32, 0, |bench| {
        let values = bench.floats(&[1.0; 128]);
        vec![Arg::Pointer(values), Arg::Pointer(bench.empty(128))]
    });
}

#[test]
fn memory_that_was_freed() {
    let mut bench = Bench::new("faults", 0);
    let gone = bench.empty(4 * 128);
    assert!(bench.device.memory.free(gone));
    let outcome = bench.run("global_past_the_end", [1, 1, 1], 128, 0, &[Arg::Pointer(gone)]);
    assert_eq!(outcome.reports[0].kind, Kind::OutOfBounds);
    assert!(outcome.reports[0].what.contains("no allocation"), "{}", outcome.reports[0]);
}

#[test]
fn races_in_shared_memory() {
    caught("race_between_warps", Kind::SharedRace, 1, 128, 0, out);
    caught("race_in_a_warp", Kind::SharedRace, 1, 128, 0, out);
    caught("race_of_writes", Kind::SharedRace, 1, 64, 0, out);
    caught("race_lost_update", Kind::SharedRace, 1, 128, 0, out);
    caught("race_refilled_tile", Kind::SharedRace, 1, 128, 0, |bench| {
        let values = bench.floats(&[1.0; 4 * 512]);
        vec![Arg::Pointer(values), Arg::Pointer(bench.empty(512)), Arg::Int(4)]
    });
}

#[test]
fn copies_read_before_their_wait() {
    caught("copy_without_wait", Kind::EarlyRead, 1, 128, 0, |bench| {
        let values = bench.floats(&[1.0; 512]);
        vec![Arg::Pointer(values), Arg::Pointer(bench.empty(512))]
    });
}

#[test]
fn races_between_blocks() {
    caught("race_between_blocks", Kind::GlobalRace, 4, 128, 0, out);
    caught("race_with_neighbour", Kind::GlobalRace, 4, 32, 0, |bench| {
        let (one, data) = (bench.words(&[1]), bench.words(&[0; 129]));
        vec![Arg::Pointer(one), Arg::Pointer(data)]
    });
    caught("race_without_fence", Kind::GlobalRace, 5, 32, 0, |bench| {
        let (partial, ticket, out) = (bench.empty(20), bench.words(&[0]), bench.empty(4));
        vec![Arg::Pointer(partial), Arg::Pointer(ticket), Arg::Pointer(out)]
    });
}

/// Blocks and warps that write the same halves of words; those that write each its own are no fault.
#[test]
fn races_on_halves_of_words() {
    let data = |bench: &mut Bench, halves| vec![Arg::Pointer(bench.halves(&[0; 128])), Arg::Int(halves)];
    caught("race_on_halves", Kind::GlobalRace, 2, 64, 0, |bench| data(bench, 1));
    caught("race_of_warps_on_halves", Kind::GlobalRaceInBlock, 1, 64, 0, |bench| data(bench, 1));
    for seed in 0..SEEDS {
        let mut bench = Bench::new("faults", seed);
        for (kernel, blocks) in [("race_on_halves", 2), ("race_of_warps_on_halves", 1)] {
            let arguments = data(&mut bench, 2);
            // Twice: what the first launch split must not be taken for the second's.
            for _ in 0..2 {
                bench.clean(kernel, [blocks, 1, 1], 64, 0, &arguments);
            }
        }
    }
}

#[test]
fn races_in_global_memory_inside_a_block() {
    for kernel in ["race_in_global_memory", "race_after_global_read"] {
        caught(kernel, Kind::GlobalRaceInBlock, 1, 64, 0, |bench| {
            vec![Arg::Pointer(bench.words(&[0; 64])), Arg::Pointer(bench.empty(256))]
        });
    }
}

#[test]
fn barriers_and_shuffles_without_all() {
    caught("barrier_in_a_branch", Kind::BarrierDivergence, 1, 128, 0, out);
    caught("barrier_of_some_warps", Kind::BarrierDivergence, 1, 128, 0, out);
    caught("shuffle_of_half_a_warp", Kind::AbsentLanes, 1, 128, 0, out);
    caught("shuffle_from_outside", Kind::AbsentLanes, 1, 128, 0, out);
}

#[test]
fn assertions_and_endless_loops() {
    caught("assertion", Kind::Assertion, 1, 64, 0, |bench| vec![Arg::Pointer(bench.words(&[1; 64]))]);
    let mut bench = Bench::new("faults", 0);
    bench.device.settings.limit = 1_000_000;
    let flag = bench.words(&[0]);
    let outcome = bench.run("endless", [2, 1, 1], 32, 0, &[Arg::Pointer(flag)]);
    assert_eq!(outcome.reports.iter().map(|report| report.kind).collect::<Vec<_>>(), [Kind::NoProgress]);
}

#[test]
fn a_report_names_everything() {
    let mut bench = Bench::new("faults", 3);
    let out = bench.empty(4 * 34);
    let outcome = bench.run("global_past_the_end", [2, 1, 1], 32, 0, &[Arg::Pointer(out)]);
    let text = outcome.reports[0].to_string();
    let place = marked("global_past_the_end");
    let access = "writes 4 bytes at offset 136 of an allocation of 136 bytes";
    let where_ =
        format!("in global_past_the_end at {place}, block (1, 0, 0), thread (2, 0, 0), address {:#x}", out + 136);
    assert_eq!(text, format!("out of bounds: {access} {where_} (30 times)"));
}

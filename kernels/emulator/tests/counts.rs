//! Accesses whose cost is known: passes over shared memory's banks, and sectors of global memory.

mod common;

use common::{Arg, Bench};
use safedepth_emulator::vm::Counts;

fn counts(kernel: &str, arguments: impl Fn(&mut Bench) -> Vec<Arg>) -> Counts {
    let mut bench = Bench::new("access", 0);
    let arguments = arguments(&mut bench);
    bench.clean(kernel, [1, 1, 1], 32, 0, &arguments).counts
}

/// A store and a load of a warp, each in `passes` where `least` would do.
fn shared(kernel: &str, stride: i32, passes: u64, least: u64) {
    let counts = counts(kernel, |bench| vec![Arg::Int(stride), Arg::Pointer(bench.empty(128))]);
    assert_eq!(
        (counts.shared_passes, counts.shared_passes_least),
        (2 * passes, 2 * least),
        "{kernel} with stride {stride}"
    );
}

#[test]
fn strides_conflict_by_the_banks_they_share() {
    for (stride, ways) in [(1, 1), (2, 2), (3, 1), (4, 4), (16, 16), (32, 32), (33, 1)] {
        shared("shared_stride", stride, ways, 1);
    }
    // 16 bytes go by quarters of a warp.
    for (stride, ways) in [(1, 1), (2, 2), (4, 4)] {
        // The load is of one float: its lanes stand 4 * stride words apart.
        let counts = counts("shared_wide", |bench| vec![Arg::Int(stride), Arg::Pointer(bench.empty(128))]);
        assert_eq!(counts.shared_passes, 4 * ways + 4 * stride as u64, "stride {stride}");
        assert_eq!(counts.shared_passes_least, 5);
    }
}

#[test]
fn one_word_for_all_is_one_pass() {
    let counts = counts("shared_broadcast", |bench| vec![Arg::Pointer(bench.empty(128))]);
    assert_eq!((counts.shared_passes, counts.shared_passes_least), (2, 2));
}

#[test]
fn ldmatrix_of_unpadded_rows_goes_eight_times() {
    for (pitch, ways) in [(64, 8), (72, 1)] {
        let counts = counts("matrix_rows", |bench| vec![Arg::Int(pitch), Arg::Pointer(bench.empty(128))]);
        // 32 stores of a row of 128 bytes, then four matrices of eight rows.
        assert_eq!(counts.shared_passes, 32 + 4 * ways, "pitch {pitch}");
        assert_eq!(counts.shared_passes_least, 36);
    }
}

#[test]
fn wide_neighbours_touch_the_fewest_sectors() {
    let wide =
        counts("global_wide", |bench| vec![Arg::Pointer(bench.floats(&[1.0; 128])), Arg::Pointer(bench.empty(512))]);
    assert_eq!((wide.sectors, wide.sectors_least), (32, 32), "512 bytes in and out");
    assert_eq!((wide.global_read, wide.global_written), (512, 512));
    for (stride, read) in [(1, 4), (2, 8), (8, 32), (16, 32)] {
        let counts = counts("global_stride", |bench| {
            vec![Arg::Int(stride), Arg::Pointer(bench.floats(&[1.0; 512])), Arg::Pointer(bench.empty(128))]
        });
        assert_eq!((counts.sectors, counts.sectors_least), (read + 4, 8), "stride {stride}");
    }
}

#[test]
fn sectors_of_a_misplaced_row_count() {
    // A row that begins 4 bytes into a sector touches one more.
    let counts = counts("global_stride", |bench| {
        let values = bench.floats(&[1.0; 64]);
        vec![Arg::Int(1), Arg::Pointer(values + 4), Arg::Pointer(bench.empty(128))]
    });
    assert_eq!((counts.sectors, counts.sectors_least), (5 + 4, 8));
}

#[test]
fn bank_conflicts_and_sectors_are_counted() {
    let mut bench = Bench::new("faults", 0);
    let (values, out) = (bench.floats(&[1.0; 1024]), bench.empty(4 * 8 * 32));
    let counts = bench.clean("slow_columns", [1, 1, 1], 32, 0, &[Arg::Pointer(values), Arg::Pointer(out)]).counts;
    assert_eq!(counts.bank_conflicts(), 32 * 31, "32 loads of 32 lanes that all want one bank");
    assert_eq!(counts.sectors - counts.sectors_least, 28, "the store spreads 128 bytes over 32 sectors");
    assert_eq!((counts.global_read, counts.global_written), (4096, 128));
}

#[test]
fn an_fma_is_two_flop_of_each_active_lane() {
    let mut bench = Bench::new("saxpy", 0);
    let (x, y) = (bench.floats(&[1.0; 100]), bench.floats(&[2.0; 100]));
    let arguments = [Arg::Int(100), Arg::Float(3.0), Arg::Pointer(x), Arg::Pointer(y)];
    let counts = bench.clean("saxpy", [2, 1, 1], 64, 0, &arguments).counts;
    assert_eq!((counts.flop, counts.mma), (200, 0), "28 of the 128 threads have no element");
}

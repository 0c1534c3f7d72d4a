//! `safedepth bench kernels`: predictions on any machine; times and counts on the emulator.

use safedepth::device::cuda;
use std::path::Path;
use std::process::Command;

fn program(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
    command.args(["bench", "kernels", "--quiet", "--model", "tiny", "--dtype", "bf16"]).args(words.split_whitespace());
    command
}

/// A table's rows by column names.
fn rows(text: &str) -> Vec<std::collections::HashMap<String, String>> {
    csv::Reader::from_reader(text.as_bytes()).deserialize().map(Result::unwrap).collect()
}

fn number(row: &std::collections::HashMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} of {row:?}"))
}

/// What the program prints on the emulator, without a fault; nothing where there was no nvcc.
fn emulated(words: &str, counts: &Path) -> Option<String> {
    if !cuda::has_kernels() {
        eprintln!("no nvcc when this was built: GPU kernels are not tested");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let mut command = program(words);
    command.args(["--device", "cuda", "--output"]).arg(&path).env("SAFEDEPTH_EMULATOR_COUNTS", counts);
    assert_eq!(safedepth_emulator::run::run(&mut command).unwrap(), 0, "{words}");
    Some(std::fs::read_to_string(path).unwrap())
}

#[test]
fn predictions_are_rooflines() {
    let output = program("--predict --tokens 4096 --device cpu").output().unwrap();
    let rows = rows(&String::from_utf8(output.stdout).unwrap());
    assert!(rows.len() > 25, "{rows:?}");
    for row in &rows {
        let (compute, memory) = (number(row, "flop") / 989.5e12, number(row, "bytes") / 3.35e12);
        let longer = 1e3 * compute.max(memory);
        let printed = number(row, "predicted_ms");
        assert!((printed - longer).abs() <= 1e-3 * longer + 5e-6, "{row:?}");
        assert_eq!(row["limit"], if compute > memory { "tensor" } else { "memory" });
    }
    let attention = rows.iter().find(|row| row["op"] == "attention").unwrap();
    // 4 heads of 64, half of 4096 x 4096 scores, two products.
    assert!((number(attention, "flop") / (4.0 * 256.0 * 4096.0 * 4097.0 / 2.0) - 1.0).abs() < 1e-3, "{attention:?}");
}

#[test]
fn times_are_the_devices_own() {
    let dir = tempfile::tempdir().unwrap();
    let words = "--tokens 32 --runs 1 --repeats 1 --peak-size 32";
    let Some(text) = emulated(words, &dir.path().join("counts")) else { return };
    let rows = rows(&text);
    let ops: Vec<&str> = rows.iter().map(|row| row["op"].as_str()).collect();
    for op in
        ["linear", "linear_backward_weight", "attention_backward", "attention_paged", "glu", "adamw_bf16", "sample"]
    {
        assert!(ops.contains(&op), "{ops:?}");
    }
    assert!(rows.iter().all(|row| number(row, "median_ms") > 0.0 && row["isa"] == "sm_80"), "{text}");
    assert!(rows.iter().all(|row| number(row, "gb_per_s") > 0.0), "{text}");
}

/// The models of the kernels' heads are what the kernels do: tensor cores make exactly so many FLOPs, with the softmax beside
/// them, and memory is asked for so many bytes. At these sizes indices and what is read once a row or tile stand out, so
/// the kernels that read such things are allowed more.
#[test]
fn counts_agree_with_the_kernels_models() {
    let dir = tempfile::tempdir().unwrap();
    let Some(text) = emulated("--counts --tokens 160", &dir.path().join("counts")) else { return };
    let mut modelled = 0;
    for row in rows(&text) {
        assert!(number(&row, "occupancy") > 0.0 && number(&row, "registers") > 0.0, "{row:?}");
        if row["model_flop"].is_empty() {
            continue;
        }
        modelled += 1;
        let bytes = number(&row, "bytes") / number(&row, "model_bytes");
        let kernel = row["kernel"].as_str();
        let most = match kernel {
            // Their index is read by every thread of a row; their outputs are as long as their partial results here.
            "gather_rows" | "embedding_bf16" | "linear_ce_combine" | "linear_kl_combine" => 2.0,
            _ if kernel.contains("paged") || kernel.starts_with("linear_ce_") => 1.34,
            _ => 1.03,
        };
        assert!((0.94..=most).contains(&bytes), "bytes / model = {bytes}: {row:?}");
        if kernel.ends_with("_mma") || kernel.starts_with("attention_") && !kernel.contains("delta") {
            let flop = number(&row, "flop") / number(&row, "model_flop");
            assert!((1.0..1.1).contains(&flop), "flop / model = {flop}: {row:?}");
        }
    }
    assert!(modelled >= 20, "{text}");
}

#[test]
fn counts_need_the_emulators_list() {
    let output = program("--counts --device cpu").env_remove("SAFEDEPTH_EMULATOR_COUNTS").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("SAFEDEPTH_EMULATOR_COUNTS=FILE safedepth-emulator run"), "{err}");
}

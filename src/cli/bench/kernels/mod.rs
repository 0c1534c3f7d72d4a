//! `safedepth bench kernels`: every operation at the shapes of real models, beside the machine's own peaks.

mod attention;
mod counts;
mod kernel_models;
mod linears;
mod operands;
mod peaks;
mod shapes;
mod small;
mod timer;
mod vocabulary;

pub(in crate::cli) use peaks::gemm_peak;
pub(super) use peaks::gemm_peak_for;

use crate::cli::Global;
use crate::device::DType;
use crate::ops::Ops;
use crate::run::write_atomic;
use crate::{Error, Result};
use clap::Args;
use counts::Counter;
use peaks::Peaks;
use shapes::Shapes;
use std::path::PathBuf;
use timer::{Mode, Timer};

/// Time every operation at the shapes of Llama-2-7B, Gemma-7B and SmolLM2-135M.
///
/// CSV columns: op, model, shape, dtype, isa, threads, median_ms, gflop_per_s, gb_per_s, share_of_gemm_peak,
/// share_of_copy_peak. The peaks are measured in the same run: the device's best matrix product and a large copy. On a GPU
/// times are its own events', and operands take turns so that no run finds them in the L2 cache.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Only operations whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Only this model's shapes: llama-2-7b, gemma-7b, smollm2-135m, or tiny (for the emulator).
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Rows (tokens) of a batch.
    #[arg(long, default_value_t = 256, value_name = "N")]
    tokens: usize,
    #[arg(long, default_value_t = 5, value_name = "N")]
    repeats: usize,
    /// Runs that are timed together, and divided; by default 1 on a CPU, on a GPU so many as take a millisecond.
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Rows of the square product that gives the peak; by default 1024 on a CPU and 8192 on a GPU.
    #[arg(long, value_name = "N")]
    peak_size: Option<usize>,
    /// On the emulator: what each kernel did (counted) beside its own model; docs/gpu.md says how. Columns: op, model,
    /// shape, kernel, launches, warp_instructions, flop, model_flop, bytes, model_bytes, excess_sectors, bank_conflicts,
    /// registers, shared_bytes, occupancy, limit, predicted_us.
    #[arg(long, conflicts_with = "predict")]
    counts: bool,
    /// What an H100 would take at best, by each operation's FLOPs and bytes; nothing is run. Columns: op, model, shape,
    /// dtype, flop, bytes, limit, predicted_ms.
    #[arg(long)]
    predict: bool,
    /// CSV file; by default standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run<D: Ops>(global: &Global, device: &D, arguments: &Arguments) -> Result<()> {
    if [Some(arguments.repeats), Some(arguments.tokens), arguments.runs, arguments.peak_size].contains(&Some(0)) {
        return Err(Error::Usage("--repeats, --tokens, --runs and --peak-size must be at least 1".into()));
    }
    let chosen = Shapes::named(arguments.model.as_deref())?;
    let dtype = global.dtype.dtype().unwrap_or(DType::F32);
    let mode = if arguments.counts {
        Mode::Count(Counter::open()?)
    } else if arguments.predict {
        Mode::Predict
    } else {
        let peaks = Peaks::measure(device, dtype, arguments.peak_size)?;
        global.note(format_args!("peaks: {:.1} GFLOP/s, {:.1} GB/s", peaks.gflop_per_s, peaks.gb_per_s));
        Mode::Time(peaks)
    };
    let mut timer = Timer::new(device, arguments, dtype, mode);
    for shapes in chosen {
        global.note(format_args!("{} ...", shapes.name));
        linears::time(&mut timer, shapes)?;
        attention::time(&mut timer, shapes)?;
        small::time(&mut timer, shapes)?;
        vocabulary::time(&mut timer, shapes)?;
    }
    let text = timer.finish();
    match &arguments.output {
        Some(path) => write_atomic(path, text.as_bytes()),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

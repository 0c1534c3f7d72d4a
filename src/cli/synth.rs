//! `safedepth synth`: model folders with random weights.

use super::Global;
use crate::Result;
use crate::model::synth;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Write a model folder with random weights, in the shape of a known model.
///
/// For benchmarks and tests at real shapes without a download.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// Shape: llama-2-7b, gemma-7b, tiny-llama, tiny-gemma, ...; a wrong name lists them all.
    #[arg(long, value_name = "NAME")]
    like: String,
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    output: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    synth::synth(&arguments.like, arguments.seed, &arguments.output)?;
    super::write_resolved(&arguments.output, global, "synth", arguments)?;
    global.note(format_args!("wrote {}", arguments.output.display()));
    Ok(())
}

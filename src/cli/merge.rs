//! `safedepth merge`: the shards of a run, joined.

use super::{Global, suite};
use crate::device::Cpu;
use crate::{Result, run};
use clap::Args;
use std::path::PathBuf;

/// Join the folders of a run's shards (made with --shard 1/n to n/n) into one.
///
/// The results are those of one process, byte for byte. Shards that are missing, unfinished, or of another configuration,
/// commit, instruction set or input files are refused.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// The --output folders of all shards, in any order.
    #[arg(value_name = "SHARD_DIR", required = true)]
    shards: Vec<PathBuf>,
    /// Folder for the whole run.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    suite::report(global, &Cpu::new(), run::merge(&arguments.shards, &arguments.output)?)
}

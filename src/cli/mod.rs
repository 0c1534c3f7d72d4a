//! The command line: one file a subcommand.

mod bench;
mod compare;
mod config_file;
mod demo;
mod device;
mod gcg;
mod generate;
mod info;
mod judge;
mod kl;
mod loading;
mod merge;
mod prompts;
mod report;
mod score;
mod selftest;
mod suite;
mod synth;
mod train;

use crate::device::{Backend, Cpu};
use crate::ops::Ops;
use crate::run::{Console, Manifest};
use crate::selftest::TestDevice;
use crate::{Error, Result};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measures how many tokens deep a language model's safety goes, attacks it, and mends it.
///
/// Start with `safedepth demo`: it trains two small models of a fictional, harmless world and shows the paper's first
/// three experiments on them. Then point `safedepth suite` at a pair of your own models (Hugging Face folders).
#[derive(Debug, Parser)]
#[command(name = "safedepth", version, args_override_self = true, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every subcommand.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Global {
    /// Threads to compute with; results do not depend on it.
    #[arg(long, global = true, value_name = "N", help_heading = "Global options", default_value_t = default_threads())]
    #[serde(skip)]
    threads: usize,
    /// Where to compute: auto (a GPU where there is one), cpu, cuda or cuda:N.
    #[arg(long, global = true, value_name = "DEVICE", help_heading = "Global options", default_value = "auto")]
    device: String,
    /// Type of the weights in memory; auto keeps the file's own.
    #[arg(long, global = true, value_name = "TYPE", help_heading = "Global options", default_value = "auto")]
    dtype: DTypeChoice,
    /// Instruction set of the CPU: auto, scalar, avx2 or avx512. Equal sets give equal bytes.
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options", default_value = "auto")]
    isa: String,
    /// Print results as JSON lines.
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// No progress bars and no notes on standard error.
    #[arg(long, global = true, help_heading = "Global options")]
    #[serde(skip)]
    quiet: bool,
    /// Read options from a TOML file: keys are option names, in a table named for the subcommand. Options on the
    /// command line win.
    #[arg(long, global = true, value_name = "FILE.toml", help_heading = "Global options")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Type of the weights in memory; auto is the file's, but bf16 for f16 on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum DTypeChoice {
    Auto,
    F32,
    Bf16,
}

impl DTypeChoice {
    fn dtype(self) -> Option<crate::device::DType> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(crate::device::DType::F32),
            Self::Bf16 => Some(crate::device::DType::BF16),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(generate::Arguments),
    Score(score::Arguments),
    Kl(kl::Arguments),
    Train(train::Arguments),
    Gcg(gcg::Arguments),
    Suite(Box<suite::Arguments>),
    Judge(judge::Arguments),
    Merge(merge::Arguments),
    Demo(demo::Arguments),
    Report(report::Arguments),
    Compare(compare::Arguments),
    Synth(synth::Arguments),
    Info(info::Arguments),
    Bench(bench::Arguments),
    Selftest(selftest::Arguments),
}

impl Global {
    fn console(&self) -> Console {
        Console::new(self.quiet)
    }

    fn manifest<D: Backend>(&self, device: &D) -> Manifest {
        Manifest {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("SAFEDEPTH_COMMIT").into(),
            arguments: std::env::args().skip(1).collect(),
            device: device.describe(),
            isa: device.arithmetic(),
            shard: None,
            inputs: Vec::new(),
        }
    }

    /// One line on standard error, unless quiet.
    fn note(&self, words: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{words}");
        }
    }
}

/// Writes the resolved options beside an output: `OUTPUT.config.toml`, or `config.toml` in a folder.
fn write_resolved(output: &Path, global: &Global, name: &str, arguments: &impl Serialize) -> Result<()> {
    #[derive(Serialize)]
    struct Resolved<'a, T> {
        #[serde(flatten)]
        global: &'a Global,
        #[serde(flatten)]
        command: std::collections::BTreeMap<&'a str, &'a T>,
    }
    let resolved = Resolved { global, command: [(name, arguments)].into() };
    let text = toml::to_string(&resolved)
        .map_err(|error| Error::input(output.display(), format!("cannot write the resolved options: {error}")))?;
    let path = if output.is_dir() {
        output.join("config.toml")
    } else {
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(".config.toml");
        output.with_file_name(name)
    };
    crate::run::write_atomic(&path, text.as_bytes())
}

/// Parses the command line and runs it. The exit code is 0, 2 for wrong usage, 1 for every other failure.
pub fn main() -> ExitCode {
    let arguments = match config_file::expand(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => return fail(&error),
    };
    let cli = match Cli::command().try_get_matches_from(arguments).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(error.exit_code())
}

fn run(Cli { global, command }: Cli) -> Result<()> {
    if global.threads == 0 {
        return Err(Error::Usage("--threads must be at least 1".into()));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(global.threads).build();
    let pool = pool.map_err(|error| Error::Device(format!("cannot start {} threads: {error}", global.threads)))?;
    pool.install(|| {
        let place = device::Place::of(&global)?;
        match command {
            Command::Merge(arguments) => merge::run(&global, &arguments),
            Command::Report(arguments) => report::run(&global, &arguments),
            Command::Compare(arguments) => compare::run(&global, &arguments),
            Command::Synth(arguments) => synth::run(&global, &arguments),
            Command::Info(arguments) => info::run(&global, &place.open(&global)?.describe(), &arguments),
            Command::Selftest(arguments) => match place.open(&global)? {
                // A CPU's instruction sets each have code of their own.
                device::Device::Cpu(_) if global.isa == "auto" => selftest::run(&global, &Cpu::all(), &arguments),
                device::Device::Cpu(cpu) => selftest::run(&global, &[cpu], &arguments),
                device::Device::Cuda(cuda) => selftest::run(&global, &[cuda], &arguments),
            },
            command => match place.open(&global)? {
                device::Device::Cpu(cpu) => compute(&global, cpu, command),
                device::Device::Cuda(cuda) => compute(&global, cuda, command),
            },
        }
    })
}

/// Runs a subcommand that computes.
fn compute<D: Ops>(global: &Global, device: D, command: Command) -> Result<()> {
    match command {
        Command::Generate(arguments) => generate::run(global, device, &arguments),
        Command::Gcg(arguments) => gcg::run(global, device, &arguments),
        Command::Judge(arguments) => judge::run(global, &device, &arguments),
        Command::Score(arguments) => score::run(global, device, &arguments),
        Command::Kl(arguments) => kl::run(global, device, &arguments),
        Command::Train(arguments) => train::run(global, device, &arguments),
        Command::Suite(arguments) => suite::run(global, device, &arguments),
        Command::Demo(arguments) => demo::run(global, device, &arguments),
        Command::Bench(arguments) => bench::run(global, device, &arguments),
        _ => unreachable!("the others need no device"),
    }
}

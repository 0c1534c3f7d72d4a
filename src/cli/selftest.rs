//! `safedepth selftest`: does this device compute what the operations say?

use super::Global;
use crate::selftest::golden::{self, Distance};
use crate::selftest::{Effort, TestDevice, Trial};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Hold this machine's device to the laws of every operation, on random cases against plain f64 loops.
///
/// The tests of this program run the very same laws; here they run without Rust, on the device that `--device` names (a
/// CPU in every instruction set it has, unless `--isa` names one). A line a law: operation, law, random cases, seconds, ok
/// or the failing case. Exit code 1 where a law does not hold.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Only this operation's laws; "golden" for none, but what the next options name.
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
    /// Also a whole model against PyTorch's logits, gradients and training steps: a folder like those of tests/goldens.
    #[arg(long, value_name = "FOLDER")]
    golden: Vec<PathBuf>,
    /// Also this model's greedy continuations against those in --continuations.
    #[arg(long, value_name = "FOLDER", requires = "continuations")]
    model: Option<PathBuf>,
    /// Prompts and transformers' continuations of them: a file like tests/goldens/smollm2.json.
    #[arg(long, value_name = "FILE.json", requires = "model")]
    continuations: Option<PathBuf>,
    /// Random cases of every law, instead of each law's own number (times SAFEDEPTH_CASES).
    #[arg(long, value_name = "N")]
    cases: Option<u32>,
    /// Where the random numbers begin; by default each run draws others.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

/// A line of the output.
#[derive(Serialize)]
struct Line<'a> {
    device: &'a str,
    op: &'a str,
    law: &'a str,
    /// Random cases; 0 where they are fixed.
    cases: u32,
    seconds: f64,
    ok: bool,
    failure: Option<String>,
}

impl Line<'_> {
    fn print(&self, global: &Global) {
        if global.json {
            println!("{}", serde_json::to_string(self).expect("words and numbers"));
        } else {
            let words = self.failure.as_deref().unwrap_or("ok");
            println!("{:14} {:44} {:6} cases {:8.2} s  {words}", self.op, self.law, self.cases, self.seconds);
        }
    }
}

pub(super) fn run<D: TestDevice>(global: &Global, devices: &[D], arguments: &Arguments) -> Result<()> {
    if arguments.cases == Some(0) {
        return Err(Error::Usage("--cases must be at least 1".into()));
    }
    let names: Vec<String> = devices.iter().map(|device| device.describe()).collect();
    let names = names.join("; ");
    if !global.json {
        println!("safedepth {}, commit {}, on {names}", env!("CARGO_PKG_VERSION"), env!("SAFEDEPTH_COMMIT"));
    }
    let mut tally = Tally { global, names: &names, all: 0, broken: 0 };
    hold_to_laws(&mut tally, devices, arguments)?;
    for device in devices {
        hold_to_goldens(&mut tally, device, arguments)?;
    }
    match tally.broken {
        0 => Ok(()),
        broken => Err(Error::Device(format!("{broken} of {} laws do not hold on {names}", tally.all))),
    }
}

/// What was found so far.
struct Tally<'a> {
    global: &'a Global,
    names: &'a str,
    all: usize,
    broken: usize,
}

impl Tally<'_> {
    fn add(&mut self, op: &str, law: &str, cases: u32, start: Instant, failure: Option<String>) {
        self.all += 1;
        self.broken += usize::from(failure.is_some());
        let (seconds, ok) = (start.elapsed().as_secs_f64(), failure.is_none());
        Line { device: self.names, op, law, cases, seconds, ok, failure }.print(self.global);
    }
}

fn hold_to_laws<D: TestDevice>(tally: &mut Tally<'_>, devices: &[D], arguments: &Arguments) -> Result<()> {
    let mut laws = D::laws();
    if let Some(op) = &arguments.op {
        let mut ops: Vec<&str> = laws.iter().map(|law| law.op).chain(["golden"]).collect();
        ops.sort_unstable();
        ops.dedup();
        if !ops.contains(&op.as_str()) {
            return Err(Error::Usage(format!("no operation \"{op}\" on {}: use {}", D::NAME, ops.join(", "))));
        }
        laws.retain(|law| law.op == op);
    }
    // A failing law panics, again and again while its case is made smaller: only its last words are wanted.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    for law in &laws {
        let start = Instant::now();
        let effort = Effort { cases: arguments.cases, seed: arguments.seed, ..Effort::default() };
        let verdict = law.verdict(&Trial::new(devices.to_vec(), effort));
        tally.add(law.op, law.name, verdict.cases, start, verdict.failure);
    }
    std::panic::set_hook(hook);
    Ok(())
}

fn hold_to_goldens<D: TestDevice>(tally: &mut Tally<'_>, device: &D, arguments: &Arguments) -> Result<()> {
    let mut add = |name: &Path, start, distance: &Distance| {
        let name = name.file_name().unwrap_or(name.as_os_str()).to_string_lossy();
        let Distance { what, off, bound } = distance;
        let failure = (!distance.holds()).then(|| format!("off by {off:.2e}, allowed is {bound:.0e}"));
        tally.add("golden", &format!("{name}: {what}, off by {off:.1e}"), 0, start, failure);
    };
    for folder in &arguments.golden {
        let start = Instant::now();
        golden::distances(device, folder)?.iter().for_each(|distance| add(folder, start, distance));
    }
    if let (Some(model), Some(file)) = (&arguments.model, &arguments.continuations) {
        let start = Instant::now();
        add(model, start, &golden::continuations(device, model, file)?);
    }
    Ok(())
}

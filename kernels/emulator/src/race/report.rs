//! Reports: one a faulty place of a kernel, with how often it happened.

use crate::ptx::parse::Module;
use crate::ptx::registers::Program;
use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Uninitialised,
    OutOfBounds,
    Misaligned,
    SharedRace,
    GlobalRace,
    GlobalRaceInBlock,
    BarrierDivergence,
    AbsentLanes,
    EarlyRead,
    EarlyRegister,
    NoFence,
    NoProgress,
    Assertion,
    Trap,
}

impl Kind {
    /// The code of the CUDA error that a launch with this fault ends in; checks that a GPU does not make give
    /// CUDA_ERROR_LAUNCH_FAILED.
    pub fn cuda_error(self) -> u32 {
        match self {
            Kind::OutOfBounds => 700,
            Kind::NoProgress => 702,
            Kind::Assertion => 710,
            Kind::Trap => 715,
            Kind::Misaligned => 716,
            _ => 719,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Uninitialised => "uninitialised",
            Kind::OutOfBounds => "out of bounds",
            Kind::Misaligned => "misaligned",
            Kind::SharedRace => "race in shared memory",
            Kind::GlobalRace => "race between blocks",
            Kind::GlobalRaceInBlock => "race in global memory inside a block",
            Kind::BarrierDivergence => "barrier not reached by all",
            Kind::AbsentLanes => "absent lanes",
            Kind::EarlyRead => "asynchronous copy touched before its wait",
            Kind::EarlyRegister => "register touched while wgmma works on it",
            Kind::NoFence => "missing fence",
            Kind::NoProgress => "no progress",
            Kind::Assertion => "assertion",
            Kind::Trap => "trap",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Report {
    pub kind: Kind,
    pub kernel: String,
    /// `file:line <- file:line ...`, innermost first.
    pub place: String,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    pub address: Option<u64>,
    pub what: String,
    pub count: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(f, "{}: {} in {} at {}", self.kind.name(), self.what, self.kernel, self.place)?;
        write!(f, ", block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})")?;
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        if self.count > 1 { write!(f, " ({} times)", self.count) } else { Ok(()) }
    }
}

/// The reports of one launch, gathered from all threads.
#[derive(Default)]
pub struct Reports(Mutex<HashMap<(Kind, u32), Report>>);

impl Reports {
    /// Counts a fault of `kind` at step `at`; `make` describes the first one.
    pub fn add(&self, kind: Kind, at: u32, make: impl FnOnce() -> Report) {
        let mut reports = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        reports.entry((kind, at)).or_insert_with(make).count += 1;
    }

    /// In the order of the kernel's steps.
    pub fn take(self) -> Vec<Report> {
        let reports = self.0.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut sorted: Vec<_> = reports.into_iter().collect();
        sorted.sort_by_key(|&((kind, at), _)| (at, kind));
        sorted.into_iter().map(|(_, report)| report).collect()
    }
}

/// The source of a step: `attn.cu:17 <- attn.cu:63`, or the PTX line where there is no line information.
pub fn place(module: &Module, program: &Program, step: u32) -> String {
    let Some(step) = program.steps.get(step as usize) else { return "?".into() };
    let Some(source) = step.location.and_then(|index| module.sources.get(index as usize)) else {
        return format!("PTX line {}", step.line);
    };
    let name = |&(file, line): &(u32, u32)| {
        let path = module.files.get(&file).map_or("?", String::as_str);
        format!("{}:{line}", path.rsplit('/').next().unwrap_or(path))
    };
    source.chain.iter().map(name).collect::<Vec<_>>().join(" <- ")
}

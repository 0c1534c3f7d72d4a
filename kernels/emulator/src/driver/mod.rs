//! The C functions of libcuda that a cudarc program calls. All of them share one state behind a lock; work is done when
//! it is asked for, so a stream is always empty and an event always reached; only what a stream records (`graph.rs`) waits. Faults found in a launch are printed, and
//! come back as a CUDA error at the next call that waits for the device, as on a GPU.

mod context;
mod errors;
mod function;
mod graph;
mod image;
mod memory;
mod settings;

pub use errors::Code;
pub use settings::{Faults, Inject, Options};

use crate::device::{Device, Shape};
use crate::module::Loaded;
use crate::race::report::{Kind, Report};
use crate::vm::Counts;
use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

/// Bytes of a copy on the device in an emulated nanosecond: 16 a lane of a warp.
const COPIED: u64 = 512;
/// FLOP of a cuBLASLt product in an emulated nanosecond: those of an mma of m16n8k16.
const MULTIPLIED: u64 = 2 * 16 * 8 * 16;

/// A kernel handed to the program.
pub struct Function {
    pub loaded: Arc<Loaded>,
    pub name: String,
    /// Dynamic shared memory that was opted in to.
    pub dynamic_limit: u32,
}

/// Everything behind the C functions. Handles are numbers from 1, given out as pointers.
pub struct State {
    pub options: Options,
    pub device: Device,
    pub modules: HashMap<usize, Arc<Loaded>>,
    pub functions: Vec<Function>,
    /// Time of each event, in emulated nanoseconds.
    pub events: HashMap<usize, u64>,
    /// Recordings under way, by their stream.
    pub captures: HashMap<usize, graph::Capture>,
    /// Graphs, executable or not.
    pub graphs: HashMap<usize, graph::Graph>,
    /// Pinned host memory by address.
    pub host: HashMap<usize, Vec<u128>>,
    pub next_handle: usize,
    /// The emulated clock in nanoseconds: one a warp-instruction, [`COPIED`] bytes or [`MULTIPLIED`] FLOP of a product.
    pub clock: u64,
    launches: u64,
    /// The error of a fault, returned from every later call that touches the device.
    fault: Option<Code>,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| {
    let options = Options::from_environment();
    let mut device = Device::new(options.settings);
    device.shared_limit = options.shared_limit();
    Mutex::new(State {
        options,
        device,
        modules: HashMap::new(),
        functions: Vec::new(),
        events: HashMap::new(),
        captures: HashMap::new(),
        graphs: HashMap::new(),
        host: HashMap::new(),
        // 1 and 2 are the legacy stream and a thread's own.
        next_handle: 2,
        clock: 0,
        launches: 0,
        fault: None,
    })
});

pub(crate) fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Runs a function on the state and gives its CUresult.
pub(crate) fn call(f: impl FnOnce(&mut State) -> Result<(), Code>) -> Code {
    f(&mut state()).err().unwrap_or(Code::SUCCESS)
}

impl State {
    pub fn handle(&mut self) -> usize {
        self.next_handle += 1;
        self.next_handle
    }

    /// What a call that needs the device returns where a fault has happened or the device is gone.
    pub fn healthy(&self) -> Result<(), Code> {
        if let Some(Inject::Lost { launches }) = self.options.inject
            && self.launches >= launches
        {
            return Err(Code::DEVICE_UNAVAILABLE);
        }
        self.fault.map_or(Ok(()), Err)
    }

    /// The clock moves by the time that copying or filling `bytes` takes.
    pub fn copied(&mut self, bytes: usize) {
        self.clock += (bytes as u64).div_ceil(COPIED);
    }

    /// The clock moves by the time that a product of so many FLOP takes.
    pub fn multiplied(&mut self, flop: u64) {
        self.clock += flop.div_ceil(MULTIPLIED);
    }

    /// Notes a call by which the program gives the device kernels to run.
    pub fn called(&self, what: &str) {
        if let Some(path) = &self.options.calls {
            append(path, &format!("{what}\n"));
        }
    }

    /// Accounts for a finished launch: prints and records its reports.
    pub fn finish(&mut self, kernel: &str, shape: Shape, reports: &[Report], counts: &Counts) {
        self.launches += 1;
        self.clock += counts.instructions;
        if let Some(path) = &self.options.counts {
            let line = format!(
                "{kernel},{},{},{},{},{},{},{},{},{},{},{},{},{}\n",
                counts.instructions,
                counts.mma,
                counts.barriers,
                counts.global_read,
                counts.global_written,
                counts.sectors,
                counts.sectors_least,
                counts.shared_passes,
                counts.shared_passes_least,
                counts.flop,
                shape.grid.iter().map(|&n| u64::from(n)).product::<u64>(),
                shape.block.iter().product::<u32>(),
                shape.dynamic_shared
            );
            append(path, &line);
        }
        reports.iter().for_each(|report| self.report(report.kind, &report.to_string()));
    }

    /// A fault of a launch or of a call.
    pub fn report(&mut self, kind: Kind, text: &str) {
        eprintln!("safedepth-emulator: {text}");
        if let Some(path) = &self.options.report {
            append(path, &format!("{text}\n"));
        }
        match self.options.faults {
            Faults::Report => {}
            Faults::Error => self.fault = self.fault.or(Some(Code(kind.cuda_error()))),
            Faults::Abort => std::process::abort(),
        }
    }
}

fn append(path: &str, text: &str) {
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = written {
        eprintln!("safedepth-emulator: cannot write {path}: {error}");
    }
}

/// Writes a result through a pointer the program gave.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
pub(crate) unsafe fn give<T>(to: *mut T, value: T) -> Result<(), Code> {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { to.write(value) };
    Ok(())
}

//! The device without the C interface: memory, loaded modules, launches. The driver's functions are a shell around it, and
//! tests use it directly.

use crate::memory::Table;
use crate::module::Loaded;
use crate::ptx;
use crate::vm::{Launch, Outcome, Settings};

/// A grid of blocks and what each gets.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
}

/// Why a launch does not begin.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    NoSuchKernel(String),
    /// Blocks or threads that no device accepts, or more shared memory than it has.
    Shape(String),
    Arguments {
        given: usize,
        wanted: usize,
    },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::NoSuchKernel(name) => write!(f, "no kernel `{name}` in the module"),
            Refusal::Shape(what) => write!(f, "{what}"),
            Refusal::Arguments { given, wanted } => write!(f, "{given} arguments for a kernel that takes {wanted}"),
        }
    }
}

pub struct Device {
    pub memory: Table,
    pub settings: Settings,
    /// Bytes of shared memory a block may have.
    pub shared_limit: u32,
    epoch: u16,
}

/// What a block may have on sm_80: 163 KiB.
const SHARED_LIMIT: u32 = 163 * 1024;

impl Device {
    pub fn new(settings: Settings) -> Self {
        Self { memory: Table::default(), settings, shared_limit: SHARED_LIMIT, epoch: 0 }
    }

    pub fn load(&mut self, text: &str) -> ptx::Result<Loaded> {
        Loaded::new(text, &mut self.memory)
    }

    /// The number of the launch in the race shadow of memory, which is cleared when the numbers run out.
    pub fn next_epoch(&mut self) -> u16 {
        if self.epoch == u16::MAX {
            self.memory.live().for_each(|buffer| buffer.clear_shadow());
            self.epoch = 0;
        }
        self.epoch += 1;
        self.epoch
    }

    /// Runs a kernel with arguments given as their bytes.
    pub fn launch(
        &mut self,
        loaded: &Loaded,
        kernel: &str,
        shape: Shape,
        arguments: &[&[u8]],
    ) -> Result<Outcome, Refusal> {
        let program = loaded.programs.get(kernel).ok_or_else(|| Refusal::NoSuchKernel(kernel.into()))?;
        let threads: u64 = shape.block.iter().map(|&n| u64::from(n)).product();
        let most = if program.max_threads > 0 { program.max_threads.into() } else { 1024 };
        if threads == 0 || threads > most {
            return Err(Refusal::Shape(format!("{threads} threads in a block of {kernel}, which takes 1 to {most}")));
        }
        if shape.grid.contains(&0) || shape.grid[1] > 65535 || shape.grid[2] > 65535 || shape.grid[0] > i32::MAX as u32
        {
            return Err(Refusal::Shape(format!("a grid of {:?} blocks", shape.grid)));
        }
        let shared = program.shared_bytes + shape.dynamic_shared;
        if shared > self.shared_limit {
            return Err(Refusal::Shape(format!("{shared} bytes of shared memory, more than {}", self.shared_limit)));
        }
        if arguments.len() != program.parameters.len() {
            return Err(Refusal::Arguments { given: arguments.len(), wanted: program.parameters.len() });
        }
        let mut parameters = vec![0; program.parameter_bytes as usize];
        for (&(offset, size), argument) in program.parameters.iter().zip(arguments) {
            parameters[offset as usize..(offset + size) as usize].copy_from_slice(&argument[..size as usize]);
        }
        let epoch = self.next_epoch();
        let mut launch = Launch::new(&loaded.module, program, &self.memory, &parameters, epoch);
        (launch.grid, launch.block, launch.dynamic_shared) = (shape.grid, shape.block, shape.dynamic_shared);
        Ok(launch.run(&self.settings))
    }
}

//! What each kernel did on the emulator, beside its own model and what an H100 has room for.

use super::kernel_models::Model;
use super::shapes::Shapes;
use super::timer::{Case, H100_BYTES, H100_F32, H100_TENSOR};
use crate::device::cuda::PTXAS;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;

/// Where the emulator lists what each launch did.
const LIST: &str = "SAFEDEPTH_EMULATOR_COUNTS";
/// FLOP of an mma of m16n8k16.
const MMA: f64 = 4096.0;

/// The sizes that a kernel's model needs.
pub(super) struct Dimensions<'a> {
    pub shapes: &'a Shapes,
    pub tokens: usize,
    /// Bytes of an element between residual streams.
    pub branch: usize,
    /// Bytes of a weight.
    pub weights: usize,
}

/// The numbers of a line of the emulator's list, in its order.
#[derive(Clone, Copy, Default)]
struct Launch {
    instructions: f64,
    mma: f64,
    bytes: f64,
    excess_sectors: f64,
    bank_conflicts: f64,
    flop: f64,
    threads: u32,
    dynamic_shared: u32,
}

impl Launch {
    fn parse(line: &str) -> Option<(&str, Self)> {
        let (kernel, numbers) = line.split_once(',')?;
        let numbers: Vec<f64> = numbers.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [instructions, mma, _, read, written, sectors, least, passes, fewest, flop, _, threads, shared] =
            numbers[..]
        else {
            return None;
        };
        let launch = Self {
            instructions,
            mma,
            bytes: read + written,
            excess_sectors: sectors - least,
            bank_conflicts: passes - fewest,
            flop: flop + MMA * mma,
            threads: threads as u32,
            dynamic_shared: shared as u32,
        };
        Some((kernel, launch))
    }

    /// Another launch of the same kernel.
    fn add(&mut self, other: &Self) {
        self.instructions += other.instructions;
        self.mma += other.mma;
        self.bytes += other.bytes;
        self.excess_sectors += other.excess_sectors;
        self.bank_conflicts += other.bank_conflicts;
        self.flop += other.flop;
    }
}

/// Registers of a thread and bytes of static shared memory.
#[derive(Clone, Copy)]
struct Needs {
    registers: u32,
    shared: u32,
}

/// Share of an sm_90's 64 warps that blocks of a kernel fill: it has 65,536 registers, given to warps in units of 256, 228 KiB
/// of shared memory, of which a block takes 1 KiB for the system, and room for 32 blocks.
fn occupancy(needs: Needs, launch: &Launch) -> f64 {
    let warps = launch.threads.div_ceil(32);
    let of_warp = (needs.registers * 32).next_multiple_of(256);
    let by_registers = 65_536 / (of_warp * warps).max(1);
    let by_shared = (228 << 10) / (needs.shared + launch.dynamic_shared + 1024);
    let blocks = (64 / warps).min(by_registers).min(by_shared).min(32);
    f64::from(blocks * warps) / 64.0
}

/// Reads the emulator's list as it grows.
pub(super) struct Counter {
    path: PathBuf,
    read: usize,
    needs: HashMap<&'static str, Needs>,
}

impl Counter {
    pub const HEADER: &str = "op,model,shape,kernel,launches,warp_instructions,flop,model_flop,bytes,model_bytes,\
                              excess_sectors,bank_conflicts,registers,shared_bytes,occupancy,limit,predicted_us";

    /// # Errors
    /// Where there is no emulator, or it was not asked for its list.
    pub fn open() -> Result<Self> {
        let path = std::env::var_os(LIST).map(PathBuf::from).ok_or_else(|| {
            Error::Usage(format!(
                "--counts reads what the emulator lists: {LIST}=FILE safedepth-emulator run safedepth bench kernels --counts --device cuda"
            ))
        })?;
        let fields = PTXAS.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let needs = fields
            .filter(|fields| fields.get(1) == Some(&"sm_90a"))
            .filter_map(|fields| {
                let number = |at: usize| fields.get(at)?.parse().ok();
                Some((fields[0], Needs { registers: number(2)?, shared: number(3)? }))
            })
            .collect();
        Ok(Self { path, read: 0, needs })
    }

    /// The launches listed since the last call.
    fn new_lines(&mut self) -> Result<String> {
        let text = match std::fs::read_to_string(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.map_err(Error::io("read", &self.path))?,
        };
        let new = text[self.read..].to_owned();
        self.read = text.len();
        Ok(new)
    }

    /// Leaves out what was launched so far.
    pub fn skip(&mut self) -> Result<()> {
        self.new_lines().map(drop)
    }

    /// A line of the table for each kernel that was launched since.
    pub fn lines(&mut self, case: &Case<'_>, sizes: &Dimensions<'_>) -> Result<String> {
        let new = self.new_lines()?;
        let mut kernels: Vec<(&str, usize, Launch)> = Vec::new();
        for line in new.lines() {
            let (name, launch) = Launch::parse(line).ok_or_else(|| {
                Error::input(self.path.display(), format!("is no list of this emulator's launches: \"{line}\""))
            })?;
            match kernels.iter_mut().find(|(kernel, ..)| *kernel == name) {
                Some((_, count, sum)) => {
                    *count += 1;
                    sum.add(&launch);
                }
                None => kernels.push((name, 1, launch)),
            }
        }
        Ok(kernels.iter().map(|(name, count, sum)| self.line(case, sizes, name, *count, sum)).collect())
    }

    fn line(&self, case: &Case<'_>, sizes: &Dimensions<'_>, kernel: &str, count: usize, sum: &Launch) -> String {
        let model = Model::of(kernel, case.op, sizes);
        let needs = self.needs.get(kernel);
        let or_nothing = |number: Option<f64>| number.map_or_else(String::new, |number| format!("{number:.0}"));
        let (limit, predicted) = model.map_or_else(Default::default, |model| {
            let (units, peak) = if sum.mma > 0.0 { ("tensor", H100_TENSOR) } else { ("f32", H100_F32) };
            let (compute, memory) = (model.flop / peak, model.moved / H100_BYTES);
            let limit = if compute > memory { units } else { "memory" };
            (limit, format!("{:.3}", 1e6 * compute.max(memory)))
        });
        format!(
            "{},{},{},{kernel},{count},{},{},{},{},{},{},{},{},{},{},{limit},{predicted}\n",
            case.op,
            case.shapes.name,
            case.shape,
            sum.instructions,
            sum.flop,
            or_nothing(model.map(|model| model.flop)),
            sum.bytes,
            or_nothing(model.map(|model| model.asked)),
            sum.excess_sectors,
            sum.bank_conflicts,
            or_nothing(needs.map(|needs| f64::from(needs.registers))),
            or_nothing(needs.map(|needs| f64::from(needs.shared + sum.dynamic_shared))),
            needs.map_or_else(String::new, |&needs| format!("{:.2}", occupancy(needs, sum))),
        )
    }
}

//! One line of the table: an operation's median time, or what is counted or predicted of it.

use super::Arguments;
use super::counts::{Counter, Dimensions};
use super::peaks::Peaks;
use super::shapes::Shapes;
use crate::Result;
use crate::cli::bench::median;
use crate::device::DType;
use crate::ops::Ops;

/// Seconds of runs that are timed together on a GPU: the events' own resolution is half a microsecond.
const SAMPLE: f64 = 1e-3;
/// Sets of operands at most.
const MOST_SETS: usize = 64;

/// What an H100 SXM does a second at most (NVIDIA's data sheet): dense bf16 on tensor cores, f32, bytes of memory.
pub(super) const H100_TENSOR: f64 = 989.5e12;
pub(super) const H100_F32: f64 = 67e12;
pub(super) const H100_BYTES: f64 = 3.35e12;

pub(super) enum Mode {
    Time(Peaks),
    Count(Counter),
    Predict,
}

/// An operation at a shape; `flop` and `bytes` are those of one run, by the op's formula.
pub(super) struct Case<'a> {
    pub op: &'a str,
    pub shapes: &'a Shapes,
    pub shape: String,
    pub flop: f64,
    pub bytes: f64,
}

pub(super) struct Timer<'a, D> {
    pub device: &'a D,
    pub dtype: DType,
    /// Rows of a batch.
    pub tokens: usize,
    arguments: &'a Arguments,
    mode: Mode,
    text: String,
}

impl<'a, D: Ops> Timer<'a, D> {
    pub fn new(device: &'a D, arguments: &'a Arguments, dtype: DType, mode: Mode) -> Self {
        let header = match mode {
            Mode::Time(_) => {
                "op,model,shape,dtype,isa,threads,median_ms,gflop_per_s,gb_per_s,share_of_gemm_peak,share_of_copy_peak"
            }
            Mode::Count(_) => Counter::HEADER,
            Mode::Predict => "op,model,shape,dtype,flop,bytes,limit,predicted_ms",
        };
        Self { device, dtype, tokens: arguments.tokens, arguments, mode, text: format!("{header}\n") }
    }

    /// The dtype of what lies between residual streams; a prediction is of a GPU.
    pub fn branch(&self, shapes: &Shapes) -> DType {
        match self.mode {
            Mode::Predict if self.dtype == DType::BF16 && shapes.head_dim.is_multiple_of(8) => DType::BF16,
            Mode::Predict => DType::F32,
            _ => self.device.branch_dtype(self.dtype, shapes.head_dim),
        }
    }

    pub fn finish(self) -> String {
        self.text
    }

    /// A line for `work` on operands that `make` gives, from a seed.
    pub fn time<S>(
        &mut self,
        case: Case<'_>,
        mut make: impl FnMut(u64) -> Result<S>,
        mut work: impl FnMut(&mut S) -> Result<()>,
    ) -> Result<()> {
        if self.arguments.filter.as_ref().is_some_and(|filter| !case.op.contains(filter.as_str())) {
            return Ok(());
        }
        let branch = self.branch(case.shapes);
        match &mut self.mode {
            Mode::Predict => self.predict(&case),
            Mode::Count(counter) => {
                let mut operands = make(1)?;
                self.device.synchronize()?;
                counter.skip()?;
                work(&mut operands)?;
                self.device.synchronize()?;
                let sizes = Dimensions {
                    shapes: case.shapes,
                    tokens: self.arguments.tokens,
                    branch: branch.size(),
                    weights: self.dtype.size(),
                };
                self.text += &counter.lines(&case, &sizes)?;
            }
            Mode::Time(_) => {
                let seconds = self.seconds(&case, make, work)?;
                self.line(&case, seconds);
            }
        }
        Ok(())
    }

    /// Median seconds of one run. Where the device says how large its cache is, runs take turns over so many sets of
    /// operands that the cache holds none of them when its turn comes.
    fn seconds<S>(
        &self,
        case: &Case<'_>,
        mut make: impl FnMut(u64) -> Result<S>,
        mut work: impl FnMut(&mut S) -> Result<()>,
    ) -> Result<f64> {
        let sets = self
            .device
            .shared_cache()
            .map_or(1, |bytes| ((2.0 * bytes as f64 / case.bytes) as usize + 1).min(MOST_SETS));
        // No more than there are runs.
        let sets = self.arguments.runs.map_or(sets, |runs| sets.min(runs * self.arguments.repeats));
        let mut operands = (0..sets as u64).map(|set| make(8 * set)).collect::<Result<Vec<S>>>()?;
        let mut turn = 0;
        let mut sample = |runs: usize| {
            self.device.time(|| {
                for _ in 0..runs {
                    work(&mut operands[turn % sets])?;
                    turn += 1;
                }
                Ok(())
            })
        };
        let warm = sample(sets)? / sets as f64;
        let runs = self.arguments.runs.unwrap_or_else(|| match self.device.shared_cache() {
            Some(_) => ((SAMPLE / warm) as usize).clamp(1, 1000),
            None => 1,
        });
        let times = (0..self.arguments.repeats).map(|_| Ok(sample(runs)? / runs as f64)).collect::<Result<Vec<_>>>()?;
        Ok(median(times))
    }

    fn line(&mut self, case: &Case<'_>, seconds: f64) {
        let Mode::Time(peaks) = &self.mode else { return };
        let (gflop, gb) = (case.flop / seconds / 1e9, case.bytes / seconds / 1e9);
        self.text += &format!(
            "{},{},{},{},{},{},{:.5},{gflop:.2},{gb:.2},{:.3},{:.3}\n",
            case.op,
            case.shapes.name,
            case.shape,
            self.dtype.name().to_lowercase(),
            self.device.arithmetic(),
            rayon::current_num_threads(),
            1e3 * seconds,
            gflop / peaks.gflop_per_s,
            gb / peaks.gb_per_s,
        );
    }

    fn predict(&mut self, case: &Case<'_>) {
        let (units, peak) = if self.dtype == DType::BF16 { ("tensor", H100_TENSOR) } else { ("f32", H100_F32) };
        let (compute, memory) = (case.flop / peak, case.bytes / H100_BYTES);
        self.text += &format!(
            "{},{},{},{},{:.4e},{:.4e},{},{:.5}\n",
            case.op,
            case.shapes.name,
            case.shape,
            self.dtype.name().to_lowercase(),
            case.flop,
            case.bytes,
            if compute > memory { units } else { "memory" },
            1e3 * compute.max(memory),
        );
    }
}

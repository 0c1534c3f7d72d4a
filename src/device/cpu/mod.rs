//! The CPU backend: host memory from a pool, rayon threads, an instruction set chosen at run time.

pub mod gemm;
mod isa;
mod memory;
pub mod parallel;
pub mod scratch;
pub mod simd;
pub mod tanh;

pub use isa::Isa;
pub use memory::{Buffer, View};

use super::{Backend, DType, MappedSlice};
use crate::Result;
use memory::Pool;
use std::sync::Arc;

/// The CPU as a device. Cheap to clone; clones share one memory pool. Work runs on the rayon pool of the calling thread.
#[derive(Clone)]
pub struct Cpu {
    isa: Isa,
    pool: Arc<Pool>,
}

impl Cpu {
    /// A CPU device that uses the best instruction set this machine has.
    pub fn new() -> Self {
        Self::with_isa(Isa::detect())
    }

    /// A CPU device pinned to `isa`; the caller has checked [`Isa::is_available`].
    pub fn with_isa(isa: Isa) -> Self {
        assert!(isa.is_available(), "instruction set {isa} is not available on this CPU");
        Self { isa, pool: Arc::default() }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of buffers in use at once, at most, so far; mapped files do not count.
    pub fn peak_memory(&self) -> usize {
        self.pool.peak()
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for Cpu {
    type Buffer = Buffer;
    type Indices = Vec<u32>;
    type Replay<T: Send> = Option<T>;
    const NAME: &str = "cpu";

    fn describe(&self) -> String {
        format!("cpu ({}, {} threads)", self.isa, rayon::current_num_threads())
    }

    fn arithmetic(&self) -> String {
        self.isa.to_string()
    }

    fn free_memory(&self) -> Option<usize> {
        None
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let start = std::time::Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn replay<'r, T: Send>(
        &self,
        replay: &'r mut Option<T>,
        _key: [usize; 2],
        mut step: impl FnMut() -> Result<T>,
    ) -> Result<&'r mut T> {
        Ok(replay.insert(step()?))
    }

    fn shared_cache(&self) -> Option<usize> {
        None
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Ok(self.pool.alloc(dtype, len))
    }

    fn map(&self, slice: MappedSlice) -> Result<Buffer> {
        Ok(Buffer::map(slice, &self.pool))
    }

    fn upload(&self, dtype: DType, values: &[f32]) -> Result<Buffer> {
        let mut buffer = self.pool.alloc(dtype, values.len());
        buffer.write(values);
        Ok(buffer)
    }

    fn write(&self, buffer: &mut Buffer, values: &[f32]) -> Result<()> {
        buffer.write(values);
        Ok(())
    }

    fn download(&self, buffer: &Buffer, values: &mut [f32]) -> Result<()> {
        buffer.view().widen(values);
        Ok(())
    }

    fn indices(&self, values: &[u32]) -> Result<Vec<u32>> {
        Ok(values.to_vec())
    }

    fn write_indices(&self, target: &mut Vec<u32>, values: &[u32]) -> Result<()> {
        target.clear();
        target.extend_from_slice(values);
        Ok(())
    }

    fn fill(&self, buffer: &mut Buffer, value: f32) -> Result<()> {
        buffer.fill(value);
        Ok(())
    }

    fn copy(&self, source: &Buffer, target: &mut Buffer) -> Result<()> {
        target.copy_from(source.view());
        Ok(())
    }

    fn dtype(buffer: &Buffer) -> DType {
        buffer.dtype()
    }
}

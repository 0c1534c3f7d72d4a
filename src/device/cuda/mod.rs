//! The CUDA backend: one GPU through the driver's own library, kernels that build.rs compiled, one stream.
//!
//! Every operation is started in the stream's order and returns at once; what a kernel got wrong shows at the next
//! download. Nothing here needs CUDA at build time, and a program with kernels runs on a machine without a driver.

pub mod blas;
mod failure;
mod graph;
mod launch;
mod memory;
mod modules;
pub mod nvtx;
mod open;
mod staging;
mod stopwatch;

pub use graph::Replay;
pub use launch::{Argument, Passed, Shape, narrow};
pub use memory::{Buffer, Indices};
pub use modules::{PTXAS, has_kernels};

use super::{Backend, DType, MappedSlice};
use crate::{Result, args};
use blas::Blas;
use cudarc::driver::{CudaContext, CudaStream, result, sys};
use failure::{at, device_error};
use graph::Graphs;
use memory::Pool;
use modules::Modules;
use staging::Staging;
use std::sync::{Arc, Mutex};

/// Threads a block of the kernels that treat every element alike.
pub const THREADS: usize = 256;

/// A GPU as a device. Cheap to clone; clones share one stream, one memory pool and the loaded kernels.
#[derive(Clone)]
pub struct Cuda {
    shared: Arc<Shared>,
}

/// Fields are dropped in this order, after [`Shared::drop`] has given modules and memory back.
struct Shared {
    modules: Modules,
    pool: Pool,
    staging: Mutex<Staging>,
    graphs: Graphs,
    blas: Blas,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    /// Compute capability: 90 for sm_90.
    architecture: u32,
    multiprocessors: usize,
    /// "GPU 0 (NVIDIA H100 80GB HBM3, sm_90)".
    title: String,
    /// CUDA version that the driver supports, as 13000.
    driver: i32,
}

impl Cuda {
    fn title(&self) -> &str {
        &self.shared.title
    }

    /// Makes the device's context that of the calling thread.
    fn bind(&self) -> Result<()> {
        self.shared.context.bind_to_thread().map_err(|error| device_error(self, at("be used"), error))
    }

    fn stream(&self) -> sys::CUstream {
        self.shared.stream.cu_stream()
    }

    /// How many blocks run at once at least, one a multiprocessor.
    pub fn multiprocessors(&self) -> usize {
        self.shared.multiprocessors
    }

    /// Whether it runs `kernels/*_sm90.cu`: wgmma is of compute capability 9.0 alone.
    pub fn has_wgmma(&self) -> bool {
        self.shared.architecture == 90
    }

    /// Free bytes and all bytes of the device's memory; what the pool keeps counts as used.
    pub fn memory_info(&self) -> (usize, usize) {
        self.bind().ok().and_then(|()| result::mem_get_info().ok()).unwrap_or_default()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            self.pool.clear();
            self.modules.unload();
        }
    }
}

/// One of three names, by the element type they are for.
pub fn by_dtype(dtype: DType, [f32, bf16, f16]: [&'static str; 3]) -> &'static str {
    match dtype {
        DType::F32 => f32,
        DType::BF16 => bf16,
        DType::F16 => f16,
    }
}

/// One of two names, by the element type of the activations they are for.
///
/// # Panics
/// If it is f16: activations may be too large for it.
pub fn by_activation(dtype: DType, [f32, bf16]: [&'static str; 2]) -> &'static str {
    match dtype {
        DType::F32 => f32,
        DType::BF16 => bf16,
        DType::F16 => panic!("activations are f32 or bf16"),
    }
}

impl Backend for Cuda {
    type Buffer = Buffer;
    type Indices = Indices;
    type Replay<T: Send> = Replay<T>;
    const NAME: &str = "cuda";

    fn describe(&self) -> String {
        let (major, minor) = (self.shared.driver / 1000, self.shared.driver % 1000 / 10);
        format!("{}, driver for CUDA {major}.{minor}", self.shared.title)
    }

    fn arithmetic(&self) -> String {
        format!("sm_{}", self.shared.architecture)
    }

    fn free_memory(&self) -> Option<usize> {
        let kept = self.shared.pool.bytes();
        Some(self.memory_info().0 + kept)
    }

    fn synchronize(&self) -> Result<()> {
        self.bind()?;
        let turn = self.shared.turn();
        if turn.is_some() {
            return Err(graph::unrecordable("waits for the device"));
        }
        // SAFETY: the stream lives as long as the device.
        unsafe { result::stream::synchronize(self.stream()) }
            .map_err(|error| device_error(self, at("finish its work"), error))
    }

    fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        self.between_events(work)
    }

    fn replay<'r, T: Send>(
        &self,
        replay: &'r mut Replay<T>,
        key: [usize; 2],
        step: impl FnMut() -> Result<T>,
    ) -> Result<&'r mut T> {
        self.replayed(replay, key, step)
    }

    fn shared_cache(&self) -> Option<usize> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
        self.shared.context.attribute(attribute).ok().and_then(|bytes| usize::try_from(bytes).ok())
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Buffer::new(self, dtype, len)
    }

    fn map(&self, slice: MappedSlice) -> Result<Buffer> {
        let buffer = Buffer::new(self, slice.dtype, slice.len)?;
        let mut staging = self.shared.staging.lock().expect("no thread panics with the staging in hand");
        staging.send(self, slice.bytes(), &buffer.memory)?;
        drop(staging);
        Ok(buffer)
    }

    fn upload(&self, dtype: DType, values: &[f32]) -> Result<Buffer> {
        let mut buffer = Buffer::new(self, dtype, values.len())?;
        self.write(&mut buffer, values)?;
        Ok(buffer)
    }

    fn write(&self, buffer: &mut Buffer, values: &[f32]) -> Result<()> {
        assert_eq!(buffer.len(), values.len(), "as many values as elements");
        if buffer.dtype() == DType::F32 {
            return buffer.memory.write(values);
        }
        let mut wide = Buffer::new(self, DType::F32, values.len())?;
        wide.memory.write(values)?;
        self.copy(&wide, buffer)
    }

    fn download(&self, buffer: &Buffer, values: &mut [f32]) -> Result<()> {
        assert_eq!(buffer.len(), values.len(), "as many values as elements");
        if buffer.dtype() == DType::F32 {
            return buffer.memory.read(values);
        }
        let mut wide = Buffer::new(self, DType::F32, values.len())?;
        self.copy(buffer, &mut wide)?;
        wide.memory.read(values)
    }

    /// f16 becomes bf16: activations may be too large for f16, and its tensor cores take two factors of one dtype.
    fn held_dtype(&self, stored: DType) -> DType {
        if stored == DType::F16 { DType::BF16 } else { stored }
    }

    fn indices(&self, values: &[u32]) -> Result<Indices> {
        Indices::new(self, values)
    }

    fn write_indices(&self, target: &mut Indices, values: &[u32]) -> Result<()> {
        target.replace(values)
    }

    fn fill(&self, buffer: &mut Buffer, value: f32) -> Result<()> {
        if value.to_bits() == 0 {
            let bytes = buffer.bytes();
            return buffer.memory.zero(bytes);
        }
        let kernel = by_dtype(buffer.dtype(), ["fill_f32", "fill_bf16", "fill_f16"]);
        self.launch(kernel, Shape::covering(buffer.len(), THREADS), args![buffer, buffer.len() as u64, value])
    }

    fn copy(&self, source: &Buffer, target: &mut Buffer) -> Result<()> {
        assert_eq!(source.len(), target.len(), "as many values as elements");
        let kernel = match (source.dtype(), target.dtype()) {
            (from, to) if from == to => return target.memory.copy(&source.memory, source.bytes()),
            (DType::F32, DType::BF16) => "convert_f32_bf16",
            (DType::F32, DType::F16) => "convert_f32_f16",
            (DType::BF16, DType::F32) => "convert_bf16_f32",
            (DType::BF16, _) => "convert_bf16_f16",
            (DType::F16, DType::F32) => "convert_f16_f32",
            (DType::F16, _) => "convert_f16_bf16",
            (DType::F32, DType::F32) => unreachable!("equal types are copied above"),
        };
        self.launch(kernel, Shape::covering(source.len(), THREADS), args![source, target, source.len() as u64])
    }

    fn dtype(buffer: &Buffer) -> DType {
        buffer.dtype()
    }
}

impl Cuda {
    /// Copies the first `bytes` of a buffer to the start of another, whatever their types.
    pub fn copy_front(&self, source: &Buffer, target: &mut Buffer, bytes: usize) -> Result<()> {
        target.memory.copy(&source.memory, bytes)
    }

    /// Bytes for a kernel's own use, unspecified.
    pub fn workspace(&self, bytes: usize) -> Result<Buffer> {
        Buffer::new(self, DType::F32, bytes.div_ceil(size_of::<f32>()))
    }

    /// Copies raw words to the host.
    pub fn read_bytes<T: bytemuck::Pod>(&self, buffer: &Buffer, target: &mut [T]) -> Result<()> {
        buffer.memory.read(target)
    }
}

//! Where tensors live and who computes on them: the [`Backend`] trait, [`DType`], [`Tensor`], and the backends [`cpu`] and [`cuda`].

pub mod cpu;
pub mod cuda;
mod mapped;
mod tensor;

pub use cpu::Cpu;
pub use cuda::Cuda;
pub use mapped::MappedSlice;
pub use tensor::Tensor;

use crate::Result;

/// Element type of a buffer, chosen at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    BF16,
    F16,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }

    /// Name as safetensors headers spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::BF16 => "BF16",
            Self::F16 => "F16",
        }
    }
}

/// Memory of one device. Operations on it are the traits of [`crate::ops`].
///
/// A handle is cheap to clone; clones share the same allocator.
pub trait Backend: Clone + Send + Sync + 'static {
    /// A flat array of one [`DType`] in device memory; freed (back to the device's pool) on drop.
    type Buffer: Send + Sync;
    /// A flat array of `u32` in device memory: token ids, labels, positions, row numbers.
    type Indices: Send + Sync;

    /// What [`Backend::replay`] keeps from one step to the next.
    type Replay<T: Send>: Default + Send;

    /// What `--device` calls it.
    const NAME: &str;

    /// One line for people and manifests: the hardware and the instruction set or driver in use.
    fn describe(&self) -> String;

    /// Equal names give equal bytes: the instruction set.
    fn arithmetic(&self) -> String;

    /// Bytes that could still be allocated; `None` where the system decides, as on a CPU.
    fn free_memory(&self) -> Option<usize>;

    /// Waits until everything asked for is done; a failure on the way is an error here.
    fn synchronize(&self) -> Result<()>;

    /// Seconds that the device takes for what `work` starts, by its own clock where it has one.
    fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64>;

    /// Runs `step`, or does again what it started on the device when it last ran with this `key`; gives what it returned.
    ///
    /// With one key `step` must start the same operations on the same buffers. What differs from step to step is in those
    /// buffers, written before; `step` itself writes none that are older than it and reads none.
    fn replay<'r, T: Send>(
        &self,
        replay: &'r mut Self::Replay<T>,
        key: [usize; 2],
        step: impl FnMut() -> Result<T>,
    ) -> Result<&'r mut T>;

    /// Bytes of the cache that a timing must get past; `None` where operands may well be found in caches, as on a CPU.
    fn shared_cache(&self) -> Option<usize>;

    /// A buffer of `len` elements whose contents are unspecified.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Self::Buffer>;

    /// What matrices that a file stores in `stored` are held in, unless somebody asks for another dtype.
    fn held_dtype(&self, stored: DType) -> DType {
        stored
    }

    /// A read-only buffer over bytes of a mapped file. A misaligned slice is copied.
    fn map(&self, slice: MappedSlice) -> Result<Self::Buffer>;

    /// Converts `values` to `dtype` (round to nearest even) into a new buffer.
    fn upload(&self, dtype: DType, values: &[f32]) -> Result<Self::Buffer>;

    /// Overwrites a buffer with `values` (same length), converting to the buffer's dtype.
    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]) -> Result<()>;

    /// The whole buffer, widened to f32, into `values` (same length).
    fn download(&self, buffer: &Self::Buffer, values: &mut [f32]) -> Result<()>;

    /// A new index buffer.
    fn indices(&self, values: &[u32]) -> Result<Self::Indices>;

    /// Overwrites an index buffer with `values`, whose number may differ; its memory is reused where it suffices.
    fn write_indices(&self, target: &mut Self::Indices, values: &[u32]) -> Result<()>;

    /// Sets every element to `value`.
    fn fill(&self, buffer: &mut Self::Buffer, value: f32) -> Result<()>;

    /// Copies a whole buffer into another of the same length, converting between dtypes (round to nearest even).
    fn copy(&self, source: &Self::Buffer, target: &mut Self::Buffer) -> Result<()>;

    /// Element type of a buffer.
    fn dtype(buffer: &Self::Buffer) -> DType;
}

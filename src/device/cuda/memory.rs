//! Device memory: a pool that keeps what is freed, buffers of one dtype, and index buffers.

use super::Cuda;
use super::failure::{Task, at, device_error};
use super::graph::{Arena, Recording, unrecordable};
use crate::Result;
use crate::device::{Backend, DType};
use cudarc::driver::{result, sys};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Freed blocks by size. One stream does all work in order, so a block may be handed out again at once.
///
/// Sizes are rounded up to a quarter of their power of two, and a freed block serves requests down to half its size,
/// because ragged batches ask for a new size every step. Where the device is full, all kept blocks go back first.
pub(super) struct Pool {
    kept: Mutex<BTreeMap<usize, Vec<u64>>>,
    /// With `SAFEDEPTH_CUDA_POOL=0` each block is new and exactly as long as asked for, so that tools that watch memory
    /// (the emulator, compute-sanitizer) see reads of what was never written and accesses past the end.
    keeps: bool,
}

impl Default for Pool {
    fn default() -> Self {
        let keeps = std::env::var_os("SAFEDEPTH_CUDA_POOL").is_none_or(|value| value != "0");
        Self { kept: Mutex::default(), keeps }
    }
}

/// `bytes` rounded up to a quarter of their power of two, at least 512: cuBLASLt wants 256-byte alignment, which the
/// driver gives every block.
fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of((bytes.next_power_of_two() / 8).max(512))
}

impl Pool {
    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Vec<u64>>> {
        self.kept.lock().expect("no thread panics with the pool in hand")
    }

    fn take(&self, wanted: usize) -> Option<(u64, usize)> {
        take(&mut self.kept(), wanted)
    }

    /// Bytes to allocate for a block of so many.
    fn wanted(&self, bytes: usize) -> usize {
        if self.keeps { rounded(bytes) } else { bytes }
    }

    /// Keeps a block for later, or frees it.
    pub fn give_back(&self, device: &Cuda, address: u64, bytes: usize) {
        if self.keeps {
            self.kept().entry(bytes).or_default().push(address);
        } else if device.bind().is_ok() {
            free(address);
        }
    }

    /// Bytes of the kept blocks.
    pub fn bytes(&self) -> usize {
        self.kept().iter().map(|(bytes, blocks)| bytes * blocks.len()).sum()
    }

    /// Gives every kept block back to the driver. The context is current.
    pub fn clear(&self) {
        for address in std::mem::take(&mut *self.kept()).into_values().flatten() {
            free(address);
        }
    }
}

/// A block of at least `wanted` bytes and at most twice as many.
fn take(blocks: &mut BTreeMap<usize, Vec<u64>>, wanted: usize) -> Option<(u64, usize)> {
    blocks.range_mut(wanted..=2 * wanted).find_map(|(&bytes, blocks)| Some((blocks.pop()?, bytes)))
}

fn free(address: u64) {
    // SAFETY: the block came from `malloc_sync` and no one holds it; the driver waits for work that uses it. Where the
    // device is lost, so is its memory, and there is no one to tell.
    let _ = unsafe { result::free_sync(address) };
}

/// A block of device memory that goes back to where it came from.
pub(super) struct Memory {
    address: u64,
    bytes: usize,
    device: Cuda,
    /// Of the graph that was recorded when it was taken; else it is the pool's.
    arena: Option<Arc<Arena>>,
}

impl Memory {
    pub fn new(device: &Cuda, bytes: usize) -> Result<Self> {
        let device = device.clone();
        if bytes == 0 {
            return Ok(Self { address: 0, bytes, device, arena: None });
        }
        let wanted = device.shared.pool.wanted(bytes);
        let mut turn = device.shared.turn();
        let Some(recording) = &mut *turn else {
            drop(turn);
            let (address, bytes) = Self::take(&device, wanted)?;
            return Ok(Self { address, bytes, device, arena: None });
        };
        let found = if device.shared.pool.keeps { take(&mut recording.free, wanted) } else { None };
        let (address, bytes) = match found {
            Some(block) => block,
            None => Self::take_for(&device, recording, wanted)?,
        };
        let arena = Some(recording.arena.clone());
        drop(turn);
        Ok(Self { address, bytes, device, arena })
    }

    /// A block of the pool, or a new one.
    fn take(device: &Cuda, wanted: usize) -> Result<(u64, usize)> {
        let pool = &device.shared.pool;
        if let Some(block) = pool.take(wanted) {
            return Ok(block);
        }
        device.bind()?;
        // SAFETY: the context is current; the block is freed once, by the pool.
        let allocate = || unsafe { result::malloc_sync(wanted) };
        let allocated = match allocate() {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                pool.clear();
                allocate()
            }
            other => other,
        };
        let address = allocated.map_err(|error| device_error(device, Task::Hold(wanted), error))?;
        Ok((address, wanted))
    }

    /// The same for a recording's arena.
    fn take_for(device: &Cuda, recording: &Recording, wanted: usize) -> Result<(u64, usize)> {
        let (address, bytes) = Self::take(device, wanted)?;
        recording.arena.add(address, bytes);
        Ok((address, bytes))
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    /// Copies `source` to the start of the block, in the stream's order; the source may change as soon as this returns.
    pub fn write<T: bytemuck::Pod>(&mut self, source: &[T]) -> Result<()> {
        assert!(size_of_val(source) <= self.bytes, "the block holds what is written");
        if source.is_empty() {
            return Ok(());
        }
        self.device.bind()?;
        let mut turn = self.device.shared.turn();
        if let Some(recording) = &mut *turn {
            // What is written now lies in a block that nothing else ever uses, and is copied from there at each replay.
            if self.arena.is_none() {
                return Err(unrecordable("uploads into memory that is older than it"));
            }
            let bytes = size_of_val(source);
            let (kept, _) = Self::take_for(&self.device, recording, self.device.shared.pool.wanted(bytes))?;
            self.device.upload_aside(kept, source)?;
            recording.given.extend([kept, self.address]);
            // SAFETY: both blocks are that long and of one device.
            return unsafe { result::memcpy_dtod_async(self.address, kept, bytes, self.device.stream()) }
                .map_err(|error| device_error(&self.device, at("copy on the device"), error));
        }
        // SAFETY: the block is that long; from pageable memory the driver has copied the source when it returns.
        unsafe { result::memcpy_htod_async(self.address, source, self.device.stream()) }
            .map_err(|error| device_error(&self.device, at("copy to the device"), error))
    }

    /// Copies the start of the block to `target`, and waits for it: the place where earlier kernels' failures show.
    pub fn read<T: bytemuck::Pod>(&self, target: &mut [T]) -> Result<()> {
        assert!(size_of_val(target) <= self.bytes, "the block holds what is read");
        if target.is_empty() {
            return Ok(());
        }
        self.device.bind()?;
        let turn = self.device.shared.turn();
        if turn.is_some() {
            return Err(unrecordable("reads results"));
        }
        // SAFETY: the block is that long, and the target is waited for below, before its borrow ends.
        unsafe { result::memcpy_dtoh_async(target, self.address, self.device.stream()) }
            .map_err(|error| device_error(&self.device, at("copy from the device"), error))?;
        drop(turn);
        self.device.synchronize()
    }

    /// Copies the first `bytes` of `source` to the start of this block.
    pub fn copy(&mut self, source: &Self, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes && bytes <= source.bytes, "both blocks are that long");
        if bytes == 0 {
            return Ok(());
        }
        self.device.bind()?;
        let _turn = self.device.turn_with([source.address, self.address]);
        // SAFETY: both blocks are that long and of one device.
        unsafe { result::memcpy_dtod_async(self.address, source.address, bytes, self.device.stream()) }
            .map_err(|error| device_error(&self.device, at("copy on the device"), error))
    }

    /// Sets the first `bytes` to zero.
    pub fn zero(&mut self, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes, "the block is that long");
        if bytes == 0 {
            return Ok(());
        }
        self.device.bind()?;
        let _turn = self.device.turn_with([self.address]);
        // SAFETY: the block is that long.
        unsafe { result::memset_d8_async(self.address, 0, bytes, self.device.stream()) }
            .map_err(|error| device_error(&self.device, at("set memory"), error))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        let shared = &self.device.shared;
        let Some(arena) = &self.arena else {
            if let Some(recording) = &mut *shared.turn() {
                recording.lost = true;
            }
            shared.gone(self.address, self.bytes);
            return shared.pool.give_back(&self.device, self.address, self.bytes);
        };
        // The arena has the block; the recording under way may use it again.
        if let Some(recording) = &mut *shared.turn()
            && Arc::ptr_eq(&recording.arena, arena)
        {
            recording.free.entry(self.bytes).or_default().push(self.address);
        }
    }
}

/// Elements of one dtype in device memory.
pub struct Buffer {
    pub(super) memory: Memory,
    dtype: DType,
    len: usize,
}

impl Buffer {
    pub(super) fn new(device: &Cuda, dtype: DType, len: usize) -> Result<Self> {
        Ok(Self { memory: Memory::new(device, len * dtype.size())?, dtype, len })
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the elements lie in device memory; 0 for none.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    pub(super) fn bytes(&self) -> usize {
        self.len * self.dtype.size()
    }
}

/// `u32` numbers in device memory.
pub struct Indices {
    pub(super) memory: Memory,
    len: usize,
}

impl Indices {
    pub(super) fn new(device: &Cuda, values: &[u32]) -> Result<Self> {
        let mut memory = Memory::new(device, size_of_val(values))?;
        memory.write(values)?;
        Ok(Self { memory, len: values.len() })
    }

    /// Other numbers, in the same memory where they fit.
    pub(super) fn replace(&mut self, values: &[u32]) -> Result<()> {
        if size_of_val(values) > self.memory.bytes {
            self.memory = Memory::new(&self.memory.device, size_of_val(values))?;
        }
        self.len = values.len();
        self.memory.write(values)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where they lie in device memory; 0 for none.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }
}

//! Bringing weights to the device: pinned memory that is filled from the mapped file while the piece before it travels.
//!
//! A copy from a mapped file would be cut up and staged by the driver itself, one piece after another; from pinned memory
//! it runs beside the reading of the next piece.

use super::Cuda;
use super::failure::{at, device_error};
use super::graph::unrecordable;
use super::memory::Memory;
use crate::Result;
use cudarc::driver::{result, sys};
use rayon::prelude::*;

/// Bytes of each of the two pieces: long enough for the bus, short enough to overlap within one matrix.
const PIECE: usize = 8 << 20;
/// What a thread reads from the file at a time.
const PART: usize = 1 << 20;

/// A piece of pinned host memory, and the event after which it may be filled again.
struct Pinned {
    bytes: *mut u8,
    travelled: sys::CUevent,
}

// SAFETY: the memory and the event belong to no thread; the owner's lock lets one at a time use them.
unsafe impl Send for Pinned {}

impl Pinned {
    /// The device's context is current.
    fn new(device: &Cuda) -> Result<Self> {
        // SAFETY: the context is current; the block is freed once, by `drop`.
        let bytes = unsafe { result::malloc_host(PIECE, 0) }
            .map_err(|error| device_error(device, at("pin host memory"), error))?
            .cast::<u8>();
        let travelled = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(|error| {
            // SAFETY: allocated above, and used by no one.
            let _ = unsafe { result::free_host(bytes.cast()) };
            device_error(device, at("make an event"), error)
        })?;
        Ok(Self { bytes, travelled })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: made by `new`; the driver waits for copies that use the memory. There is no one to tell of a failure.
        let _ = unsafe { result::event::destroy(self.travelled) };
        // SAFETY: as above.
        let _ = unsafe { result::free_host(self.bytes.cast()) };
    }
}

/// Two pieces in turn, made when the first weights are loaded.
#[derive(Default)]
pub(super) struct Staging {
    pieces: Vec<Pinned>,
    /// Pieces sent so far.
    sent: usize,
}

impl Staging {
    /// Copies `source` to the start of `target`, in the stream's order; `source` may go as soon as this returns.
    pub fn send(&mut self, device: &Cuda, source: &[u8], target: &Memory) -> Result<()> {
        device.bind()?;
        if device.shared.turn().is_some() {
            return Err(unrecordable("loads weights"));
        }
        for (number, bytes) in source.chunks(PIECE).enumerate() {
            if self.pieces.len() < 2 {
                self.pieces.push(Pinned::new(device)?);
            }
            let piece = &self.pieces[self.sent % 2];
            // SAFETY: the event lives. One that was never recorded is over.
            unsafe { sys::cuEventSynchronize(piece.travelled) }
                .result()
                .map_err(|error| device_error(device, at("copy to the device"), error))?;
            // SAFETY: the block has PIECE bytes, nobody else holds it, and the copy that last read it is over.
            let pinned = unsafe { std::slice::from_raw_parts_mut(piece.bytes, bytes.len()) };
            pinned.par_chunks_mut(PART).zip(bytes.par_chunks(PART)).for_each(|(to, from)| to.copy_from_slice(from));
            let address = target.address() + (number * PIECE) as u64;
            // SAFETY: the caller's block holds all of `source`; the pinned memory is left alone until the event.
            unsafe {
                result::memcpy_htod_async(address, &*pinned, device.stream())
                    .and_then(|()| result::event::record(piece.travelled, device.stream()))
            }
            .map_err(|error| device_error(device, at("copy to the device"), error))?;
            self.sent += 1;
        }
        Ok(())
    }
}

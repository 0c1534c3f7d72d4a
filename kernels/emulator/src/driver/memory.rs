//! Allocation, copies and memsets.

use super::{Code, Inject, State, call, give};
use crate::race::report::Kind;
use std::ffi::{c_int, c_uint, c_void};

type Stream = *mut c_void;

impl State {
    fn allocate(&mut self, bytes: usize) -> Result<u64, Code> {
        self.may_wait()?;
        self.healthy()?;
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let limit = match self.options.inject {
            Some(Inject::Memory { bytes }) => bytes.min(self.options.memory),
            _ => self.options.memory,
        };
        if self.device.memory.used().saturating_add(bytes as u64) > limit {
            return Err(Code::OUT_OF_MEMORY);
        }
        Ok(self.device.memory.allocate(bytes as u64))
    }

    fn free(&mut self, address: u64) -> Result<(), Code> {
        self.may_wait()?;
        if address == 0 || self.device.memory.free(address) { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }

    /// A range the program names must lie in one allocation.
    fn check(&mut self, call: &str, address: u64, bytes: usize) -> Result<(), Code> {
        self.healthy()?;
        if bytes == 0 || self.device.memory.range(address, bytes as u64).is_some() {
            return Ok(());
        }
        let text = match self.device.memory.find(address) {
            Some((buffer, offset)) => format!("{bytes} bytes at offset {offset} of an allocation of {}", buffer.len()),
            None => format!("{bytes} bytes where no allocation is"),
        };
        self.report(Kind::OutOfBounds, &format!("out of bounds: {call} of {text}, address {address:#x}"));
        Err(Code::INVALID_VALUE)
    }

    fn upload(&mut self, call: &str, to: u64, from: &[u8]) -> Result<(), Code> {
        self.check(call, to, from.len())?;
        if let Some((buffer, offset)) = self.device.memory.find(to) {
            buffer.write(offset, from);
        }
        Ok(())
    }

    fn download(&mut self, call: &str, to: &mut [u8], from: u64) -> Result<(), Code> {
        self.check(call, from, to.len())?;
        let Some((buffer, offset)) = self.device.memory.find(from) else { return Ok(()) };
        buffer.read(offset, to);
        if let Some(at) = buffer.first_unwritten(offset, to.len() as u64).filter(|_| self.options.settings.detect) {
            let text = format!(
                "uninitialised: {call} of {} bytes reads offset {at}, which was never written, address {from:#x}",
                to.len()
            );
            self.report(Kind::Uninitialised, &text);
        }
        Ok(())
    }

    fn copy(&mut self, call: &str, to: u64, from: u64, bytes: usize) -> Result<(), Code> {
        self.check(call, from, bytes)?;
        self.check(call, to, bytes)?;
        self.copied(bytes);
        let memory = &self.device.memory;
        if let (Some((source, from)), Some((target, to))) = (memory.find(from), memory.find(to)) {
            let mut data = vec![0; bytes];
            source.read(from, &mut data);
            if source.first_unwritten(from, bytes as u64).is_none() {
                target.write(to, &data);
            } else {
                // Bytes nobody wrote stay so at the other end.
                for (at, byte) in data.iter().enumerate() {
                    if source.is_written(from + at as u64, 1) {
                        target.write(to + at as u64, &[*byte]);
                    }
                }
            }
        }
        Ok(())
    }

    fn fill(&mut self, call: &str, to: u64, pattern: &[u8], count: usize) -> Result<(), Code> {
        self.copied(pattern.len() * count);
        self.upload(call, to, &pattern.repeat(count))
    }
}

/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Code {
    call(|state| {
        let new = state.allocate(bytes)?;
        // SAFETY: the program's pointer.
        unsafe { give(address, new) }
    })
}

/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Stream) -> Code {
    if super::state().records(stream) {
        return Code::NOT_SUPPORTED;
    }
    // SAFETY: the same contract.
    unsafe { cuMemAlloc_v2(address, bytes) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Code {
    call(|state| state.free(address))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: Stream) -> Code {
    if super::state().records(stream) {
        return Code::NOT_SUPPORTED;
    }
    call(|state| state.free(address))
}

/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    call(|state| {
        let (used, all) = (state.device.memory.used(), state.options.memory);
        // SAFETY: the program's pointers.
        unsafe { give(free, all.saturating_sub(used) as usize).and(give(total, all as usize)) }
    })
}

/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, _flags: c_uint) -> Code {
    call(|state| {
        state.may_wait()?;
        let mut block = vec![0u128; bytes.div_ceil(16).max(1)];
        let start = block.as_mut_ptr().cast::<c_void>();
        state.host.insert(start as usize, block);
        // SAFETY: the program's pointer.
        unsafe { give(pointer, start) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> Code {
    call(|state| {
        state.may_wait()?;
        state.host.remove(&(pointer as usize)).map(drop).ok_or(Code::INVALID_VALUE)
    })
}

/// What the host holds at an address when a stream comes to it; the program vouches for it then.
#[derive(Clone, Copy)]
struct Host(*mut u8, usize);

// SAFETY: an address, which is read only when the driver may.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

impl Host {
    /// # Safety
    /// The range is valid for reads.
    unsafe fn bytes<'h>(self) -> &'h [u8] {
        if self.1 == 0 {
            return &[];
        }
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts(self.0, self.1) }
    }

    /// # Safety
    /// The range is valid for writes, and no one else's.
    unsafe fn bytes_mut<'h>(self) -> &'h mut [u8] {
        if self.1 == 0 {
            return &mut [];
        }
        // SAFETY: the caller's contract; zeroing makes it initialised.
        unsafe {
            self.0.write_bytes(0, self.1);
            std::slice::from_raw_parts_mut(self.0, self.1)
        }
    }
}

/// # Safety
/// As cuda.h's function: `from` holds `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> Code {
    // SAFETY: the program vouches for the range.
    let from = unsafe { Host(from.cast_mut().cast(), bytes).bytes() };
    call(|state| state.may_wait().and_then(|()| state.upload("cuMemcpyHtoD", to, from)))
}

/// # Safety
/// As cuda.h's function: `from` holds `bytes` bytes, at each launch of a graph too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Stream) -> Code {
    let from = Host(from.cast_mut().cast(), bytes);
    // SAFETY: the program vouches for the range.
    call(|state| state.submit(stream, move |state| state.upload("cuMemcpyHtoDAsync", to, unsafe { from.bytes() })))
}

/// # Safety
/// As cuda.h's function: `to` has room for `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> Code {
    // SAFETY: the program vouches for the range.
    let to = unsafe { Host(to.cast(), bytes).bytes_mut() };
    call(|state| state.may_wait().and_then(|()| state.download("cuMemcpyDtoH", to, from)))
}

/// # Safety
/// As cuda.h's function: `to` has room for `bytes` bytes, at each launch of a graph too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Stream) -> Code {
    let to = Host(to.cast(), bytes);
    // SAFETY: the program vouches for the range.
    call(|state| {
        state.submit(stream, move |state| state.download("cuMemcpyDtoHAsync", unsafe { to.bytes_mut() }, from))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Code {
    call(|state| state.may_wait().and_then(|()| state.copy("cuMemcpyDtoD", to, from, bytes)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Stream) -> Code {
    call(|state| state.submit(stream, move |state| state.copy("cuMemcpyDtoDAsync", to, from, bytes)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> Code {
    call(|state| state.may_wait().and_then(|()| state.fill("cuMemsetD8", to, &[value], count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Stream) -> Code {
    call(|state| state.submit(stream, move |state| state.fill("cuMemsetD8Async", to, &[value], count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) -> Code {
    call(|state| state.may_wait().and_then(|()| state.fill("cuMemsetD32", to, &value.to_le_bytes(), count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: Stream) -> Code {
    call(|state| state.submit(stream, move |state| state.fill("cuMemsetD32Async", to, &value.to_le_bytes(), count)))
}

/// The pool of the device: one, whose settings change nothing here.
///
/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut *mut c_void, _device: c_int) -> Code {
    // SAFETY: the program's pointer.
    unsafe { give(pool, std::ptr::dangling_mut::<c_void>()) }.err().unwrap_or(Code::SUCCESS)
}

/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetMemPool(pool: *mut *mut c_void, device: c_int) -> Code {
    // SAFETY: the same contract.
    unsafe { cuDeviceGetDefaultMemPool(pool, device) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAttribute(_pool: *mut c_void, _attribute: c_uint, _value: *mut c_void) -> Code {
    Code::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(_pool: *mut c_void, _keep: usize) -> Code {
    Code::SUCCESS
}

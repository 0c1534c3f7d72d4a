//! Devices, contexts, streams and events. There is one device and one context; a stream is a number.

use super::{Code, Inject, call, give, state};
use std::ffi::{c_char, c_int, c_uint, c_void};

type Handle = *mut c_void;

fn handle(number: usize) -> Handle {
    number as Handle
}

const CONTEXT: usize = 1;

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> Code {
    call(|state| if state.options.inject == Some(Inject::NoDevice) { Err(Code::NO_DEVICE) } else { Ok(()) })
}

/// Writes results through the program's pointers, which cuda.h says are valid.
macro_rules! gives {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $kind:ty),*) |$state:ident| $body:block)*) => {$(
        /// # Safety
        /// As cuda.h's function of this name.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),*) -> Code {
            call(|$state| $body)
        }
    )*};
}

gives! {
    fn cuDriverGetVersion(version: *mut c_int) |state| {
        let old = state.options.inject == Some(Inject::Driver);
        // SAFETY: the program's pointer.
        unsafe { give(version, if old { 11_000 } else { 13_000 }) }
    }
    fn cuDeviceGetCount(count: *mut c_int) |_state| {
        // SAFETY: the program's pointer.
        unsafe { give(count, 1) }
    }
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) |_state| {
        if ordinal != 0 {
            return Err(Code::INVALID_DEVICE);
        }
        // SAFETY: the program's pointer.
        unsafe { give(device, 0) }
    }
    fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) |state| {
        let text = format!("safedepth emulator (sm_{})\0", state.options.architecture);
        for (at, byte) in text.bytes().take(length.max(0) as usize).enumerate() {
            // SAFETY: `name` has room for `length` characters.
            unsafe { give(name.wrapping_add(at), byte as c_char)? };
        }
        Ok(())
    }
    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) |_state| {
        // SAFETY: the program's pointer.
        unsafe { give(uuid, *b"safedepth-emulat") }
    }
    fn cuDeviceGetUuid(uuid: *mut [u8; 16], _device: c_int) |_state| {
        // SAFETY: the program's pointer.
        unsafe { give(uuid, *b"safedepth-emulat") }
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) |state| {
        // SAFETY: the program's pointer.
        unsafe { give(bytes, state.options.memory as usize) }
    }
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, _device: c_int) |state| {
        // SAFETY: the program's pointer.
        unsafe { give(value, attribute_of(attribute, state.options.architecture, state.options.shared_limit())) }
    }
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, _device: c_int) |state| {
        state.healthy()?;
        // SAFETY: the program's pointer.
        unsafe { give(context, handle(CONTEXT)) }
    }
    fn cuCtxGetCurrent(context: *mut Handle) |_state| {
        // SAFETY: the program's pointer.
        unsafe { give(context, handle(CONTEXT)) }
    }
    fn cuCtxGetDevice(device: *mut c_int) |_state| {
        // SAFETY: the program's pointer.
        unsafe { give(device, 0) }
    }
    fn cuCtxGetLimit(value: *mut usize, _limit: c_uint) |_state| {
        // SAFETY: the program's pointer.
        unsafe { give(value, 1 << 20) }
    }
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) |_state| {
        // SAFETY: the program's pointers.
        unsafe { give(least, 0).and(give(greatest, 0)) }
    }
    fn cuStreamCreate(stream: *mut Handle, _flags: c_uint) |state| {
        let number = state.handle();
        // SAFETY: the program's pointer.
        unsafe { give(stream, handle(number)) }
    }
    fn cuStreamCreateWithPriority(stream: *mut Handle, _flags: c_uint, _priority: c_int) |state| {
        let number = state.handle();
        // SAFETY: the program's pointer.
        unsafe { give(stream, handle(number)) }
    }
    fn cuEventCreate(event: *mut Handle, _flags: c_uint) |state| {
        let number = state.handle();
        // SAFETY: the program's pointer.
        unsafe { give(event, handle(number)) }
    }
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle) |state| {
        let (Some(start), Some(end)) = (state.events.get(&(start as usize)), state.events.get(&(end as usize))) else {
            return Err(Code::INVALID_HANDLE);
        };
        // SAFETY: the program's pointer.
        unsafe { give(milliseconds, (*end as f64 - *start as f64) as f32 * 1e-6) }
    }
}

/// # Safety
/// As cuda.h's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) -> Code {
    // SAFETY: the same contract.
    unsafe { cuEventElapsedTime_v2(milliseconds, start, end) }
}

/// The attributes that programs ask for, by cuda.h's numbers; the rest are 0.
fn attribute_of(attribute: c_uint, architecture: u32, shared: u32) -> c_int {
    let multiprocessors = match architecture {
        80 => 108,
        90 => 132,
        _ => 84,
    };
    match attribute {
        1..=3 => 1024,     // threads in a block, its x and y
        4 => 64,           // its z
        5 => c_int::MAX,   // blocks in a grid, x
        6 | 7 => 65_535,   // y, z
        8 => 48 * 1024,    // shared memory of a block without opting in
        9 => 64 * 1024,    // constant memory
        10 => 32,          // lanes of a warp
        12 | 82 => 65_536, // registers of a block, of a multiprocessor
        13 => 1_410_000,   // clock, kHz
        16 => multiprocessors,
        31 | 32 | 40 | 41 => 1,             // concurrent kernels, ECC, engines, unified addresses
        36 => 1_215_000,                    // memory clock, kHz
        37 => 5120,                         // memory bus, bits
        38 => 40 << 20,                     // L2, bytes
        39 => 2048,                         // threads of a multiprocessor
        75 => (architecture / 10) as c_int, // compute capability
        76 => (architecture % 10) as c_int,
        81 => shared as c_int + 1024, // shared memory of a multiprocessor
        97 => shared as c_int,        // shared memory of a block after opting in
        106 => 32,                    // blocks of a multiprocessor
        111 => 1024,                  // shared memory reserved of a block
        115 => 1,                     // memory pools
        _ => 0,
    }
}

/// Calls that have nothing to do here.
macro_rules! nothing {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $kind),*) -> Code {
            Code::SUCCESS
        }
    )*};
}

nothing! {
    cuDevicePrimaryCtxRelease_v2(_device: c_int);
    cuDevicePrimaryCtxSetFlags_v2(_device: c_int, _flags: c_uint);
    cuCtxSetCurrent(_context: Handle);
    cuCtxSetFlags(_flags: c_uint);
    cuCtxSetLimit(_limit: c_uint, _value: usize);
    cuCtxSetCacheConfig(_config: c_uint);
    cuCtxDestroy_v2(_context: Handle);
    cuStreamDestroy_v2(_stream: Handle);
    cuStreamWaitEvent(_stream: Handle, _event: Handle, _flags: c_uint);
    cuStreamAttachMemAsync(_stream: Handle, _address: u64, _length: usize, _flags: c_uint);
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Code {
    call(|state| state.waits_for_all().and_then(|()| state.healthy()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> Code {
    call(|state| state.waits_for(stream).and_then(|()| state.healthy()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> Code {
    call(|state| state.waits_for(stream).and_then(|()| state.healthy()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> Code {
    let event = event as usize;
    call(|state| {
        state.submit(stream, move |state| {
            let now = state.clock;
            state.events.insert(event, now);
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(_event: Handle) -> Code {
    call(|state| state.healthy())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(_event: Handle) -> Code {
    call(|state| state.healthy())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> Code {
    call(|state| {
        state.events.remove(&(event as usize));
        Ok(())
    })
}

/// # Safety
/// `function` is the program's own and takes `data`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchHostFunc(
    stream: Handle,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> Code {
    if state().records(stream) {
        return Code::NOT_SUPPORTED;
    }
    if let Err(code) = state().healthy() {
        return code;
    }
    if let Some(function) = function {
        // SAFETY: the program asked for this call; everything before it in the stream is done.
        unsafe { function(data) };
    }
    Code::SUCCESS
}

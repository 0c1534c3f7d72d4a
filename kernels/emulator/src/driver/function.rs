//! Modules, functions and launches.

use super::image::{fatbin_bytes, ptx_in_fatbin};
use super::{Code, Function, Inject, State, call, give};
use crate::device::{Refusal, Shape};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

type Handle = *mut c_void;

/// Dynamic and static shared memory of a block without opting in.
const SHARED_DEFAULT: u32 = 48 * 1024;

/// Whether PTX of a target can run: "sm_80" on what is newer too, "sm_90a" on that architecture alone.
fn runs_on(target: &str, architecture: u32) -> bool {
    let digits: String = target.chars().filter(char::is_ascii_digit).collect();
    digits.parse().map_or(true, |needed: u32| match target.ends_with('a') {
        true => needed == architecture,
        false => needed <= architecture,
    })
}

impl State {
    fn load(&mut self, text: Option<&str>) -> Result<usize, Code> {
        self.may_wait()?;
        self.healthy()?;
        match self.options.inject {
            Some(Inject::Image) => return Err(Code::NO_BINARY_FOR_GPU),
            Some(Inject::Driver) => return Err(Code::UNSUPPORTED_PTX_VERSION),
            _ => {}
        }
        let Some(text) = text else {
            eprintln!(
                "safedepth-emulator: the image holds no PTX text that can be read (machine code, or a compressed fatbin)"
            );
            return Err(Code::NO_BINARY_FOR_GPU);
        };
        let loaded = self.device.load(text).map_err(|error| {
            eprintln!("safedepth-emulator: {error}");
            Code::INVALID_PTX
        })?;
        if !runs_on(&loaded.module.target, self.options.architecture) {
            return Err(Code::NO_BINARY_FOR_GPU);
        }
        let handle = self.handle();
        self.modules.insert(handle, Arc::new(loaded));
        Ok(handle)
    }

    fn function(&mut self, handle: Handle) -> Result<&mut Function, Code> {
        (handle as usize).checked_sub(1).and_then(|index| self.functions.get_mut(index)).ok_or(Code::INVALID_HANDLE)
    }

    fn launch(
        &mut self,
        stream: Handle,
        handle: Handle,
        shape: Shape,
        arguments: impl Fn(&[(u32, u32)]) -> Option<Vec<Vec<u8>>>,
    ) -> Result<(), Code> {
        self.healthy()?;
        let function = self.function(handle)?;
        let (loaded, name) = (function.loaded.clone(), function.name.clone());
        let limit = function.dynamic_limit;
        let program = loaded.programs.get(&name).ok_or(Code::INVALID_HANDLE)?;
        if shape.dynamic_shared > limit.max(SHARED_DEFAULT.saturating_sub(program.shared_bytes)) {
            let text = format!(
                "{name}: {} bytes of dynamic shared memory need cuFuncSetAttribute first",
                shape.dynamic_shared
            );
            eprintln!("safedepth-emulator: {text}");
            return Err(Code::INVALID_VALUE);
        }
        let Some(bytes) = arguments(&program.parameters) else { return Err(Code::INVALID_VALUE) };
        if !self.records(stream) {
            self.called(&name);
        }
        self.submit(stream, move |state| {
            state.healthy()?;
            let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
            let outcome = state.device.launch(&loaded, &name, shape, &slices).map_err(|refusal| {
                eprintln!("safedepth-emulator: {refusal}");
                if matches!(refusal, Refusal::NoSuchKernel(_)) { Code::NOT_FOUND } else { Code::INVALID_VALUE }
            })?;
            state.finish(&name, shape, &outcome.reports, &outcome.counts);
            Ok(())
        })
    }
}

/// # Safety
/// As cuda.h's function: `image` is PTX text ending with a zero byte, or a whole image.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> Code {
    if image.is_null() {
        return Code::INVALID_VALUE;
    }
    // SAFETY: text of at least a few lines or an image with a header has 16 bytes.
    let head = unsafe { &*image.cast::<[u8; 16]>() };
    let bytes = fatbin_bytes(head);
    let text = if bytes > 0 {
        // SAFETY: the header says how long the image is.
        ptx_in_fatbin(unsafe { std::slice::from_raw_parts(image.cast(), bytes) })
    } else if head.starts_with(b"\x7fELF") {
        None
    } else {
        // SAFETY: text ends with a zero byte.
        unsafe { CStr::from_ptr(image.cast()) }.to_str().ok()
    };
    call(|state| {
        let handle = state.load(text)?;
        // SAFETY: the program's pointer.
        unsafe { give(module, handle as Handle) }
    })
}

/// # Safety
/// As cuda.h's function; the options are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const c_void,
    _n: c_uint,
    _options: *mut c_uint,
    _values: *mut *mut c_void,
) -> Code {
    // SAFETY: the same contract.
    unsafe { cuModuleLoadData(module, image) }
}

/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(module: *mut Handle, path: *const c_char) -> Code {
    // SAFETY: the program's string.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
    let Ok(bytes) = std::fs::read(&*path) else { return Code::FILE_NOT_FOUND };
    let text = match bytes.first_chunk().map(fatbin_bytes) {
        Some(1..) => ptx_in_fatbin(&bytes),
        _ => std::str::from_utf8(&bytes).ok(),
    };
    call(|state| {
        let handle = state.load(text)?;
        // SAFETY: the program's pointer.
        unsafe { give(module, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> Code {
    call(|state| {
        state.may_wait()?;
        state.modules.remove(&(module as usize)).map(drop).ok_or(Code::INVALID_HANDLE)
    })
}

/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> Code {
    // SAFETY: the program's string.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    call(|state| {
        let loaded = state.modules.get(&(module as usize)).ok_or(Code::INVALID_HANDLE)?.clone();
        if !loaded.programs.contains_key(&name) {
            return Err(Code::NOT_FOUND);
        }
        state.functions.push(Function { loaded, name, dynamic_limit: 0 });
        // SAFETY: the program's pointer.
        unsafe { give(function, state.functions.len() as Handle) }
    })
}

/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(
    address: *mut u64,
    bytes: *mut usize,
    module: Handle,
    name: *const c_char,
) -> Code {
    // SAFETY: the program's string.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    call(|state| {
        let loaded = state.modules.get(&(module as usize)).ok_or(Code::INVALID_HANDLE)?;
        let &(start, size) = loaded.variables.get(&*name).ok_or(Code::NOT_FOUND)?;
        // SAFETY: the program's pointers; either may be null.
        unsafe {
            let _ = give(address, start);
            let _ = give(bytes, size as usize);
        }
        Ok(())
    })
}

/// # Safety
/// As cuda.h's function: each parameter points to its argument.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)] // cuda.h's signature.
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: Handle,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    if !extra.is_null() {
        return Code::NOT_SUPPORTED;
    }
    let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared: shared };
    let arguments = |sizes: &[(u32, u32)]| {
        let argument = |(index, &(_, size)): (usize, &(u32, u32))| {
            // SAFETY: the array has one pointer for each parameter of the kernel, to as many bytes as it takes.
            unsafe {
                let pointer = parameters.add(index).read();
                (!pointer.is_null()).then(|| std::slice::from_raw_parts(pointer.cast::<u8>(), size as usize).to_vec())
            }
        };
        if parameters.is_null() && !sizes.is_empty() {
            return None;
        }
        sizes.iter().enumerate().map(argument).collect()
    };
    call(|state| state.launch(stream, function, shape, arguments))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) -> Code {
    const MAX_DYNAMIC_SHARED: c_uint = 8;
    call(|state| {
        let limit = state.device.shared_limit;
        let function = state.function(function)?;
        if attribute == MAX_DYNAMIC_SHARED {
            let fixed = function.loaded.programs.get(&function.name).map_or(0, |program| program.shared_bytes);
            if value < 0 || value as u32 + fixed > limit {
                return Err(Code::INVALID_VALUE);
            }
            function.dynamic_limit = value as u32;
        }
        Ok(())
    })
}

/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: Handle) -> Code {
    call(|state| {
        let architecture = state.options.architecture;
        let function = state.function(function)?;
        let program = function.loaded.programs.get(&function.name).ok_or(Code::INVALID_HANDLE)?;
        let answer = match attribute {
            0 => {
                if program.max_threads > 0 {
                    program.max_threads
                } else {
                    1024
                }
            }
            1 => program.shared_bytes,
            3 => program.local_bytes,
            // Registers are ptxas's to say; the interpreter's own slots stand in.
            4 => (program.files[1] + 2 * program.files[2]).min(255) as u32,
            5 | 6 => architecture,
            8 => function.dynamic_limit.max(SHARED_DEFAULT.saturating_sub(program.shared_bytes)),
            _ => 0,
        };
        // SAFETY: the program's pointer.
        unsafe { give(value, answer as c_int) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(_function: Handle, _config: c_uint) -> Code {
    Code::SUCCESS
}

/// Blocks of a kernel on a multiprocessor, by threads and shared memory (registers are unknown here).
///
/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: Handle,
    threads: c_int,
    dynamic: usize,
) -> Code {
    call(|state| {
        let limit = state.device.shared_limit + 1024;
        let function = state.function(function)?;
        let fixed = function.loaded.programs.get(&function.name).map_or(0, |program| program.shared_bytes);
        let shared = fixed + dynamic as u32 + 1024;
        let fits = (2048 / threads.max(1) as u32).min(limit / shared).min(32);
        // SAFETY: the program's pointer.
        unsafe { give(blocks, fits as c_int) }
    })
}

/// # Safety
/// As cuda.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut c_int,
    function: Handle,
    threads: c_int,
    dynamic: usize,
    _flags: c_uint,
) -> Code {
    // SAFETY: the same contract.
    unsafe { cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic) }
}

#[cfg(test)]
mod tests {
    use super::runs_on;

    #[test]
    fn what_is_of_one_architecture_runs_on_no_other() {
        assert!(runs_on("sm_80", 80) && runs_on("sm_80", 90) && !runs_on("sm_86", 80));
        assert!(runs_on("sm_90a", 90) && !runs_on("sm_90a", 80) && !runs_on("sm_90a", 100));
    }
}

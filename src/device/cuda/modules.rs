//! The kernels that build.rs put into the program, and the driver's handles of those that were used.

use super::Cuda;
use super::failure::{at, device_error};
use crate::Result;
use cudarc::driver::{result, sys};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder with the PTX of some `kernels/*.cu`, taken in place of what was compiled in: a changed kernel is tried without
/// building the program again, as `scripts/kernel_mutants.py` does.
const OVERRIDE: &str = "SAFEDEPTH_CUDA_KERNELS";

/// One `kernels/*.cu`.
struct Module {
    /// The file's name without `.cu`.
    name: &'static str,
    /// A fatbin: machine code of each architecture, and the PTX for all others.
    image: &'static [u8],
    /// Each kernel's name and its parameters, a letter each: l 8 bytes, i 4 bytes, f f32, d f64. Sorted by name.
    kernels: &'static [(&'static str, &'static str)],
}

static MODULES: &[Module] = &include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// What ptxas said of each kernel on each architecture, CSV below a line that names the compiler; empty without nvcc.
pub const PTXAS: &str = include_str!(concat!(env!("OUT_DIR"), "/ptxas.csv"));

/// Whether the program was built with nvcc, so that it has kernels at all.
pub fn has_kernels() -> bool {
    !MODULES.is_empty()
}

/// A kernel on the device.
pub(super) struct Function {
    pub handle: sys::CUfunction,
    pub signature: &'static str,
    /// Bytes of dynamic shared memory it was allowed; the driver allows 48 KiB by itself.
    allowed: AtomicU32,
}

// SAFETY: a function's handle may be used from any thread that has its context current.
unsafe impl Send for Function {}
// SAFETY: as above; the driver's calls are thread-safe.
unsafe impl Sync for Function {}

/// A module's handle, and those of its kernels in the table's order.
struct Loaded {
    handle: sys::CUmodule,
    functions: Vec<Function>,
}

// SAFETY: as for `Function`.
unsafe impl Send for Loaded {}
// SAFETY: as for `Function`.
unsafe impl Sync for Loaded {}

/// The modules of one device, each loaded when the first of its kernels is asked for.
pub(super) struct Modules(Vec<OnceLock<Loaded>>);

impl Default for Modules {
    fn default() -> Self {
        Self(MODULES.iter().map(|_| OnceLock::new()).collect())
    }
}

impl Modules {
    /// # Panics
    /// If no `kernels/*.cu` has a kernel of this name.
    pub fn function(&self, device: &Cuda, name: &str) -> Result<&Function> {
        let found = MODULES.iter().zip(&self.0).find_map(|(module, loaded)| {
            let index = module.kernels.binary_search_by_key(&name, |&(name, _)| name).ok()?;
            Some((module, loaded, index))
        });
        let (module, loaded, index) = found.unwrap_or_else(|| panic!("there is no kernel {name} in kernels/*.cu"));
        if loaded.get().is_none() {
            let new = load(module).map_err(|error| device_error(device, at("load the kernels"), error))?;
            // Another thread may have been faster; its handles are as good.
            let _ = loaded.set(new);
        }
        Ok(&loaded.get().expect("set above").functions[index])
    }

    /// Gives the modules back to the driver. The context is current.
    pub fn unload(&mut self) {
        for loaded in self.0.iter_mut().filter_map(OnceLock::take) {
            // SAFETY: the handle came from `load_data` and is dropped here. A lost device refuses; its memory is gone anyway.
            let _ = unsafe { result::module::unload(loaded.handle) };
        }
    }
}

fn load(module: &Module) -> Result<Loaded, result::DriverError> {
    let ptx = std::env::var_os(OVERRIDE)
        .and_then(|folder| std::fs::read(std::path::Path::new(&folder).join(format!("{}.ptx", module.name))).ok())
        .and_then(|text| std::ffi::CString::new(text).ok());
    let image = ptx.as_ref().map_or(module.image.as_ptr(), |text| text.as_ptr().cast());
    // SAFETY: the image is a whole fatbin, as fatbinary wrote it, or PTX that ends in a zero byte.
    let handle = unsafe { result::module::load_data(image.cast()) }?;
    let function = |&(name, signature): &(&str, &'static str)| {
        let name = std::ffi::CString::new(name).expect("a kernel's name has no zero byte");
        // SAFETY: the module was loaded above.
        let handle = unsafe { result::module::get_function(handle, name) }?;
        Ok(Function { handle, signature, allowed: AtomicU32::new(48 << 10) })
    };
    Ok(Loaded { handle, functions: module.kernels.iter().map(function).collect::<Result<_, result::DriverError>>()? })
}

impl Function {
    /// Lets the kernel have `bytes` of dynamic shared memory.
    pub fn allow(&self, bytes: u32) -> Result<(), result::DriverError> {
        if bytes > self.allowed.load(Ordering::Relaxed) {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is that of a loaded kernel.
            unsafe { result::function::set_function_attribute(self.handle, attribute, bytes as i32) }?;
            self.allowed.fetch_max(bytes, Ordering::Relaxed);
        }
        Ok(())
    }
}

//! The micro-kernels on a real GPU: the few driver functions they need, looked up in libcuda at run time.

use super::{Answer, Case};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

type Handle = *mut c_void;

/// Attributes of a device: the two numbers of its compute capability.
const MAJOR: c_int = 75;
const MINOR: c_int = 76;

/// Symbols of libcuda. The library stays loaded until the program ends.
struct Driver {
    library: Handle,
}

impl Driver {
    fn open() -> Result<Self, String> {
        // SAFETY: a constant name; the library's own initialisation is the driver's.
        let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
        if library.is_null() { Err("there is no libcuda.so.1: no NVIDIA driver".into()) } else { Ok(Self { library }) }
    }

    fn symbol(&self, name: &CStr) -> Result<Handle, String> {
        // SAFETY: an open library and a constant name.
        let found = unsafe { libc::dlsym(self.library, name.as_ptr()) };
        if found.is_null() { Err(format!("libcuda has no {}", name.to_string_lossy())) } else { Ok(found) }
    }
}

/// Calls a driver function by name with the types given, which are cuda.h's, and names it where it fails.
macro_rules! driver {
    ($driver:expr, $name:literal ( $($value:expr => $kind:ty),* )) => {{
        let found = $driver.symbol($name)?;
        // SAFETY: the signature is cuda.h's; pointers lead to live values of this function.
        let code = unsafe {
            std::mem::transmute::<Handle, unsafe extern "C" fn($($kind),*) -> c_int>(found)($($value),*)
        };
        if code != 0 { return Err(format!("{} gave error {code}", $name.to_string_lossy())) }
    }};
}

/// A context on the first GPU.
pub struct Gpu {
    driver: Driver,
    pub name: String,
    /// It is of compute capability 9.0.
    pub hopper: bool,
}

impl Gpu {
    pub fn open() -> Result<Self, String> {
        let driver = Driver::open()?;
        let (mut device, mut context): (c_int, Handle) = (0, std::ptr::null_mut());
        let mut name = [0 as c_char; 256];
        driver!(driver, c"cuInit"(0 => c_uint));
        driver!(driver, c"cuDeviceGet"(&mut device => *mut c_int, 0 => c_int));
        driver!(driver, c"cuDeviceGetName"(name.as_mut_ptr() => *mut c_char, 255 => c_int, device => c_int));
        driver!(driver, c"cuDevicePrimaryCtxRetain"(&mut context => *mut Handle, device => c_int));
        driver!(driver, c"cuCtxSetCurrent"(context => Handle));
        let mut capability = [0 as c_int; 2];
        for (value, attribute) in capability.iter_mut().zip([MAJOR, MINOR]) {
            driver!(driver, c"cuDeviceGetAttribute"(value => *mut c_int, attribute => c_int, device => c_int));
        }
        // SAFETY: the driver ends the name with a zero byte.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        Ok(Self { driver, name, hopper: capability == [9, 0] })
    }

    pub fn run(&self, case: &Case) -> Result<Answer, String> {
        let text = CString::new(case.ptx()).map_err(|error| error.to_string())?;
        let (mut module, mut function): (Handle, Handle) = (std::ptr::null_mut(), std::ptr::null_mut());
        driver!(self.driver, c"cuModuleLoadData"(&mut module => *mut Handle, text.as_ptr().cast() => *const c_void));
        driver!(self.driver, c"cuModuleGetFunction"(&mut function => *mut Handle, module => Handle, c"isa".as_ptr() => *const c_char));
        let input = case.input_bytes();
        let mut output = vec![0u8; 128 * case.outputs];
        let (mut source, mut target) = (0u64, 0u64);
        driver!(self.driver, c"cuMemAlloc_v2"(&mut source => *mut u64, input.len() => usize));
        driver!(self.driver, c"cuMemAlloc_v2"(&mut target => *mut u64, output.len() => usize));
        driver!(self.driver, c"cuMemcpyHtoD_v2"(source => u64, input.as_ptr().cast() => *const c_void, input.len() => usize));
        let mut arguments: [*mut c_void; 2] = [(&raw mut source).cast(), (&raw mut target).cast()];
        driver!(self.driver, c"cuLaunchKernel"(
            function => Handle, 1 => c_uint, 1 => c_uint, 1 => c_uint, case.threads() => c_uint, 1 => c_uint, 1 => c_uint,
            0 => c_uint, std::ptr::null_mut() => Handle, arguments.as_mut_ptr() => *mut *mut c_void,
            std::ptr::null_mut() => *mut *mut c_void
        ));
        driver!(self.driver, c"cuCtxSynchronize"());
        driver!(self.driver, c"cuMemcpyDtoH_v2"(output.as_mut_ptr().cast() => *mut c_void, target => u64, output.len() => usize));
        driver!(self.driver, c"cuMemFree_v2"(source => u64));
        driver!(self.driver, c"cuMemFree_v2"(target => u64));
        driver!(self.driver, c"cuModuleUnload"(module => Handle));
        Ok(case.answer(&output))
    }
}

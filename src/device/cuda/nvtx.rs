//! Named ranges in Nsight's timeline (NVTX), by the library that CUDA 13 has for programs that are not C.
//!
//! NVTX 3 is a C header whose functions look for a profiler when they are first called. `libnvtx3interop` is that header
//! compiled; it is asked for by name, so a machine without it, and a program built without CUDA, run as ever.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// As pip's nvidia-nvtx and as CUDA's toolkit have it.
const NAMES: [&CStr; 2] = [c"libnvtx3interop.so.1", c"libnvtx3interop.so"];

type Push = unsafe extern "C" fn(*const c_char) -> c_int;
type Pop = unsafe extern "C" fn() -> c_int;

/// The two functions of `nvToolsExt.h` that are used.
struct Library {
    push: Push,
    pop: Pop,
}

impl Library {
    /// The library where the dynamic loader finds it; it is never unloaded.
    fn open() -> Option<Self> {
        // SAFETY: names of a library that does nothing when it is loaded.
        let open = |name: &&CStr| unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        let handle = NAMES.iter().map(open).find(|handle| !handle.is_null())?;
        let symbol = |name: &CStr| {
            // SAFETY: the library was opened above.
            let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
            (!address.is_null()).then_some(address)
        };
        let (push, pop) = (symbol(c"nvtxRangePushA")?, symbol(c"nvtxRangePop")?);
        // SAFETY: `int nvtxRangePushA(const char* message)` and `int nvtxRangePop(void)` in nvToolsExt.h.
        Some(unsafe {
            Self {
                push: std::mem::transmute::<*mut c_void, Push>(push),
                pop: std::mem::transmute::<*mut c_void, Pop>(pop),
            }
        })
    }
}

/// A range of the thread that made it, which ends when this is dropped. Ranges nest.
#[must_use = "a range ends when this is dropped"]
pub struct Range {
    pop: Option<Pop>,
    /// A thread's ranges are a stack of its own.
    _of_thread: PhantomData<*const ()>,
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some(pop) = self.pop {
            // SAFETY: the library stays loaded; the range was pushed by this thread.
            unsafe { pop() };
        }
    }
}

/// Starts a range. One atomic load where there is no library.
pub fn range(name: &'static CStr) -> Range {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    let library = LIBRARY.get_or_init(Library::open).as_ref();
    if let Some(library) = library {
        // SAFETY: the library stays loaded; the name ends in a zero byte and lives as long as the program.
        unsafe { (library.push)(name.as_ptr()) };
    }
    Range { pop: library.map(|library| library.pop), _of_thread: PhantomData }
}

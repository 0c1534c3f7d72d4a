//! What the driver's errors mean to a user: one sentence each.

use super::Cuda;
use crate::Error;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;

/// What the device was asked for when it failed.
pub(super) enum Task {
    /// To do something, in words that follow "cannot".
    Do(&'static str),
    /// To hold so many more bytes.
    Hold(usize),
    /// To run a kernel.
    Run(String),
}

pub(super) fn at(what: &'static str) -> Task {
    Task::Do(what)
}

/// Bytes in words.
pub(super) fn size(bytes: usize) -> String {
    const MIB: f64 = (1 << 20) as f64;
    let mib = bytes as f64 / MIB;
    if mib >= 1024.0 {
        format!("{:.1} GiB", mib / 1024.0)
    } else if mib >= 1.0 {
        format!("{mib:.1} MiB")
    } else {
        format!("{bytes} bytes")
    }
}

/// `CUDA_ERROR_...`, which is what people search for.
pub(super) fn name(error: DriverError) -> String {
    error.error_name().map_or_else(|_| format!("CUDA error {:?}", error.0), |name| name.to_string_lossy().into_owned())
}

/// The driver is older than the kernels' compiler.
pub(super) const OLD_DRIVER: &str = "the NVIDIA driver is too old for this program's kernels, which need CUDA 13.0: update the driver to version 580 or newer, or use --device cpu";

/// The sentence for a driver's error of an open device.
pub(super) fn device_error(device: &Cuda, task: Task, error: DriverError) -> Error {
    let gpu = device.title();
    let cuda = name(error);
    Error::Device(match (error.0, task) {
        (CUresult::CUDA_ERROR_OUT_OF_MEMORY, task) => {
            let (free, total) = device.memory_info();
            let asked = match task {
                Task::Hold(bytes) => format!("{} more were needed", size(bytes)),
                Task::Do(what) => format!("it could not {what}"),
                Task::Run(kernel) => format!("it could not run {kernel}"),
            };
            format!(
                "{gpu} is out of memory: {asked}, and {} of {} are free; use a smaller batch or model, --dtype bf16, or --device cpu",
                size(free),
                size(total)
            )
        }
        (CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, _) => {
            format!("this program has no kernels for {gpu}: it needs compute capability 8.0 or newer; use --device cpu")
        }
        (CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, _) => OLD_DRIVER.into(),
        (
            CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_UNKNOWN,
            _,
        ) => format!("{gpu} was lost ({cuda}): look at it with nvidia-smi, then start again; what was saved is whole"),
        (_, Task::Run(kernel)) => format!("{gpu} refused kernel {kernel} ({cuda})"),
        (_, Task::Do(what)) => format!("{gpu} cannot {what} ({cuda})"),
        (_, Task::Hold(bytes)) => format!("{gpu} cannot allocate {} ({cuda})", size(bytes)),
    })
}

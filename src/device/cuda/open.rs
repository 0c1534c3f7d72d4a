//! Finding a GPU and making it ready, or saying in one sentence why that cannot be.

use super::blas::Blas;
use super::failure::{OLD_DRIVER, name};
use super::graph::Graphs;
use super::memory::Pool;
use super::modules::{Modules, has_kernels};
use super::{Cuda, Shared};
use crate::{Error, Result};
use cudarc::driver::{CudaContext, result, sys};
use std::sync::{Arc, Mutex};

/// CUDA 13.0, which the kernels were compiled for.
const CUDA: i32 = 13_000;

fn problem(words: impl Into<String>) -> Error {
    Error::Device(words.into())
}

/// The number of GPUs that the driver offers.
fn count() -> Result<usize> {
    if !has_kernels() {
        return Err(problem(
            "this program was built without GPU kernels: build it where nvcc is in PATH or CUDA_HOME, or use --device cpu",
        ));
    }
    // cudarc would panic.
    // SAFETY: asks the dynamic loader for a library by name, nothing else.
    if !unsafe { sys::is_culib_present() } {
        return Err(problem(
            "there is no NVIDIA driver on this machine (libcuda.so): install one, or use --device cpu",
        ));
    }
    let counted = result::init().and_then(|()| result::device::get_count());
    match counted {
        Ok(0) | Err(result::DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
            Err(problem("the NVIDIA driver finds no GPU: look with nvidia-smi, or use --device cpu"))
        }
        Ok(count) => Ok(count as usize),
        Err(error) => Err(problem(format!(
            "the NVIDIA driver cannot start ({}): look with nvidia-smi, or use --device cpu",
            name(error)
        ))),
    }
}

impl Cuda {
    /// Whether this program and this machine have what a GPU needs, as far as can be told without opening it.
    pub fn is_available() -> bool {
        count().is_ok()
    }

    /// Opens GPU number `ordinal`.
    ///
    /// # Errors
    /// One sentence: no kernels in this build, no driver, no such GPU, a driver or a GPU too old, no cuBLASLt.
    pub fn new(ordinal: usize) -> Result<Self> {
        let count = count()?;
        if ordinal >= count {
            return Err(problem(format!("there is no GPU {ordinal}: this machine has {count}, numbered from 0")));
        }
        let driver =
            driver_version().map_err(|error| problem(format!("the NVIDIA driver has no version ({})", name(error))))?;
        if driver < CUDA {
            return Err(problem(OLD_DRIVER));
        }
        let refused =
            |error| problem(format!("GPU {ordinal} cannot be opened ({}): look with nvidia-smi", name(error)));
        let context = CudaContext::new(ordinal).map_err(refused)?;
        let stream = context.new_stream().map_err(refused)?;
        // One stream does everything in order: there is nothing to wait for between streams.
        // SAFETY: no cudarc slices, which these events guard, are made.
        unsafe { context.disable_event_tracking() };
        let (major, minor) = context.compute_capability().map_err(refused)?;
        let architecture = (10 * major + minor) as u32;
        let multiprocessors = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(multiprocessors).map_err(refused)? as usize;
        let title = format!("GPU {ordinal} ({}, sm_{architecture})", context.name().map_err(refused)?);
        if architecture < 80 {
            return Err(problem(format!(
                "{title} is too old: compute capability 8.0 or newer is needed; use --device cpu"
            )));
        }
        let blas = Blas::new()?;
        let (modules, pool) = (Modules::default(), Pool::default());
        Ok(Self {
            shared: Arc::new(Shared {
                modules,
                pool,
                staging: Mutex::default(),
                graphs: Graphs::default(),
                blas,
                stream,
                context,
                architecture,
                multiprocessors,
                title,
                driver,
            }),
        })
    }
}

fn driver_version() -> std::result::Result<i32, result::DriverError> {
    let mut version = 0;
    // SAFETY: writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

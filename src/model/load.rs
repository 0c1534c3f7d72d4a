//! Bringing a model folder's weights onto a device, and back to host memory.

use super::{Config, Parameters, Transformer, Weights};
use crate::Result;
use crate::device::cuda::nvtx;
use crate::device::{DType, Tensor};
use crate::ops::Ops;
use std::path::Path;

impl<D: Ops> Transformer<D> {
    /// Loads a model folder. With `dtype` `None` (or equal to a matrix's own) matrices stay mapped in their file's type;
    /// otherwise they are converted. Norms and biases are held in f32, as every op expects them.
    ///
    /// # Errors
    /// Names the file and the tensor that is missing, of the wrong shape, or holds a NaN or an infinity.
    pub fn load(device: D, dir: &Path, dtype: Option<DType>) -> Result<Self> {
        let _range = nvtx::range(c"load");
        let config = Config::load(dir)?;
        let weights = Weights::open(dir)?;
        let parameters = Parameters::build(&config, |name, shape| {
            let [rows, cols] = shape;
            let slice = weights.get(name, shape)?;
            weights.check_finite(name, &slice)?;
            let wanted = if rows == 1 { DType::F32 } else { dtype.unwrap_or(device.held_dtype(slice.dtype)) };
            let stored = slice.dtype;
            let mapped = device.map(slice)?;
            if stored == wanted && rows > 1 {
                return Ok(Tensor::from_buffer(mapped, rows, cols));
            }
            let mut converted = device.alloc(wanted, rows * cols)?;
            device.copy(&mapped, &mut converted)?;
            Ok(Tensor::from_buffer(converted, rows, cols))
        })?;
        Ok(Self { device, config, parameters })
    }

    /// The same model with every parameter in memory of its own (f16 as f32), so that it can be trained.
    pub fn into_owned(self, dtype: Option<DType>) -> Result<Self> {
        let Self { device, config, parameters } = self;
        let mut sources = parameters.iter();
        let parameters = Parameters::build(&config, |_, [rows, cols]| {
            let source = sources.next().expect("parameters are listed in one order");
            let wanted = match dtype.unwrap_or(source.dtype()) {
                DType::BF16 if rows > 1 => DType::BF16,
                _ => DType::F32,
            };
            let mut owned = Tensor::empty(&device, wanted, rows, cols)?;
            device.copy(&source.buffer, &mut owned.buffer)?;
            Ok(owned)
        })?;
        Ok(Self { device, config, parameters })
    }

    /// An independent copy with the same values.
    pub fn try_clone(&self) -> Result<Self> {
        let mut sources = self.parameters.iter();
        let parameters = Parameters::build(&self.config, |_, [rows, cols]| {
            let source = sources.next().expect("parameters are listed in one order");
            let mut copy = Tensor::empty(&self.device, source.dtype(), rows, cols)?;
            self.device.copy(&source.buffer, &mut copy.buffer)?;
            Ok(copy)
        })?;
        Ok(Self { device: self.device.clone(), config: self.config.clone(), parameters })
    }

    /// Number of parameters; a tied unembedding counts once.
    pub fn num_parameters(&self) -> usize {
        self.parameters.iter().map(Tensor::len).sum()
    }
}

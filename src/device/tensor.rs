//! A row-major matrix in device memory.

use super::{Backend, DType};
use crate::Result;

/// A row-major `[rows, cols]` matrix on device `D`. Vectors are `[1, n]`.
pub struct Tensor<D: Backend> {
    rows: usize,
    cols: usize,
    pub buffer: D::Buffer,
}

impl<D: Backend> Tensor<D> {
    /// A matrix whose contents are unspecified.
    pub fn empty(device: &D, dtype: DType, rows: usize, cols: usize) -> Result<Self> {
        Ok(Self { rows, cols, buffer: device.alloc(dtype, rows * cols)? })
    }

    /// A matrix of zeros.
    pub fn zeros(device: &D, dtype: DType, rows: usize, cols: usize) -> Result<Self> {
        let mut tensor = Self::empty(device, dtype, rows, cols)?;
        device.fill(&mut tensor.buffer, 0.0)?;
        Ok(tensor)
    }

    /// A matrix from host values.
    ///
    /// # Panics
    /// If `values.len() != rows * cols`.
    pub fn from_slice(device: &D, dtype: DType, rows: usize, cols: usize, values: &[f32]) -> Result<Self> {
        assert_eq!(values.len(), rows * cols, "from_slice: value count is not rows * cols");
        Ok(Self { rows, cols, buffer: device.upload(dtype, values)? })
    }

    /// Wraps an existing buffer of `rows * cols` elements.
    pub fn from_buffer(buffer: D::Buffer, rows: usize, cols: usize) -> Self {
        Self { rows, cols, buffer }
    }

    /// An uninitialised matrix of the same shape and dtype.
    pub fn empty_like(&self, device: &D) -> Result<Self> {
        Self::empty(device, self.dtype(), self.rows, self.cols)
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn dtype(&self) -> DType {
        D::dtype(&self.buffer)
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// All elements as f32 on the host.
    pub fn to_vec(&self, device: &D) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.len()];
        device.download(&self.buffer, &mut values)?;
        Ok(values)
    }

    /// Sets every element to zero.
    pub fn zero(&mut self, device: &D) -> Result<()> {
        device.fill(&mut self.buffer, 0.0)
    }
}

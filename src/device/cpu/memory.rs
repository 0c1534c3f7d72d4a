//! Host memory: pooled vectors and windows on mapped files, each of one dtype.

use crate::device::{DType, MappedSlice};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Freed vectors by (element size, length), so that a steady state allocates nothing.
#[derive(Default)]
pub(super) struct Pool {
    free_f32: Mutex<HashMap<usize, Vec<Vec<f32>>>>,
    free_u16: Mutex<HashMap<usize, Vec<Vec<u16>>>>,
}

fn take<T: Clone + Default>(free: &Mutex<HashMap<usize, Vec<Vec<T>>>>, len: usize) -> Vec<T> {
    let reused = free.lock().expect("pool lock").get_mut(&len).and_then(Vec::pop);
    reused.unwrap_or_else(|| vec![T::default(); len])
}

fn put<T>(free: &Mutex<HashMap<usize, Vec<Vec<T>>>>, vector: Vec<T>) {
    free.lock().expect("pool lock").entry(vector.len()).or_default().push(vector);
}

impl Pool {
    pub(super) fn alloc(self: &Arc<Self>, dtype: DType, len: usize) -> Buffer {
        let storage = match dtype {
            DType::F32 => Storage::F32(take(&self.free_f32, len)),
            DType::BF16 | DType::F16 => Storage::Half(dtype, take(&self.free_u16, len)),
        };
        Buffer { storage, pool: Arc::clone(self) }
    }
}

enum Storage {
    F32(Vec<f32>),
    /// bf16 or f16 bits.
    Half(DType, Vec<u16>),
    /// Read-only; the slice is aligned for its dtype.
    Mapped(MappedSlice),
}

/// CPU memory of one dtype, returned to its pool on drop.
pub struct Buffer {
    storage: Storage,
    pool: Arc<Pool>,
}

/// A borrowed look at a [`Buffer`].
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    F32(&'a [f32]),
    BF16(&'a [bf16]),
    F16(&'a [f16]),
}

impl<'a> View<'a> {
    /// Number of elements.
    pub fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::BF16(values) => values.len(),
            Self::F16(values) => values.len(),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The elements `range` of this view.
    pub fn slice(self, range: std::ops::Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[range]),
            Self::BF16(values) => Self::BF16(&values[range]),
            Self::F16(values) => Self::F16(&values[range]),
        }
    }

    /// Writes all elements, widened to f32, into `target` (same length).
    pub fn widen(self, target: &mut [f32]) {
        match self {
            Self::F32(values) => target.copy_from_slice(values),
            Self::BF16(values) => values.convert_to_f32_slice(target),
            Self::F16(values) => values.convert_to_f32_slice(target),
        }
    }

    /// The f32 elements.
    ///
    /// # Panics
    /// If the view is not f32.
    pub fn f32(self) -> &'a [f32] {
        match self {
            Self::F32(values) => values,
            _ => panic!("expected an f32 buffer"),
        }
    }
}

impl Buffer {
    pub(super) fn map(slice: MappedSlice, pool: &Arc<Pool>) -> Self {
        let aligned = slice.bytes().as_ptr().addr().is_multiple_of(slice.dtype.size());
        if aligned {
            return Self { storage: Storage::Mapped(slice), pool: Arc::clone(pool) };
        }
        let mut buffer = pool.alloc(slice.dtype, slice.len);
        match &mut buffer.storage {
            Storage::F32(values) => bytemuck::cast_slice_mut(values).copy_from_slice(slice.bytes()),
            Storage::Half(_, bits) => bytemuck::cast_slice_mut(bits).copy_from_slice(slice.bytes()),
            Storage::Mapped(_) => unreachable!("alloc never maps"),
        }
        buffer
    }

    pub fn dtype(&self) -> DType {
        match &self.storage {
            Storage::F32(_) => DType::F32,
            Storage::Half(dtype, _) => *dtype,
            Storage::Mapped(slice) => slice.dtype,
        }
    }

    /// A read-only look at the elements.
    pub fn view(&self) -> View<'_> {
        let (dtype, bytes): (DType, &[u8]) = match &self.storage {
            Storage::F32(values) => return View::F32(values),
            Storage::Half(dtype, bits) => (*dtype, bytemuck::cast_slice(bits)),
            Storage::Mapped(slice) => (slice.dtype, slice.bytes()),
        };
        match dtype {
            DType::F32 => View::F32(bytemuck::cast_slice(bytes)),
            DType::BF16 => View::BF16(bytemuck::cast_slice(bytes)),
            DType::F16 => View::F16(bytemuck::cast_slice(bytes)),
        }
    }

    /// The f32 elements.
    ///
    /// # Panics
    /// If the buffer is not f32.
    pub fn f32(&self) -> &[f32] {
        self.view().f32()
    }

    /// The f32 elements, writable.
    ///
    /// # Panics
    /// If the buffer is not f32, or is mapped from a file.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::F32(values) => values,
            _ => panic!("expected an owned f32 buffer"),
        }
    }

    pub(super) fn write(&mut self, values: &[f32]) {
        match &mut self.storage {
            Storage::F32(target) => target.copy_from_slice(values),
            Storage::Half(DType::BF16, bits) => {
                bytemuck::cast_slice_mut::<u16, bf16>(bits).convert_from_f32_slice(values);
            }
            Storage::Half(_, bits) => bytemuck::cast_slice_mut::<u16, f16>(bits).convert_from_f32_slice(values),
            Storage::Mapped(_) => panic!("a mapped buffer is read-only"),
        }
    }

    pub(super) fn fill(&mut self, value: f32) {
        match &mut self.storage {
            Storage::F32(target) => target.fill(value),
            Storage::Half(DType::BF16, bits) => bits.fill(bf16::from_f32(value).to_bits()),
            Storage::Half(_, bits) => bits.fill(f16::from_f32(value).to_bits()),
            Storage::Mapped(_) => panic!("a mapped buffer is read-only"),
        }
    }

    pub(super) fn copy_from(&mut self, source: View<'_>) {
        match (&mut self.storage, source) {
            (Storage::F32(target), _) => source.widen(target),
            (_, View::F32(values)) => self.write(values),
            (Storage::Half(DType::BF16, bits), View::BF16(values)) => {
                bytemuck::cast_slice_mut::<u16, bf16>(bits).copy_from_slice(values);
            }
            (Storage::Half(DType::F16, bits), View::F16(values)) => {
                bytemuck::cast_slice_mut::<u16, f16>(bits).copy_from_slice(values);
            }
            _ => {
                let mut wide = vec![0.0; source.len()];
                source.widen(&mut wide);
                self.write(&wide);
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.storage, Storage::F32(Vec::new())) {
            Storage::F32(values) if !values.is_empty() => put(&self.pool.free_f32, values),
            Storage::Half(_, bits) if !bits.is_empty() => put(&self.pool.free_u16, bits),
            _ => {}
        }
    }
}

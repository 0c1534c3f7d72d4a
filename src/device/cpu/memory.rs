//! Host memory: pooled vectors and windows on mapped files, each of one dtype.

use crate::device::{DType, MappedSlice};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Elements that a task copies.
const PART: usize = 64 * 1024;

/// Freed vectors by length, so that a steady state allocates nothing.
///
/// Lengths are rounded up to a quarter of their power of two and a freed vector serves requests down to half its length,
/// because ragged batches ask for a new length every step. What is kept and in use together stays within
/// [`Pool::SLACK`] times the most that was ever in use at once: where a new vector does not fit in that, any longer one
/// serves, and where there is none, shorter ones of its type make way.
///
/// Requests that repeat are served from what is kept in the end: vectors of the greatest length are never given up and
/// are at most as many as are in use at once, so from some time on no more come; then the same holds of the next length.
#[derive(Default)]
pub(super) struct Pool {
    shelves: Mutex<Shelves>,
}

#[derive(Default)]
struct Shelves {
    f32: BTreeMap<usize, Vec<Vec<f32>>>,
    half: BTreeMap<usize, Vec<Vec<u16>>>,
    /// Bytes handed out, the most there ever were, and bytes kept.
    used: usize,
    peak: usize,
    kept: usize,
}

/// Bytes of a cache line, where buffers start: a register of 64 bytes that straddles two lines takes two loads.
const LINE: usize = 64;

/// The first `len` elements from a cache line's start on.
fn aligned<T>(vector: &[T], len: usize) -> &[T] {
    let start = vector.as_ptr().align_offset(LINE);
    &vector[start..start + len]
}

/// [`aligned`], writable.
fn aligned_mut<T>(vector: &mut [T], len: usize) -> &mut [T] {
    let start = vector.as_ptr().align_offset(LINE);
    &mut vector[start..start + len]
}

/// `len` rounded up to a quarter of its power of two.
fn rounded(len: usize) -> usize {
    len.next_multiple_of((len.next_power_of_two() / 8).max(16))
}

impl Shelves {
    fn take<T: Clone + Default>(
        &mut self,
        shelf: fn(&mut Self) -> &mut BTreeMap<usize, Vec<Vec<T>>>,
        len: usize,
    ) -> Vec<T> {
        let wanted = rounded(len) + LINE / size_of::<T>();
        let size = |vector: &Vec<T>| vector.len() * size_of::<T>();
        let budget = Pool::SLACK * self.peak.max(self.used + wanted * size_of::<T>()) as f64;
        let fits = |shelves: &Self| (shelves.used + shelves.kept + wanted * size_of::<T>()) as f64 <= budget;
        let mut found = shelf(self).range_mut(wanted..=2 * wanted).find_map(|(_, vectors)| vectors.pop());
        if found.is_none() && !fits(self) {
            found = shelf(self).range_mut(2 * wanted + 1..).find_map(|(_, vectors)| vectors.pop());
        }
        let vector = match found {
            Some(vector) => {
                self.kept -= size(&vector);
                vector
            }
            None => {
                while !fits(self)
                    && let Some(shorter) = shelf(self).values_mut().rev().find_map(Vec::pop)
                {
                    self.kept -= size(&shorter);
                }
                vec![T::default(); wanted]
            }
        };
        self.used += size(&vector);
        self.peak = self.peak.max(self.used);
        vector
    }

    fn put<T>(&mut self, shelf: fn(&mut Self) -> &mut BTreeMap<usize, Vec<Vec<T>>>, vector: Vec<T>) {
        let size = vector.len() * size_of::<T>();
        self.used -= size;
        self.kept += size;
        shelf(self).entry(vector.len()).or_default().push(vector);
    }
}

impl Pool {
    /// Memory kept and in use together, over the most ever in use.
    const SLACK: f64 = 1.25;

    fn shelves(&self) -> std::sync::MutexGuard<'_, Shelves> {
        self.shelves.lock().expect("no thread panics with the pool in hand")
    }

    /// Bytes in use at once, at most, so far.
    pub(super) fn peak(&self) -> usize {
        self.shelves().peak
    }

    pub(super) fn alloc(self: &Arc<Self>, dtype: DType, len: usize) -> Buffer {
        let storage = match dtype {
            _ if len == 0 => Storage::F32(Vec::new()),
            DType::F32 => Storage::F32(self.shelves().take(|shelves| &mut shelves.f32, len)),
            DType::BF16 | DType::F16 => Storage::Half(self.shelves().take(|shelves| &mut shelves.half, len)),
        };
        Buffer { storage, dtype, len, pool: Arc::clone(self) }
    }
}

/// Vectors are longer than the buffer, which starts at a cache line of theirs.
enum Storage {
    F32(Vec<f32>),
    /// bf16 or f16 bits.
    Half(Vec<u16>),
    /// Read-only; the slice is aligned for its dtype.
    Mapped(MappedSlice),
}

/// CPU memory of one dtype, returned to its pool on drop.
pub struct Buffer {
    storage: Storage,
    dtype: DType,
    len: usize,
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

    /// Address of the first element.
    #[cfg(test)]
    fn as_ptr(self) -> *const u8 {
        match self {
            Self::F32(values) => values.as_ptr().cast(),
            Self::BF16(values) => values.as_ptr().cast(),
            Self::F16(values) => values.as_ptr().cast(),
        }
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
        let (dtype, len) = (slice.dtype, slice.len);
        if slice.bytes().as_ptr().addr().is_multiple_of(dtype.size()) {
            return Self { storage: Storage::Mapped(slice), dtype, len, pool: Arc::clone(pool) };
        }
        let mut buffer = pool.alloc(dtype, len);
        match &mut buffer.storage {
            Storage::F32(values) => bytemuck::cast_slice_mut(aligned_mut(values, len)).copy_from_slice(slice.bytes()),
            Storage::Half(bits) => bytemuck::cast_slice_mut(aligned_mut(bits, len)).copy_from_slice(slice.bytes()),
            Storage::Mapped(_) => unreachable!("alloc never maps"),
        }
        buffer
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// A read-only look at the elements.
    pub fn view(&self) -> View<'_> {
        let bytes: &[u8] = match &self.storage {
            // An empty slice of bytes is not aligned for anything.
            _ if self.len == 0 => {
                return match self.dtype {
                    DType::F32 => View::F32(&[]),
                    DType::BF16 => View::BF16(&[]),
                    DType::F16 => View::F16(&[]),
                };
            }
            Storage::F32(values) => return View::F32(aligned(values, self.len)),
            Storage::Half(bits) => bytemuck::cast_slice(aligned(bits, self.len)),
            Storage::Mapped(slice) => slice.bytes(),
        };
        match self.dtype {
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
            _ if self.len == 0 => &mut [],
            Storage::F32(values) if self.dtype == DType::F32 => aligned_mut(values, self.len),
            _ => panic!("expected an owned f32 buffer"),
        }
    }

    /// The bf16 elements, writable.
    ///
    /// # Panics
    /// If the buffer is not bf16, or is mapped from a file.
    pub fn bf16_mut(&mut self) -> &mut [bf16] {
        match self.dtype {
            _ if self.len == 0 => &mut [],
            DType::BF16 => bytemuck::cast_slice_mut(self.bits_mut()),
            _ => panic!("expected an owned bf16 buffer"),
        }
    }

    /// The elements as bf16 or f16 bits, writable.
    fn bits_mut(&mut self) -> &mut [u16] {
        match &mut self.storage {
            Storage::Half(bits) => aligned_mut(bits, self.len),
            _ => panic!("expected an owned half-precision buffer"),
        }
    }

    pub(super) fn write(&mut self, values: &[f32]) {
        match self.dtype {
            _ if self.len == 0 => assert!(values.is_empty(), "as many values as elements"),
            DType::F32 => self.f32_mut().copy_from_slice(values),
            DType::BF16 => bytemuck::cast_slice_mut::<u16, bf16>(self.bits_mut()).convert_from_f32_slice(values),
            DType::F16 => bytemuck::cast_slice_mut::<u16, f16>(self.bits_mut()).convert_from_f32_slice(values),
        }
    }

    pub(super) fn fill(&mut self, value: f32) {
        match self.dtype {
            _ if self.len == 0 => {}
            DType::F32 => self.f32_mut().fill(value),
            DType::BF16 => self.bits_mut().fill(bf16::from_f32(value).to_bits()),
            DType::F16 => self.bits_mut().fill(f16::from_f32(value).to_bits()),
        }
    }

    pub(super) fn copy_from(&mut self, source: View<'_>) {
        match (self.dtype, source) {
            _ if self.len == 0 => assert!(source.is_empty(), "as many values as elements"),
            (DType::F32, View::F32(values)) => {
                let parts = self.f32_mut().par_chunks_mut(PART).zip(values.par_chunks(PART));
                parts.for_each(|(target, source)| target.copy_from_slice(source));
            }
            (DType::F32, _) => source.widen(self.f32_mut()),
            (_, View::F32(values)) => self.write(values),
            (DType::BF16, View::BF16(values)) => self.bits_mut().copy_from_slice(bytemuck::cast_slice(values)),
            (DType::F16, View::F16(values)) => self.bits_mut().copy_from_slice(bytemuck::cast_slice(values)),
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
            Storage::F32(values) if !values.is_empty() => self.pool.shelves().put(|shelves| &mut shelves.f32, values),
            Storage::Half(bits) if !bits.is_empty() => self.pool.shelves().put(|shelves| &mut shelves.half, bits),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ragged_sizes_do_not_pile_up() {
        let pool = Arc::new(Pool::default());
        let mut most = 0;
        for step in 0..2000 {
            let sizes = [1000 + step * 37 % 977, 500 + step * 91 % 301, 3 * (1000 + step * 37 % 977)];
            let buffers = sizes.map(|len| pool.alloc(DType::F32, len));
            assert!(buffers.iter().zip(sizes).all(|(buffer, len)| buffer.f32().len() == len));
            let shelves = pool.shelves();
            most = most.max(shelves.used + shelves.kept);
        }
        // Three buffers of at most 1976 + 800 + 5928 elements, rounded up and served from up to twice the size.
        assert!(most <= 2 * 5 * 4 * (1976 + 800 + 5928) / 4, "{most} bytes");
    }

    /// Phases of very different sizes, as micro-batches have them, that together do not fit in the slack.
    #[test]
    fn repeated_requests_are_served_from_what_is_kept() {
        let pool = Arc::new(Pool::default());
        let step = || {
            for scale in [4000, 900, 17, 2600] {
                let held: Vec<Buffer> = (1..9).map(|i| pool.alloc(DType::F32, scale * i / 3)).collect();
                drop(held);
                let held: Vec<Buffer> = (1..5).map(|i| pool.alloc(DType::F32, scale * i)).collect();
                drop(held);
            }
        };
        // What is kept changes only where something new comes or makes way.
        let kept = || {
            let shelves = pool.shelves();
            assert!((shelves.used + shelves.kept) as f64 <= Pool::SLACK * shelves.peak as f64);
            shelves.f32.iter().map(|(&len, vectors)| (len, vectors.len())).collect::<Vec<_>>()
        };
        (0..20).for_each(|_| step());
        let settled = kept();
        (0..20).for_each(|_| step());
        assert_eq!(kept(), settled);
    }

    #[test]
    fn buffers_start_at_cache_lines() {
        let pool = Arc::new(Pool::default());
        for len in (1..200).chain([5000, 1 << 20]) {
            for dtype in [DType::F32, DType::BF16] {
                let mut buffer = pool.alloc(dtype, len);
                buffer.fill(1.0);
                assert_eq!(buffer.view().len(), len);
                assert!(buffer.view().as_ptr().addr().is_multiple_of(LINE), "{len} of {dtype:?}");
            }
        }
    }

    #[test]
    fn a_freed_buffer_is_handed_out_again() {
        let pool = Arc::new(Pool::default());
        let first = pool.alloc(DType::BF16, 1000).view().as_ptr();
        assert_eq!(first, pool.alloc(DType::F16, 990).view().as_ptr());
    }
}

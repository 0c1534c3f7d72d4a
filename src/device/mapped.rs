//! A typed window on a memory-mapped file, shared by reference count.

use super::DType;
use memmap2::Mmap;
use std::sync::Arc;

/// `len` elements of `dtype` starting `offset` bytes into a mapped file. The mapping lives as long as any slice of it.
#[derive(Clone)]
pub struct MappedSlice {
    pub map: Arc<Mmap>,
    /// Byte offset of the first element.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
    pub dtype: DType,
}

impl MappedSlice {
    /// The raw bytes (little endian).
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.offset..self.offset + self.len * self.dtype.size()]
    }
}

//! Device memory: every allocation has its own 64 GiB of addresses, (buffer + 1) << 36 | offset, so that an access out of
//! bounds can never land in a neighbour, and a freed allocation's addresses are never used again.

mod buffer;

pub use buffer::Buffer;
use std::sync::Arc;

pub const SHIFT: u32 = crate::ptx::decode::WINDOW_SHIFT;
const OFFSET: u64 = (1 << SHIFT) - 1;

/// All live allocations; a launch works on a copy, which costs one reference a buffer.
#[derive(Clone, Default)]
pub struct Table {
    buffers: Vec<Option<Arc<Buffer>>>,
    used: u64,
}

impl Table {
    /// Allocates and gives the address.
    pub fn allocate(&mut self, bytes: u64) -> u64 {
        self.buffers.push(Some(Arc::new(Buffer::new(bytes))));
        self.used += bytes;
        (self.buffers.len() as u64) << SHIFT
    }

    /// Whether `address` began a live allocation, which is gone now.
    pub fn free(&mut self, address: u64) -> bool {
        let Some((buffer, 0)) = self.find(address) else { return false };
        self.used -= buffer.len();
        self.buffers[(address >> SHIFT) as usize - 1] = None;
        true
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn live(&self) -> impl Iterator<Item = &Arc<Buffer>> {
        self.buffers.iter().flatten()
    }

    /// The allocation an address lies in and the offset there; the offset may be past its end.
    #[inline]
    pub fn find(&self, address: u64) -> Option<(&Arc<Buffer>, u64)> {
        let index = (address >> SHIFT).checked_sub(1)?;
        Some((self.buffers.get(index as usize)?.as_ref()?, address & OFFSET))
    }

    /// The same for `bytes` that must all lie inside.
    #[inline]
    pub fn range(&self, address: u64, bytes: u64) -> Option<(&Arc<Buffer>, u64)> {
        self.find(address).filter(|(buffer, offset)| offset.checked_add(bytes).is_some_and(|end| end <= buffer.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_find_their_buffer_and_nothing_else() {
        let mut table = Table::default();
        let (a, b) = (table.allocate(100), table.allocate(8));
        assert_eq!(table.range(a + 4, 96).map(|(_, offset)| offset), Some(4));
        assert!(table.range(a + 4, 97).is_none());
        assert!(table.range(b, 8).is_some() && table.find(0).is_none() && table.find(7).is_none());
        assert!(table.free(a) && !table.free(a) && !table.free(b + 4));
        assert!(table.find(a).is_none());
        assert_ne!(table.allocate(100), a);
        assert_eq!(table.used(), 108);
    }
}

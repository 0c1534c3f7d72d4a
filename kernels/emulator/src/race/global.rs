//! Races between the blocks of one launch on global memory.
//!
//! A cell a word holds the launch, the last writing block with the bytes it wrote, and the reading block (or "several")
//! with the bytes read. Two blocks touching the same byte, one writing, race, unless both access it atomically or the
//! later one has acquired the earlier: a fence and an atomic by the first, an atomic on the same address by the second.
//! Only one writer is remembered: of two blocks that wrote different bytes of a word the later. So a race can be missed
//! where words are split, but none is invented.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The reading block when several read; the writer when atomics wrote.
const SEVERAL: u64 = (1 << 20) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Read,
    Write,
    /// An atomic, volatile or ordered access: no race with its like.
    Atomic,
}

/// Whom an access raced with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other block's linear index, where one is known.
    pub other: Option<u32>,
    pub wrote: bool,
}

/// Blocks that happened before, a bit each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockSet(Vec<u64>);

impl BlockSet {
    fn insert(&mut self, block: u32) {
        let at = block as usize / 64;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (block % 64);
    }

    fn union(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    fn contains(&self, block: u32) -> bool {
        self.0.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What blocks published at each address by an atomic after a fence.
#[derive(Default)]
pub struct Published(Mutex<HashMap<u64, BlockSet>>);

impl Published {
    /// An atomic of `block` on `address`: it learns what is published there and, after a fence, publishes itself.
    pub fn atomic(&self, address: u64, block: u32, fenced: bool, acquired: &mut BlockSet) {
        let mut published = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(set) = published.get(&address) {
            acquired.union(set);
        }
        if fenced {
            let set = published.entry(address).or_default();
            set.insert(block);
            set.union(acquired);
        }
    }
}

/// Blocks beyond 2^20 - 2 share numbers: a race between two of the same number is missed.
fn number(block: u32) -> u64 {
    u64::from(block) % (SEVERAL - 1) + 1
}

/// Records an access of `block` to the bytes `mask` of a word, in launch `epoch` (not 0), and tells whom it races with.
#[inline]
pub fn touch(
    cell: &AtomicU64,
    epoch: u16,
    block: u32,
    mask: u32,
    touch: Touch,
    acquired: &BlockSet,
) -> Option<Conflict> {
    let me = number(block);
    let mut old = cell.load(Relaxed);
    loop {
        let fresh = if old >> 48 == u64::from(epoch) { old } else { u64::from(epoch) << 48 };
        let (writer, wrote) = (fresh >> 28 & SEVERAL, fresh as u32 >> 24 & 15);
        let (reader, read) = (fresh >> 4 & SEVERAL, fresh as u32 & 15);
        let new = match touch {
            Touch::Read => {
                let reader = if read == 0 || reader == me { me } else { SEVERAL };
                fresh & !(SEVERAL << 4) | reader << 4 | u64::from(mask)
            }
            _ => {
                let by = if touch == Touch::Atomic { SEVERAL } else { me };
                let bytes = if writer == by { wrote | mask } else { mask };
                fresh & !((SEVERAL << 4 | 15) << 24) | by << 28 | u64::from(bytes) << 24
            }
        };
        if new != old
            && let Err(now) = cell.compare_exchange_weak(old, new, Relaxed, Relaxed)
        {
            old = now;
            continue;
        }
        let ordered =
            |other: u64| if other == SEVERAL { !acquired.is_empty() } else { acquired.contains(other as u32 - 1) };
        let known = |other: u64| (other != SEVERAL).then(|| other as u32 - 1);
        let both_atomic = touch == Touch::Atomic && writer == SEVERAL;
        if wrote & mask != 0 && writer != me && !both_atomic && !ordered(writer) {
            return Some(Conflict { other: known(writer), wrote: true });
        }
        if touch != Touch::Read && read & mask != 0 && reader != me && !ordered(reader) {
            return Some(Conflict { other: known(reader), wrote: false });
        }
        return None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(accesses: &[(u16, u32, u32, Touch)]) -> Vec<bool> {
        let cell = AtomicU64::new(0);
        let none = BlockSet::default();
        accesses
            .iter()
            .map(|&(epoch, block, mask, kind)| touch(&cell, epoch, block, mask, kind, &none).is_some())
            .collect()
    }

    #[test]
    fn blocks_race_on_the_same_bytes_of_one_launch_only() {
        use Touch::*;
        assert_eq!(run(&[(1, 0, 15, Write), (1, 0, 15, Read), (1, 1, 15, Read)]), [false, false, true]);
        assert_eq!(run(&[(1, 0, 15, Write), (2, 1, 15, Read)]), [false, false]);
        assert_eq!(run(&[(1, 0, 3, Write), (1, 1, 12, Write), (1, 1, 12, Read)]), [false, false, false]);
        assert_eq!(run(&[(1, 0, 15, Read), (1, 1, 15, Read), (1, 0, 15, Write)]), [false, false, true]);
        assert_eq!(run(&[(1, 0, 15, Atomic), (1, 1, 15, Atomic), (1, 2, 15, Read)]), [false, false, true]);
    }

    #[test]
    fn a_fence_and_atomics_order_two_blocks() {
        let (cell, published) = (AtomicU64::new(0), Published::default());
        let (mut first, mut second) = (BlockSet::default(), BlockSet::default());
        assert_eq!(touch(&cell, 1, 0, 15, Touch::Write, &first), None);
        published.atomic(8, 0, true, &mut first);
        published.atomic(8, 1, true, &mut second);
        assert_eq!(touch(&cell, 1, 1, 15, Touch::Read, &second), None);
        assert!(touch(&cell, 1, 2, 15, Touch::Read, &BlockSet::default()).is_some());
    }
}

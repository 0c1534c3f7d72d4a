//! Races between the blocks of one launch on global memory.
//!
//! A cell a word holds the launch, the last writing block with the bytes it wrote, and the reading block (or "several")
//! with the bytes read. Two blocks touching the same byte, one writing, race, unless both access it atomically or the
//! later one has acquired the earlier: a fence and an atomic by the first, an atomic on the same address by the second.
//! Only one writer is remembered: of two blocks that wrote different bytes of a word the later. So a race can be missed
//! where words are split, but none is invented.
//!
//! A second cell a word holds the warp and its clock of the last write and of the last read: two warps of one block
//! touching the same word, one writing, race unless a barrier lies between. It counts only where the first cell says that
//! this block and no other made that access.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The block where several read, or several wrote by atomics.
const SEVERAL: u64 = (1 << 19) - 1;
/// Set beside the writing block where it wrote by an atomic.
const ATOMIC: u64 = 1 << 19;
/// The bits of a block in a cell, and of the flag.
const FIELD: u64 = (1 << 20) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Read,
    Write,
    /// An atomic, volatile or ordered access: no race with its like.
    Atomic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// A block's linear index.
    Block(u32),
    Blocks,
    /// A warp of the same block.
    Warp(u8),
}

/// Whom an access raced with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub other: Other,
    pub wrote: bool,
}

/// Who accesses, and what it knows of the others.
pub struct Who<'a> {
    /// The launch; not 0.
    pub epoch: u16,
    pub block: u32,
    pub acquired: &'a BlockSet,
    pub warp: u8,
    pub clock: u32,
    /// The clock of each warp of the block as far as this one has synchronised with it.
    pub known: &'a [u32; 32],
}

/// The cells of one word; the second is made when a kernel first writes in its page.
#[derive(Clone, Copy)]
pub struct Cells<'a> {
    pub blocks: &'a AtomicU64,
    pub warps: Option<&'a AtomicU64>,
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

/// Blocks beyond 2^19 - 2 share numbers: a race between two of the same number is missed.
fn number(block: u32) -> u64 {
    u64::from(block) % (SEVERAL - 1) + 1
}

impl Who<'_> {
    /// Between warps of this block. Half a cell is the clock's 23 bits, the warp's 5 and the bytes: the last write above,
    /// the last read below. `writer` and `reader` tell which halves are this block's.
    fn inside(&self, cell: &AtomicU64, mask: u32, read: bool, writer: bool, reader: bool) -> Option<Conflict> {
        let old = cell.load(Relaxed);
        let (last_write, last_read) = ((old >> 32) as u32, old as u32);
        let own = (self.clock & 0x7f_ffff) << 9 | u32::from(self.warp) << 4 | mask;
        let together = |half: u32, ours: bool| if ours && (half ^ own) >> 4 == 0 { half | own } else { own };
        // Not one atomic step: blocks that meet here race, and are told so by the first cell.
        let new = match read {
            true => u64::from(last_write) << 32 | u64::from(together(last_read, reader)),
            false => u64::from(together(last_write, writer)) << 32 | u64::from(last_read),
        };
        cell.store(new, Relaxed);
        let races = |half: u32, ours: bool| {
            let warp = half >> 4 & 31;
            ours && half & mask != 0 && warp != u32::from(self.warp) && half >> 9 > self.known[warp as usize]
        };
        let with = |half: u32, wrote| Some(Conflict { other: Other::Warp((half >> 4 & 31) as u8), wrote });
        if races(last_write, writer) {
            return with(last_write, true);
        }
        if !read && races(last_read, reader) { with(last_read, false) } else { None }
    }

    /// Records an access to the bytes `mask` of a word and tells whom it races with.
    #[inline]
    pub fn touch(&self, cells: Cells, mask: u32, touch: Touch) -> Option<Conflict> {
        let old = cells.blocks.load(Relaxed);
        // What is only read costs one look.
        let read_by = |block: u64| u64::from(self.epoch) << 48 | block << 4 | 15;
        let quiet = old == read_by(SEVERAL) || cells.warps.is_none() && old == read_by(number(self.block));
        if touch == Touch::Read && quiet {
            return None;
        }
        self.record(cells, old, mask, touch)
    }

    fn record(&self, cells: Cells, mut old: u64, mask: u32, touch: Touch) -> Option<Conflict> {
        let me = number(self.block);
        loop {
            let fresh = if old >> 48 == u64::from(self.epoch) { old } else { u64::from(self.epoch) << 48 };
            let (writer, wrote) = (fresh >> 28 & FIELD, fresh as u32 >> 24 & 15);
            let (reader, read) = (fresh >> 4 & FIELD, fresh as u32 & 15);
            let new = match touch {
                Touch::Read => {
                    let reader = if read == 0 || reader == me { me } else { SEVERAL };
                    fresh & !(FIELD << 4) | reader << 4 | u64::from(mask)
                }
                _ => {
                    let together = writer & ATOMIC != 0 && writer != ATOMIC | me;
                    let by = match touch {
                        Touch::Atomic if together => ATOMIC | SEVERAL,
                        Touch::Atomic => ATOMIC | me,
                        _ => me,
                    };
                    let bytes = if writer == by || together { wrote | mask } else { mask };
                    fresh & !((FIELD << 4 | 15) << 24) | by << 28 | u64::from(bytes) << 24
                }
            };
            if new != old
                && let Err(now) = cells.blocks.compare_exchange_weak(old, new, Relaxed, Relaxed)
            {
                old = now;
                continue;
            }
            let ordered = |other: u64| {
                if other == SEVERAL { !self.acquired.is_empty() } else { self.acquired.contains(other as u32 - 1) }
            };
            let known = |other: u64| if other == SEVERAL { Other::Blocks } else { Other::Block(other as u32 - 1) };
            let (block, atomic) = (writer & SEVERAL, writer & ATOMIC != 0);
            if wrote & mask != 0 && block != me && !(atomic && touch == Touch::Atomic) && !ordered(block) {
                return Some(Conflict { other: known(block), wrote: true });
            }
            if touch != Touch::Read && read & mask != 0 && reader != me && !ordered(reader) {
                return Some(Conflict { other: known(reader), wrote: false });
            }
            return match cells.warps {
                Some(cell) if touch != Touch::Atomic => {
                    self.inside(cell, mask, touch == Touch::Read, writer == me, reader == me)
                }
                _ => None,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who<'a>(epoch: u16, block: u32, acquired: &'a BlockSet, known: &'a [u32; 32]) -> Who<'a> {
        Who { epoch, block, acquired, warp: 0, clock: 1, known }
    }

    fn run(accesses: &[(u16, u32, u32, Touch)]) -> Vec<bool> {
        let (cell, none) = (AtomicU64::new(0), BlockSet::default());
        let touch = |&(epoch, block, mask, kind): &(u16, u32, u32, Touch)| {
            let cells = Cells { blocks: &cell, warps: None };
            who(epoch, block, &none, &[0; 32]).touch(cells, mask, kind).is_some()
        };
        accesses.iter().map(touch).collect()
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
    fn a_block_may_read_what_only_its_own_atomics_wrote() {
        use Touch::*;
        assert_eq!(run(&[(1, 3, 15, Atomic), (1, 3, 15, Read), (1, 3, 15, Write)]), [false, false, false]);
        assert_eq!(run(&[(1, 3, 15, Atomic), (1, 4, 15, Atomic), (1, 4, 15, Read)]), [false, false, true]);
        assert_eq!(run(&[(1, 3, 15, Write), (1, 4, 15, Atomic)]), [false, true]);
    }

    #[test]
    fn a_fence_and_atomics_order_two_blocks() {
        let (cell, published, known) = (AtomicU64::new(0), Published::default(), [0; 32]);
        let cells = Cells { blocks: &cell, warps: None };
        let (mut first, mut second) = (BlockSet::default(), BlockSet::default());
        assert_eq!(who(1, 0, &first, &known).touch(cells, 15, Touch::Write), None);
        published.atomic(8, 0, true, &mut first);
        published.atomic(8, 1, true, &mut second);
        assert_eq!(who(1, 1, &second, &known).touch(cells, 15, Touch::Read), None);
        assert!(who(1, 2, &BlockSet::default(), &known).touch(cells, 15, Touch::Read).is_some());
    }

    #[test]
    fn warps_of_a_block_race_until_they_know_each_other() {
        let (blocks, warps, none) = (AtomicU64::new(0), AtomicU64::new(0), BlockSet::default());
        let touch = |warp: u8, clock: u32, knows: (usize, u32), kind: Touch| {
            let mut known = [0; 32];
            known[knows.0] = knows.1;
            let who = Who { epoch: 1, block: 5, acquired: &none, warp, clock, known: &known };
            let conflict = who.touch(Cells { blocks: &blocks, warps: Some(&warps) }, 15, kind);
            conflict.map(|conflict| (conflict.other, conflict.wrote))
        };
        use Touch::*;
        assert_eq!(touch(1, 1, (1, 0), Write), None);
        assert_eq!(touch(1, 1, (1, 0), Read), None, "a warp does not race with itself");
        assert_eq!(touch(2, 1, (1, 0), Read), Some((Other::Warp(1), true)));
        assert_eq!(touch(2, 2, (1, 1), Read), None, "a barrier lies between");
        assert_eq!(touch(1, 2, (2, 1), Write), Some((Other::Warp(2), false)));
        assert_eq!(touch(3, 1, (1, 2), Atomic), None);
    }

    #[test]
    fn warps_that_share_a_word_but_no_byte_do_not_race() {
        let (blocks, warps, none, known) = (AtomicU64::new(0), AtomicU64::new(0), BlockSet::default(), [0; 32]);
        for (warp, mask) in [(0, 3), (1, 12), (0, 3), (1, 12)] {
            let who = Who { warp, ..who(1, 0, &none, &known) };
            let cells = Cells { blocks: &blocks, warps: Some(&warps) };
            assert_eq!(who.touch(cells, mask, Touch::Write), None);
            assert_eq!(who.touch(cells, mask, Touch::Read), None);
        }
    }
}

//! Races between the blocks of one launch on global memory.
//!
//! A cell a word holds the launch, the last writing block with the bytes it wrote, and the reading block (or "several")
//! with the bytes read. Two blocks touching the same byte, one writing, race, unless both access it atomically or the
//! later one has acquired the earlier: a fence and an atomic by the first, an atomic on the same address by the second.
//!
//! A second cell a word holds the warp and its clock of the last write and of the last read: two warps of one block
//! touching the same bytes, one writing, race unless a barrier lies between. It counts only where the first cell says that
//! this block and no other made that access.
//!
//! A cell has room for one writer and one reader, so a word whose bytes come to have several (the halves that two blocks
//! write at the seam of their rows) is split: from there on each of its bytes has the two cells of a word, in a page made
//! for that. Most words never are, and pay a comparison.

use std::collections::HashMap;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};
use std::sync::{Mutex, OnceLock};

/// The block where several read, or several wrote by atomics.
const SEVERAL: u64 = (1 << 19) - 1;
/// Set beside the writing block where it wrote by an atomic.
const ATOMIC: u64 = 1 << 19;
/// The bits of a block in a cell, and of the flag.
const FIELD: u64 = (1 << 20) - 1;
/// Set, and nothing else but the launch, in a cell whose bytes have cells of their own: the reader's field needs 19 bits.
const SPLIT: u64 = 1 << 23;
/// One thread at a time splits words.
static SPLITTING: Mutex<()> = Mutex::new(());

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

/// The cells of words that lie side by side in one page; the second of each is made when a kernel first writes in the page.
pub struct Words<'a> {
    pub blocks: &'a [AtomicU64],
    pub warps: Option<&'a [AtomicU64]>,
    /// For each word of the page the first and the second cell of each of its bytes, made when a word is split.
    pub bytes: &'a OnceLock<Box<[AtomicU64]>>,
    /// Words of the page, and which is the first of these.
    pub page: usize,
    pub first: usize,
}

/// The cells of one of them, or of one of its bytes.
#[derive(Clone, Copy)]
struct Cells<'a> {
    blocks: &'a AtomicU64,
    warps: Option<&'a AtomicU64>,
    bytes: &'a OnceLock<Box<[AtomicU64]>>,
    page: usize,
    word: usize,
}

impl<'a> Words<'a> {
    fn cells(&self, word: usize) -> Cells<'a> {
        Cells {
            blocks: &self.blocks[word],
            warps: self.warps.map(|warps| &warps[word]),
            bytes: self.bytes,
            page: self.page,
            word: self.first + word,
        }
    }
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

    /// Records an access to the bytes `mask` of each of these words and tells whom it races with.
    #[inline]
    pub fn touch(&self, words: &Words, mask: u32, touch: Touch) -> Option<Conflict> {
        // What is only read costs one look.
        let read_by = |block: u64| u64::from(self.epoch) << 48 | block << 4 | 15;
        let several = read_by(SEVERAL);
        let own = if words.warps.is_none() { read_by(number(self.block)) } else { several };
        for (word, cell) in words.blocks.iter().enumerate() {
            let old = cell.load(Relaxed);
            if touch == Touch::Read && (old == several || old == own) {
                continue;
            }
            let conflict = self.record(words.cells(word), old, mask, touch);
            if conflict.is_some() {
                return conflict;
            }
        }
        None
    }

    /// A cell as this launch has left it.
    #[inline]
    fn fresh(&self, cell: u64) -> u64 {
        if cell >> 48 == u64::from(self.epoch) { cell } else { u64::from(self.epoch) << 48 }
    }

    /// Whether `half` of the second cell is another warp's or clock's and holds bytes that this access leaves alone.
    #[cold]
    fn others(&self, cell: Option<&AtomicU64>, mask: u32, read: bool) -> bool {
        let own = (self.clock & 0x7f_ffff) << 9 | u32::from(self.warp) << 4;
        cell.is_some_and(|cell| {
            let half = (cell.load(Relaxed) >> if read { 0 } else { 32 }) as u32;
            half & 15 & !mask != 0 && (half ^ own) >> 4 != 0
        })
    }

    /// Gives each byte of a word its own cells, which start from the word's.
    #[cold]
    fn split(&self, cells: Cells) {
        let _alone = SPLITTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let all = cells.bytes.get_or_init(|| (0..8 * cells.page).map(|_| AtomicU64::new(0)).collect());
        let me = number(self.block);
        loop {
            let old = cells.blocks.load(Relaxed);
            let fresh = self.fresh(old);
            if fresh & SPLIT != 0 {
                return;
            }
            let warps = cells.warps.map_or(0, |cell| cell.load(Relaxed));
            let ours = [fresh >> 28 & SEVERAL == me, fresh >> 4 & FIELD == me];
            for (byte, pair) in all[8 * cells.word..8 * cells.word + 8].chunks_exact(2).enumerate() {
                let part = |shift: u64| {
                    if fresh >> shift >> byte & 1 == 0 { 0 } else { fresh & (FIELD << 4 | 15) << shift | 15 << shift }
                };
                pair[0].store(u64::from(self.epoch) << 48 | part(24) | part(0), Relaxed);
                // Another block may be about to write its half; what it would have said is forgotten.
                let half = |half: u32, ours: bool| if ours && half >> byte & 1 == 1 { u64::from(half | 15) } else { 0 };
                pair[1].store(half((warps >> 32) as u32, ours[0]) << 32 | half(warps as u32, ours[1]), Relaxed);
            }
            let new = u64::from(self.epoch) << 48 | SPLIT;
            if cells.blocks.compare_exchange(old, new, Release, Relaxed).is_ok() {
                return;
            }
        }
    }

    /// The same access to each byte of a word that is split.
    #[inline(never)]
    fn touch_bytes(&self, cells: Cells, mask: u32, touch: Touch) -> Option<Conflict> {
        fence(Acquire);
        let all = cells.bytes.get()?;
        let mut conflict = None;
        for byte in (0..4).filter(|byte| mask >> byte & 1 == 1) {
            let at = 8 * cells.word + 2 * byte;
            let own = Cells { blocks: &all[at], warps: cells.warps.map(|_| &all[at + 1]), ..cells };
            conflict = conflict.or(self.record(own, own.blocks.load(Relaxed), 15, touch));
        }
        conflict
    }

    #[inline(never)]
    fn record(&self, cells: Cells, mut old: u64, mask: u32, touch: Touch) -> Option<Conflict> {
        let me = number(self.block);
        loop {
            let fresh = self.fresh(old);
            if fresh & SPLIT != 0 {
                return self.touch_bytes(cells, mask, touch);
            }
            let (writer, wrote) = (fresh >> 28 & FIELD, fresh as u32 >> 24 & 15);
            let (reader, read) = (fresh >> 4 & FIELD, fresh as u32 & 15);
            // Whether one cell could no longer say whose each byte is.
            let parted;
            let new = match touch {
                Touch::Read => {
                    parted = match reader {
                        _ if read == 0 => false,
                        SEVERAL => mask & !read != 0,
                        _ if reader == me => read & !mask != 0 && self.others(cells.warps, mask, true),
                        _ => mask != read,
                    };
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
                    parted = match wrote {
                        0 => false,
                        _ if by & SEVERAL == SEVERAL => mask != wrote && (writer != by || mask & !wrote != 0),
                        _ if writer == by => {
                            wrote & !mask != 0 && touch == Touch::Write && self.others(cells.warps, mask, false)
                        }
                        _ => wrote & !mask != 0,
                    };
                    let bytes = if writer == by || together { wrote | mask } else { mask };
                    fresh & !((FIELD << 4 | 15) << 24) | by << 28 | u64::from(bytes) << 24
                }
            };
            if parted {
                self.split(cells);
                return self.touch_bytes(cells, mask, touch);
            }
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

    /// The cells of a page of one word.
    #[derive(Default)]
    struct Word {
        blocks: AtomicU64,
        warps: AtomicU64,
        bytes: OnceLock<Box<[AtomicU64]>>,
    }

    impl Word {
        fn words(&self, warps: bool) -> Words<'_> {
            let warps = warps.then(|| std::slice::from_ref(&self.warps));
            Words { blocks: std::slice::from_ref(&self.blocks), warps, bytes: &self.bytes, page: 1, first: 0 }
        }
    }

    fn run(accesses: &[(u16, u32, u32, Touch)]) -> Vec<bool> {
        let (word, none) = (Word::default(), BlockSet::default());
        let touch = |&(epoch, block, mask, kind): &(u16, u32, u32, Touch)| {
            who(epoch, block, &none, &[0; 32]).touch(&word.words(false), mask, kind).is_some()
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
        let (word, published, known) = (Word::default(), Published::default(), [0; 32]);
        let words = word.words(false);
        let (mut first, mut second) = (BlockSet::default(), BlockSet::default());
        assert_eq!(who(1, 0, &first, &known).touch(&words, 15, Touch::Write), None);
        published.atomic(8, 0, true, &mut first);
        published.atomic(8, 1, true, &mut second);
        assert_eq!(who(1, 1, &second, &known).touch(&words, 15, Touch::Read), None);
        assert!(who(1, 2, &BlockSet::default(), &known).touch(&words, 15, Touch::Read).is_some());
    }

    #[test]
    fn warps_of_a_block_race_until_they_know_each_other() {
        let (word, none) = (Word::default(), BlockSet::default());
        let touch = |warp: u8, clock: u32, knows: (usize, u32), kind: Touch| {
            let mut known = [0; 32];
            known[knows.0] = knows.1;
            let who = Who { epoch: 1, block: 5, acquired: &none, warp, clock, known: &known };
            let conflict = who.touch(&word.words(true), 15, kind);
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

    /// A thousand random accesses of every width to one word against a list of what each byte has seen: the same races
    /// between blocks, none more, none less.
    #[test]
    fn blocks_race_exactly_on_the_bytes_they_share() {
        use Touch::*;
        let none = BlockSet::default();
        let mut draw = 1u64;
        let mut below = |n: u64| {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (draw >> 33) % n
        };
        let mut races = 0;
        for epoch in 1..400u16 {
            let word = Word::default();
            let mut seen: Vec<(u32, u32, Touch)> = Vec::new();
            for _ in 0..6 {
                let (block, kind) = (below(2) as u32, [Read, Read, Write, Atomic][below(4) as usize]);
                let mask = [15, 3, 12, 1, 2, 4, 8][below(7) as usize];
                let got = who(epoch, block, &none, &[0; 32]).touch(&word.words(false), mask, kind);
                let with = |&(other, bytes, touch): &(u32, u32, Touch)| {
                    let quiet = touch == Read && kind == Read || touch == Atomic && kind == Atomic;
                    other != block && bytes & mask != 0 && !quiet
                };
                let want = seen.iter().any(with);
                assert_eq!(got.is_some(), want, "block {block} {kind:?} {mask:#x} after {seen:?}");
                // After a race the cells know the later access only.
                if want {
                    races += 1;
                    break;
                }
                // A block's atomic takes the place of its own earlier write.
                let own = |&&mut (other, _, touch): &&mut (u32, u32, Touch)| {
                    other == block && touch == Write && kind == Atomic
                };
                seen.iter_mut().filter(own).for_each(|access| access.1 &= !mask);
                seen.push((block, mask, kind));
            }
        }
        assert!((100..390).contains(&races), "{races} races of 399");
    }

    #[test]
    fn warps_that_share_a_word_but_no_byte_do_not_race() {
        let (word, none, known) = (Word::default(), BlockSet::default(), [0; 32]);
        let touch = |warp, mask, kind| Who { warp, ..who(1, 0, &none, &known) }.touch(&word.words(true), mask, kind);
        for (warp, mask) in [(0, 3), (1, 12), (0, 3), (1, 12)] {
            assert_eq!(touch(warp, mask, Touch::Write), None);
            assert_eq!(touch(warp, mask, Touch::Read), None);
        }
        // What the other warp wrote before this one's half is not forgotten.
        let race = touch(1, 1, Touch::Read).expect("a race");
        assert_eq!((race.other, race.wrote), (Other::Warp(0), true));
        let race = touch(0, 12, Touch::Write).expect("a race");
        assert_eq!((race.other, race.wrote), (Other::Warp(1), true));
    }
}

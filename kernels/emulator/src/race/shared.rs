//! Races in a block's shared memory, by vector clocks.
//!
//! Every warp has a clock that moves at each synchronisation (a barrier, or bar.warp.sync within the warp), and knows
//! how far it has seen the other warps' clocks. Shared memory is cut into granules of 16 bytes. A granule holds, for each
//! of its words, a stamp of the last write, and for each warp its last reads: an access whose bytes carry a stamp of
//! another thread that is not known yet is a race.

use std::fmt;

/// A stamp: pc 23 bits, clock 24, warp 5, lane 6 (32: several), atomic 1, pending 1, bytes 4.
type Stamp = u64;
const SEVERAL: u8 = 32;
const PENDING: Stamp = 1 << 4;
const ATOMIC: Stamp = 1 << 5;

fn stamp(who: &Who, lane: u8, bytes: u64) -> Stamp {
    u64::from(who.pc) << 41
        | u64::from(who.clock & 0xff_ffff) << 17
        | u64::from(who.warp) << 12
        | u64::from(lane) << 6
        | bytes
}

fn pc(stamp: Stamp) -> u32 {
    (stamp >> 41) as u32
}

fn fields(stamp: Stamp) -> (u32, u8, u8) {
    ((stamp >> 17) as u32 & 0xff_ffff, (stamp >> 12) as u8 & 31, (stamp >> 6) as u8 & 63)
}

/// The reads of one warp in one granule since its clock last moved.
#[derive(Clone, Copy, Default)]
struct Reads {
    clock: u32,
    pc: u32,
    lanes: [u8; 4],
    bytes: u16,
}

/// Who accesses, and what it knows of the others.
pub struct Who<'a> {
    pub warp: u8,
    pub clock: u32,
    pub pc: u32,
    /// The clock of each warp as far as this one has synchronised with it.
    pub known: &'a [u32; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Unwritten,
    Pending,
    Race { wrote: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub trouble: Trouble,
    pub warp: u8,
    pub lane: u8,
    pub pc: u32,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lane {
            SEVERAL => write!(f, "several lanes of warp {}", self.warp),
            lane => write!(f, "warp {} lane {lane}", self.warp),
        }
    }
}

/// 16 bytes of shared memory.
#[derive(Clone, Copy, Default)]
struct Granule {
    writes: [Stamp; 4],
    /// Warps with reads that a write must still be ordered after.
    readers: u32,
    written: u16,
}

pub struct SharedShadow {
    granules: Vec<Granule>,
    /// Those of warp 0 first.
    reads: Vec<Reads>,
}

const WHOLE: u16 = u16::MAX;

fn spread(mask: u16) -> impl Iterator<Item = (usize, u64)> {
    (0..4).map(move |word| (word, u64::from(mask >> (4 * word) & 15))).filter(|&(_, bytes)| bytes != 0)
}

impl SharedShadow {
    pub fn new(bytes: usize, warps: usize) -> Self {
        let granules = bytes.div_ceil(16);
        Self { granules: vec![Granule::default(); granules], reads: vec![Reads::default(); granules * warps] }
    }

    /// As new, for the next block.
    pub fn reset(&mut self) {
        self.granules.fill(Granule::default());
        self.reads.fill(Reads::default());
    }

    /// An aligned access of at most 16 bytes lies in one granule: its index and the bytes there.
    #[inline]
    fn cell(address: u32, bytes: u32) -> (usize, u16) {
        ((address / 16) as usize, (((1u32 << bytes) - 1) << (address % 16)) as u16)
    }

    #[inline(always)]
    fn ordered(who: &Who, lane: u8, stamp: Stamp) -> bool {
        let (clock, warp, by) = fields(stamp);
        if warp == who.warp {
            by == lane || by == SEVERAL || clock < who.clock
        } else {
            clock <= who.known[warp as usize]
        }
    }

    /// Stamps that hold all bits of `twin` (an atomic's flag, or one whole stamp) are no conflict.
    fn after_writes(who: &Who, lane: u8, writes: &[Stamp; 4], mask: u16, twin: Stamp) -> Option<Conflict> {
        let check = |stamp: Stamp, bytes: u64| {
            if stamp & bytes == 0 || stamp & twin == twin && twin != 0 {
                return None;
            }
            let trouble = match stamp & PENDING != 0 {
                true => Trouble::Pending,
                false if Self::ordered(who, lane, stamp) => return None,
                false => Trouble::Race { wrote: true },
            };
            let (_, warp, lane) = fields(stamp);
            Some(Conflict { trouble, warp, lane, pc: pc(stamp) })
        };
        if mask == WHOLE && writes[0] == writes[1] && writes[0] == writes[2] && writes[0] == writes[3] {
            return check(writes[0], 15);
        }
        spread(mask).find_map(|(word, bytes)| check(writes[word], bytes))
    }

    /// A read by `lane` (32: by the whole warp, as ldmatrix reads).
    #[inline(always)]
    pub fn read(&mut self, who: &Who, lane: u8, address: u32, bytes: u32) -> Option<Conflict> {
        let (index, mask) = Self::cell(address, bytes);
        let own = &mut self.reads[who.warp as usize * self.granules.len() + index];
        if own.clock != who.clock || own.bytes & !mask == 0 && own.lanes == [lane; 4] {
            *own = Reads { clock: who.clock, pc: who.pc, lanes: [lane; 4], bytes: mask };
        } else {
            for (word, _) in spread(mask) {
                let seen = own.bytes >> (4 * word) & 15 != 0;
                own.lanes[word] = if seen && own.lanes[word] != lane { SEVERAL } else { lane };
            }
            own.bytes |= mask;
            own.pc = who.pc;
        }
        let granule = &mut self.granules[index];
        granule.readers |= 1 << who.warp;
        let [first, second, third, fourth] = granule.writes;
        // Most reads: whole granules written at once before the last barrier.
        let whole = first & (15 | PENDING) == 15 && first == second && first == third && first == fourth;
        if whole && granule.written & mask == mask && Self::ordered(who, lane, first) {
            return None;
        }
        let conflict = Self::after_writes(who, lane, &granule.writes, mask, 0);
        if conflict.is_none() && granule.written & mask != mask {
            return Some(Conflict { trouble: Trouble::Unwritten, warp: 0, lane: 0, pc: 0 });
        }
        conflict
    }

    /// A write by `lane`; `pending` for an asynchronous copy, whose bytes arrive at its wait. `same` tells that the
    /// bytes there already hold this value, which lanes of one instruction may write together.
    #[inline]
    pub fn write(
        &mut self,
        who: &Who,
        lane: u8,
        address: u32,
        bytes: u32,
        pending: bool,
        same: bool,
    ) -> Option<Conflict> {
        let (index, mask) = Self::cell(address, bytes);
        let conflict = self.after_reads(who, lane, index, mask);
        let granule = &mut self.granules[index];
        let conflict = conflict.or_else(|| {
            // Lanes of one instruction that write one value: the first of them left this stamp.
            let first = granule.writes[(address % 16 / 4) as usize];
            let (clock, warp, _) = fields(first);
            let twin = same && warp == who.warp && clock == who.clock && pc(first) == who.pc;
            Self::after_writes(who, lane, &granule.writes, mask, if twin { first } else { 0 })
        });
        for (word, cell) in granule.writes.iter_mut().enumerate() {
            let bytes = u64::from(mask >> (4 * word) & 15);
            if bytes == 0 {
                continue;
            }
            let new = stamp(who, lane, bytes) | if pending { PENDING } else { 0 };
            // Halves of a word written by lanes of one instruction are one stamp of several lanes.
            let (clock, warp, by) = fields(*cell);
            let together = warp == who.warp && clock == who.clock && pc(*cell) == who.pc && *cell & 15 != 0;
            *cell = match together {
                true if by != lane => stamp(who, SEVERAL, bytes | *cell & 15) | new & PENDING,
                true => new | *cell & 15,
                false => new,
            };
        }
        if !pending {
            granule.written |= mask;
        }
        if mask == WHOLE && conflict.is_none() {
            granule.readers = 0;
        }
        conflict
    }

    #[inline]
    fn after_reads(&self, who: &Who, lane: u8, index: usize, mask: u16) -> Option<Conflict> {
        let mut readers = self.granules[index].readers;
        while readers != 0 {
            let warp = readers.trailing_zeros() as usize;
            readers &= readers - 1;
            let reads = &self.reads[warp * self.granules.len() + index];
            let own = warp == who.warp as usize;
            if reads.bytes & mask == 0 || reads.clock <= who.known[warp] && !own || reads.clock < who.clock && own {
                continue;
            }
            let by = reads.lanes[(reads.bytes & mask).trailing_zeros() as usize / 4];
            // Reads of several lanes that include the writer itself cannot be told apart here.
            if own && (by == lane || by == SEVERAL) {
                continue;
            }
            return Some(Conflict {
                trouble: Trouble::Race { wrote: false },
                warp: warp as u8,
                lane: by,
                pc: reads.pc,
            });
        }
        None
    }

    /// An atomic: no race with other atomics, but with plain accesses.
    pub fn atomic(&mut self, who: &Who, lane: u8, address: u32, bytes: u32) -> Option<Conflict> {
        let (index, mask) = Self::cell(address, bytes);
        let conflict = self.after_reads(who, lane, index, mask);
        let granule = &mut self.granules[index];
        let conflict = conflict.or_else(|| Self::after_writes(who, lane, &granule.writes, mask, ATOMIC));
        for (word, bytes) in spread(mask) {
            granule.writes[word] = stamp(who, lane, bytes) | ATOMIC;
        }
        if conflict.is_none() && granule.written & mask != mask {
            return Some(Conflict { trouble: Trouble::Unwritten, warp: 0, lane: 0, pc: 0 });
        }
        conflict
    }

    /// An asynchronous copy arrives.
    #[inline]
    pub fn land(&mut self, who: &Who, lane: u8, address: u32, bytes: u32) {
        let (index, mask) = Self::cell(address, bytes);
        let granule = &mut self.granules[index];
        for (word, cell) in granule.writes.iter_mut().enumerate() {
            let bytes = u64::from(mask >> (4 * word) & 15);
            if bytes != 0 {
                *cell = stamp(who, lane, bytes);
            }
        }
        granule.written |= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(warp: u8, clock: u32, known: &[u32; 32]) -> Who<'_> {
        Who { warp, clock, pc: u32::from(warp) + 7, known }
    }

    #[test]
    fn a_read_races_until_the_writer_is_known() {
        let mut shadow = SharedShadow::new(64, 2);
        let (nothing, mut first) = ([0; 32], [0; 32]);
        first[0] = 1;
        assert_eq!(shadow.write(&who(0, 1, &nothing), 3, 16, 4, false, false), None);
        let race = shadow.read(&who(1, 1, &nothing), 0, 16, 4).expect("a race");
        assert_eq!((race.trouble, race.warp, race.lane, race.pc), (Trouble::Race { wrote: true }, 0, 3, 7));
        assert_eq!(shadow.read(&who(1, 2, &first), 0, 16, 4), None);
        // The neighbouring word is not the race's, but nobody wrote it.
        assert_eq!(shadow.read(&who(1, 2, &first), 0, 20, 4).map(|c| c.trouble), Some(Trouble::Unwritten));
    }

    #[test]
    fn a_write_after_an_unordered_read_races() {
        let mut shadow = SharedShadow::new(64, 2);
        let (nothing, mut second) = ([0; 32], [0; 32]);
        shadow.write(&who(0, 1, &nothing), 0, 0, 16, false, false);
        second[0] = 1;
        assert_eq!(shadow.read(&who(1, 2, &second), 32, 0, 16), None);
        assert_eq!(
            shadow.write(&who(0, 2, &nothing), 0, 0, 16, true, false).map(|c| c.trouble),
            Some(Trouble::Race { wrote: false })
        );
        assert_eq!(shadow.read(&who(0, 2, &nothing), 0, 0, 16).map(|c| c.trouble), Some(Trouble::Pending));
        shadow.land(&who(0, 2, &nothing), 0, 0, 16);
        assert_eq!(shadow.read(&who(0, 2, &nothing), 0, 0, 16), None);
    }

    #[test]
    fn lanes_of_a_warp_need_their_own_synchronisation() {
        let mut shadow = SharedShadow::new(64, 1);
        let nothing = [0; 32];
        assert_eq!(shadow.write(&who(0, 1, &nothing), 0, 0, 4, false, false), None);
        assert_eq!(shadow.write(&who(0, 1, &nothing), 1, 4, 4, false, false), None);
        assert!(shadow.read(&who(0, 1, &nothing), 1, 0, 4).is_some());
        assert!(shadow.read(&who(0, 2, &nothing), 1, 0, 4).is_none());
    }
}

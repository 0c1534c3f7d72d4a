//! Races in a block's shared memory, by vector clocks.
//!
//! Every warp has a clock that moves at each synchronisation (a barrier, or bar.warp.sync within the warp), and knows
//! how far it has seen the other warps' clocks. Shared memory is cut into granules of 16 bytes. A granule holds, for each
//! of its words, a stamp of the last write, and for each warp its last reads: an access whose bytes carry a stamp of
//! another thread that is not known yet is a race.
//!
//! Copies in bulk and wgmma go by a way of their own (the asynchronous proxy). What a copy brought is known to those who
//! know that its mbarrier's phase is complete; what threads wrote is known to it and to wgmma only past a proxy fence. What
//! wgmma reads is held until its wait: until then whoever writes there races.

use std::fmt;

/// A stamp: pc 23 bits, clock 24, warp 5, lane 6 (32: several), atomic 1, pending 1, bytes 4.
type Stamp = u64;
const SEVERAL: u8 = 32;
/// In place of a lane: written by a copy in bulk. The clock is then the mbarrier's number, 5 bits, and the phase, 19.
const ENGINE: u8 = 33;
/// The clock of reads that go on until a wait.
const HELD: u32 = u32::MAX;
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

/// What a warp knows of the others, through all that it synchronised with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Known {
    /// The clock of each warp, its own as far as its lanes know each other.
    pub warps: [u32; 32],
    /// The clock up to which each warp's writes are visible to the asynchronous proxy.
    pub fenced: [u32; 32],
    /// Complete phases of each mbarrier of the block.
    pub phases: [u32; 32],
}

impl Known {
    pub fn join(&mut self, other: &Self) {
        let join = |own: &mut [u32; 32], other: &[u32; 32]| {
            own.iter_mut().zip(other).for_each(|(own, other)| *own = (*own).max(*other));
        };
        join(&mut self.warps, &other.warps);
        join(&mut self.fenced, &other.fenced);
        join(&mut self.phases, &other.phases);
    }
}

/// Who accesses, and what it knows of the others.
pub struct Who<'a> {
    pub warp: u8,
    pub clock: u32,
    pub pc: u32,
    pub known: &'a Known,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Unwritten,
    Pending,
    Race {
        wrote: bool,
    },
    /// Written by a thread and not yet visible to the asynchronous proxy.
    Unfenced,
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
            ENGINE => write!(f, "a copy in bulk by warp {}", self.warp),
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
        if by == ENGINE {
            return who.known.phases[(clock >> 19) as usize & 31] > clock & 0x7_ffff;
        }
        clock <= who.known.warps[warp as usize & 31] || warp == who.warp && (by == lane || by == SEVERAL)
    }

    /// What a thread wrote in a granule that the asynchronous proxy may not see yet.
    fn unfenced(who: &Who, writes: &[Stamp; 4]) -> Option<Conflict> {
        writes.iter().filter(|&&stamp| stamp & 15 != 0).find_map(|&stamp| {
            let (clock, warp, lane) = fields(stamp);
            let seen = lane == ENGINE || clock <= who.known.fenced[warp as usize & 31];
            (!seen).then_some(Conflict { trouble: Trouble::Unfenced, warp, lane, pc: pc(stamp) })
        })
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
        if own.clock == HELD {
            // A write here is reported in any case.
        } else if own.clock != who.clock || own.bytes & !mask == 0 && own.lanes == [lane; 4] {
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
            if reads.bytes & mask == 0 || reads.clock <= who.known.warps[warp & 31] {
                continue;
            }
            let by = reads.lanes[(reads.bytes & mask).trailing_zeros() as usize / 4];
            // Reads of several lanes that include the writer itself cannot be told apart here.
            if own && (by == lane || by == SEVERAL) && reads.clock != HELD {
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

    /// A copy in bulk begins to write 16 bytes.
    pub fn write_in_bulk(&mut self, who: &Who, lane: u8, address: u32) -> Option<Conflict> {
        let before = self.granules[address as usize / 16].writes;
        self.write(who, lane, address, 16, true, false).or_else(|| Self::unfenced(who, &before))
    }

    /// 16 bytes of a copy in bulk arrive: `warp` and `pc` made it, for phase `phase` of mbarrier number `barrier`.
    pub fn land_in_bulk(&mut self, warp: u8, pc: u32, [barrier, phase]: [u32; 2], address: u32) {
        let who = Who { warp, clock: barrier << 19 | phase & 0x7_ffff, pc, known: &Known::default() };
        self.land(&who, ENGINE, address, 16);
    }

    /// wgmma reads 16 bytes, until they are released.
    pub fn hold(&mut self, who: &Who, address: u32) -> Option<Conflict> {
        let index = address as usize / 16;
        self.reads[who.warp as usize * self.granules.len() + index] =
            Reads { clock: HELD, pc: who.pc, lanes: [SEVERAL; 4], bytes: WHOLE };
        let granule = &mut self.granules[index];
        granule.readers |= 1 << who.warp;
        if let Some(conflict) = Self::after_writes(who, SEVERAL, &granule.writes, WHOLE, 0) {
            return Some(conflict);
        }
        if granule.written != WHOLE {
            return Some(Conflict { trouble: Trouble::Unwritten, warp: 0, lane: 0, pc: 0 });
        }
        Self::unfenced(who, &granule.writes)
    }

    /// A wait for wgmma: what `warp` held at this address it has read now.
    pub fn release(&mut self, warp: u8, clock: u32, address: u32) {
        let reads = &mut self.reads[warp as usize * self.granules.len() + address as usize / 16];
        reads.clock = clock;
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

    fn who(warp: u8, clock: u32, known: &Known) -> Who<'_> {
        Who { warp, clock, pc: u32::from(warp) + 7, known }
    }

    /// To know warp 0 up to its clock 1.
    fn first() -> Known {
        let mut known = Known::default();
        known.warps[0] = 1;
        known
    }

    #[test]
    fn a_read_races_until_the_writer_is_known() {
        let mut shadow = SharedShadow::new(64, 2);
        let (nothing, first) = (Known::default(), first());
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
        let (nothing, second) = (Known::default(), first());
        shadow.write(&who(0, 1, &nothing), 0, 0, 16, false, false);
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
        let (nothing, first) = (Known::default(), first());
        assert_eq!(shadow.write(&who(0, 1, &nothing), 0, 0, 4, false, false), None);
        assert_eq!(shadow.write(&who(0, 1, &nothing), 1, 4, 4, false, false), None);
        assert!(shadow.read(&who(0, 1, &nothing), 1, 0, 4).is_some());
        assert!(shadow.read(&who(0, 2, &first), 1, 0, 4).is_none());
    }

    #[test]
    fn wgmma_needs_a_proxy_fence_and_holds_what_it_reads() {
        let mut shadow = SharedShadow::new(64, 2);
        let mut known = first();
        shadow.write(&who(0, 1, &known), 0, 0, 16, false, false);
        assert_eq!(shadow.hold(&who(1, 1, &known), 0).map(|c| c.trouble), Some(Trouble::Unfenced));
        known.fenced[0] = 1;
        assert_eq!(shadow.hold(&who(1, 1, &known), 0), None);
        known.warps[1] = 9;
        let race = Some(Trouble::Race { wrote: false });
        assert_eq!(shadow.write(&who(0, 2, &known), 0, 0, 4, false, false).map(|c| c.trouble), race);
        shadow.release(1, 10, 0);
        assert_eq!(shadow.write(&who(0, 2, &known), 0, 0, 4, false, false).map(|c| c.trouble), race);
        known.warps[1] = 10;
        assert_eq!(shadow.write(&who(0, 2, &known), 0, 0, 4, false, false), None);
    }

    #[test]
    fn what_a_copy_in_bulk_brought_is_known_by_its_phase() {
        let mut shadow = SharedShadow::new(64, 2);
        let mut known = first();
        assert_eq!(shadow.write_in_bulk(&who(0, 1, &known), 0, 16), None);
        assert_eq!(shadow.read(&who(1, 1, &known), 0, 16, 4).map(|c| c.trouble), Some(Trouble::Pending));
        shadow.land_in_bulk(0, 7, [3, 5], 16);
        known.phases[3] = 5;
        let race = Some(Trouble::Race { wrote: true });
        assert_eq!(shadow.read(&who(1, 1, &known), 0, 16, 4).map(|c| c.trouble), race);
        known.phases[3] = 6;
        assert_eq!(shadow.read(&who(1, 1, &known), 0, 16, 4), None);
    }
}

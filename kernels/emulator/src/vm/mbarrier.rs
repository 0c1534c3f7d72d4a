//! Barriers in shared memory, and the copies in bulk that they count. What a copy fetched stays here and reaches shared
//! memory when somebody waits for its phase and all threads have arrived: as late as hardware may bring it.

use super::block::Context;
use super::each;
use super::memory::{At, addresses, count, read_global, set_shared, shared_conflict, shared_in_bounds, who};
use super::warp::Warp;
use crate::ptx::op::{Address, NONE, Slot, Window};
use crate::race::report::Kind;
use crate::race::shared::{Known, Who};

/// How many a block may have: each has a place in [`Known::phases`].
const MOST: usize = 32;
/// Arrivals and bytes that a phase can count.
const LIMIT: u32 = (1 << 20) - 1;

/// A copy under way.
struct Bulk {
    warp: u8,
    pc: u32,
    to: u32,
    data: Vec<[u32; 4]>,
}

struct Mbarrier {
    address: u32,
    /// Who initialised it: warp, lane, clock, place. Whoever touches it must know of that.
    initialised: (u8, u32, u32, u32),
    /// Arrivals a phase needs, and those that the present one still lacks.
    expected: u32,
    pending: u32,
    /// Bytes announced and not yet arrived.
    bytes: i64,
    /// Complete phases.
    phase: u32,
    /// Copies in bulk know that it is initialised.
    fenced: bool,
    /// What those knew who arrived, in the present phase and in all complete ones.
    seen: Known,
    released: Known,
    copies: Vec<Bulk>,
}

#[derive(Default)]
pub struct Mbarriers(Vec<Mbarrier>);

impl Mbarriers {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn find(&self, address: u32) -> Option<usize> {
        self.0.iter().position(|barrier| barrier.address == address)
    }

    /// A fence that makes the block's mbarriers known to copies in bulk.
    pub fn fence(&mut self) {
        self.0.iter_mut().for_each(|barrier| barrier.fenced = true);
    }

    /// Whether one of these waits would end if it asked again.
    pub fn any_passes(&self, awaited: &[(u32, u32)]) -> bool {
        awaited.iter().any(|&(address, parity)| {
            let Some(index) = self.find(address) else { return true };
            let barrier = &self.0[index];
            let coming: i64 = barrier.copies.iter().map(|copy| 16 * copy.data.len() as i64).sum();
            barrier.phase & 1 != parity & 1 || barrier.pending == 0 && coming != 0 && coming >= barrier.bytes
        })
    }

    /// What keeps a phase from completing.
    pub fn missing(&self, address: u32) -> String {
        self.find(address).map_or("it is gone".into(), |index| {
            let barrier = &self.0[index];
            let coming: i64 = barrier.copies.iter().map(|copy| 16 * copy.data.len() as i64).sum();
            format!(
                "phase {} is under way, and lacks {} of {} arrivals and {} bytes",
                barrier.phase,
                barrier.pending,
                barrier.expected,
                barrier.bytes - coming
            )
        })
    }
}

impl Mbarrier {
    fn complete(&mut self, number: usize) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.expected;
            self.released.join(&self.seen);
            self.released.phases[number] = self.phase;
            self.seen = Known::default();
        }
    }
}

fn at(warp: &Warp, lane: usize, pc: u32) -> At {
    At { warp: warp.index, lane: lane as u32, pc }
}

/// The mbarrier at an address, which this lane touches as an atomic does; what is wrong there is reported.
fn touch(warp: &Warp, context: &mut Context, at: At, address: u64, verb: &str) -> Option<usize> {
    if !shared_in_bounds(context, at, address, 8, verb) {
        return None;
    }
    let Some(found) = context.mbarriers.find(address as u32) else {
        context.fault(at.warp, at.lane, Kind::Uninitialised, at.pc, Some(address), || {
            format!("{verb} an mbarrier that was not initialised")
        });
        return None;
    };
    let (by, lane, clock, place) = context.mbarriers.0[found].initialised;
    let known = context.known[at.warp as usize].warps[by as usize & 31] >= clock;
    if context.launch.detect && !known && (by, lane) != (at.warp, at.lane) {
        context.fault(at.warp, at.lane, Kind::SharedRace, at.pc, Some(address), || {
            let place = context.place(place);
            format!("{verb} an mbarrier that warp {by} lane {lane} initialised with no barrier between, at {place}")
        });
    }
    if context.launch.detect
        && let Some(conflict) = context.shadow.atomic(&who!(warp, context, at.pc), at.lane as u8, address as u32, 8)
    {
        shared_conflict(context, at, address, verb, conflict);
    }
    Some(found)
}

pub fn init(warp: &Warp, context: &mut Context, barrier: Address, arrivals: Slot, pc: u32, active: u32) {
    let at_lanes = addresses(warp, barrier);
    each(active, |lane| {
        let (at, address, expected) = (at(warp, lane, pc), at_lanes[lane], warp.words[arrivals as usize][lane]);
        if !shared_in_bounds(context, at, address, 8, "initialises") {
            return;
        }
        let conflict = context.shadow.write(&who!(warp, context, pc), lane as u8, address as u32, 8, false, false);
        if let Some(conflict) = conflict.filter(|_| context.launch.detect) {
            shared_conflict(context, at, address, "initialises", conflict);
        }
        let known = context.mbarriers.find(address as u32);
        if !(1..=LIMIT).contains(&expected) || known.is_none() && context.mbarriers.0.len() == MOST {
            return context.fault(at.warp, at.lane, Kind::Trap, pc, Some(address), || {
                format!("an mbarrier of {expected} arrivals, or one more than the {MOST} that a block may have here")
            });
        }
        // One that is initialised again keeps its number and counts its phases on, at the same parity.
        let phase = known.map_or(0, |index| (context.mbarriers.0[index].phase + 1) & !1);
        let new = Mbarrier {
            address: address as u32,
            initialised: (at.warp, at.lane, warp.clock, pc),
            expected,
            pending: expected,
            bytes: 0,
            phase,
            fenced: false,
            seen: Known::default(),
            released: Known::default(),
            copies: Vec::new(),
        };
        match known {
            Some(index) => context.mbarriers.0[index] = new,
            None => context.mbarriers.0.push(new),
        }
    });
}

/// The address may serve something else, which needs what any write there needs.
pub fn invalidate(warp: &Warp, context: &mut Context, barrier: Address, pc: u32, active: u32) {
    let at_lanes = addresses(warp, barrier);
    each(active, |lane| {
        touch(warp, context, at(warp, lane, pc), at_lanes[lane], "invalidates");
    });
}

pub fn arrive(
    warp: &mut Warp,
    context: &mut Context,
    barrier: Address,
    [arrivals, bytes]: [Slot; 2],
    pc: u32,
    active: u32,
) {
    let at_lanes = addresses(warp, barrier);
    let mut own = context.known[warp.index as usize];
    own.warps[warp.index as usize & 31] = warp.clock;
    each(active, |lane| {
        let value = |slot: Slot, default| if slot == NONE { default } else { warp.words[slot as usize][lane] };
        let (arrivals, bytes) = (value(arrivals, 1), value(bytes, 0));
        let (at, address) = (at(warp, lane, pc), at_lanes[lane]);
        let Some(index) = touch(warp, context, at, address, "arrives at") else { return };
        let barrier = &mut context.mbarriers.0[index];
        if arrivals > barrier.pending || bytes > LIMIT {
            let (pending, expected) = (barrier.pending, barrier.expected);
            return context.fault(at.warp, at.lane, Kind::BarrierDivergence, pc, Some(address), || {
                format!("{arrivals} arrivals at an mbarrier that lacks {pending} of {expected}, with {bytes} bytes")
            });
        }
        barrier.bytes += i64::from(bytes);
        barrier.pending -= arrivals;
        barrier.seen.join(&own);
        barrier.complete(index);
    });
    warp.clock += 1;
}

/// Whether each lane's phase is complete. Copies land where nothing but they is missing.
pub fn passed(
    warp: &mut Warp,
    context: &mut Context,
    barrier: Address,
    parity: Slot,
    pc: u32,
    active: u32,
) -> (u32, Vec<(u32, u32)>) {
    let at_lanes = addresses(warp, barrier);
    let (mut passed, mut awaited) = (0, Vec::new());
    each(active, |lane| {
        let (at, address, parity) = (at(warp, lane, pc), at_lanes[lane], warp.words[parity as usize][lane] & 1);
        let Some(index) = touch(warp, context, at, address, "waits at") else {
            // What was never initialised completes nothing: reported, and not waited for.
            passed |= 1 << lane;
            return;
        };
        if context.mbarriers.0[index].phase & 1 == parity && context.mbarriers.0[index].pending == 0 {
            land(context, at, index);
        }
        let barrier = &context.mbarriers.0[index];
        if barrier.phase & 1 == parity {
            awaited.push((address as u32, parity));
        } else {
            passed |= 1 << lane;
            let released = barrier.released;
            context.known[warp.index as usize].join(&released);
        }
    });
    awaited.dedup();
    (passed, awaited)
}

fn land(context: &mut Context, at: At, index: usize) {
    let Context { mbarriers, shadow, shared, launch, .. } = context;
    let barrier = &mut mbarriers.0[index];
    for copy in barrier.copies.drain(..) {
        for (piece, data) in copy.data.iter().enumerate() {
            let to = copy.to + 16 * piece as u32;
            if launch.detect {
                shadow.land_in_bulk(copy.warp, copy.pc, [index as u32, barrier.phase], to);
            }
            set_shared(shared, to as usize, 16, data);
        }
        barrier.bytes -= 16 * copy.data.len() as i64;
    }
    let (address, bytes) = (barrier.address, barrier.bytes);
    if bytes < 0 {
        barrier.bytes = 0;
    }
    barrier.complete(index);
    if bytes < 0 {
        context.fault(at.warp, at.lane, Kind::BarrierDivergence, at.pc, Some(address.into()), || {
            format!("{} bytes more than the phase of the mbarrier was told of have come", -bytes)
        });
    }
}

/// `cp.async.bulk`: each lane copies so many bytes.
pub fn copy(warp: &Warp, context: &mut Context, [to, from, barrier]: [Address; 3], size: Slot, pc: u32, active: u32) {
    let [to, from, barrier] = [to, from, barrier].map(|address| addresses(warp, address));
    each(active, |lane| {
        let (at, bytes) = (at(warp, lane, pc), warp.words[size as usize][lane]);
        if !bytes.is_multiple_of(16) {
            return context.fault(at.warp, at.lane, Kind::Misaligned, pc, None, || {
                format!("copies {bytes} bytes in bulk, not a multiple of 16")
            });
        }
        let Some(index) = touch(warp, context, at, barrier[lane], "copies for") else { return };
        if !context.mbarriers.0[index].fenced && context.launch.detect {
            context.fault(at.warp, at.lane, Kind::NoFence, pc, Some(barrier[lane]), || {
                "copies for an mbarrier whose initialisation no fence.mbarrier_init or fence.proxy.async made known"
                    .into()
            });
        }
        let mut data = Vec::with_capacity(bytes as usize / 16);
        for offset in (0..u64::from(bytes)).step_by(16) {
            let target = to[lane] + offset;
            data.push(read_global(context, at, warp.clock, from[lane] + offset, 16, false));
            if !shared_in_bounds(context, at, target, 16, "copies") {
                return;
            }
            if !context.launch.detect {
                continue;
            }
            let conflict = context.shadow.write_in_bulk(&who!(warp, context, pc), lane as u8, target as u32);
            if let Some(conflict) = conflict {
                shared_conflict(context, at, target, "copies over", conflict);
            }
        }
        let mut places = [0; 32];
        for first in (0..bytes).step_by(512) {
            let lanes = (bytes - first).div_ceil(16).min(32);
            places.iter_mut().enumerate().for_each(|(i, place)| *place = from[lane] + u64::from(first) + 16 * i as u64);
            count(context, Window::Generic, &places, u32::MAX >> (32 - lanes), 16, false);
        }
        let copy = Bulk { warp: warp.index, pc, to: to[lane] as u32, data };
        context.mbarriers.0[index].copies.push(copy);
    });
}

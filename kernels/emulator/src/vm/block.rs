//! A block: its warps in an order drawn from the seed, its shared memory, its barriers.

use super::launch::{Counts, Launch};
use super::mbarrier::Mbarriers;
use super::warp::{Stop, Warp, run};
use super::{ALL, each};
use crate::ptx::op::{Barrier, BarrierKind, NONE, Op};
use crate::race::global::BlockSet;
use crate::race::report::{Kind, Report, place};
use crate::race::shared::{Known, SharedShadow};

/// Everything of a block but its warps, so that a warp and its surroundings can be borrowed apart.
pub struct Context<'l> {
    pub launch: &'l Launch<'l>,
    pub linear: u32,
    pub coordinates: [u32; 3],
    pub shared: Vec<u8>,
    pub shadow: SharedShadow,
    /// What each warp knows of the others.
    pub known: Vec<Known>,
    pub mbarriers: Mbarriers,
    pub counts: Counts,
    /// A fence was executed: later atomics publish what came before.
    pub fenced: bool,
    /// A fence or a release: warps of the block may be ordered by more than barriers from here on.
    pub released: bool,
    pub acquired: BlockSet,
}

impl Context<'_> {
    pub fn thread(&self, warp: u8, lane: u32) -> [u32; 3] {
        let linear = u32::from(warp) * 32 + lane;
        let [x, y, _] = self.launch.block;
        [linear % x, linear / x % y, linear / (x * y)]
    }

    /// Reports a fault of a lane at a step.
    #[cold]
    pub fn fault(&self, warp: u8, lane: u32, kind: Kind, pc: u32, address: Option<u64>, what: impl FnOnce() -> String) {
        let launch = self.launch;
        launch.reports.add(kind, pc, || Report {
            kind,
            kernel: launch.program.name.clone(),
            place: place(launch.module, launch.program, pc),
            block: self.coordinates,
            thread: self.thread(warp, lane),
            address,
            what: what(),
            count: 0,
        });
    }

    pub fn place(&self, pc: u32) -> String {
        place(self.launch.module, self.launch.program, pc)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    AtBarrier,
    /// At an mbarrier.
    Waiting,
    Done,
}

/// A hardware barrier: which warps wait at it and how many only passed by.
#[derive(Clone, Copy, Debug, Default)]
struct Arrivals {
    waiting: u32,
    passed: u32,
    /// Threads that take part, 0 for all of the block.
    expected: u32,
    popc: u32,
    any: bool,
    not_all: bool,
    seen: Known,
}

pub struct Block<'l> {
    warps: Vec<Warp>,
    states: Vec<State>,
    barriers: [Arrivals; 16],
    random: u64,
    pub context: Context<'l>,
}

/// How a turn of a block ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Done,
    Again,
}

impl<'l> Block<'l> {
    pub fn new(launch: &'l Launch<'l>) -> Self {
        let warps = launch.threads().div_ceil(32) as usize;
        let bytes = (launch.program.shared_bytes + launch.dynamic_shared) as usize;
        Self {
            warps: (0..warps).map(|index| Warp::new(launch, index as u8)).collect(),
            states: vec![State::Ready; warps],
            barriers: [Arrivals::default(); 16],
            random: 0,
            context: Context {
                launch,
                linear: 0,
                coordinates: [0; 3],
                shared: vec![0; bytes.next_multiple_of(16)],
                shadow: SharedShadow::new(bytes, warps),
                known: vec![Known::default(); warps],
                mbarriers: Mbarriers::default(),
                counts: Counts::default(),
                fenced: false,
                released: false,
                acquired: BlockSet::default(),
            },
        }
    }

    /// Becomes block `linear` of the grid, at its first instruction.
    pub fn reset(&mut self, linear: u32) {
        let launch = self.context.launch;
        let [x, y, _] = launch.grid;
        self.context.linear = linear;
        self.context.coordinates = [linear % x, linear / x % y, linear / (x * y)];
        self.context.shared.fill(0xff);
        self.context.shadow.reset();
        self.context.known.fill(Known::default());
        self.context.mbarriers.clear();
        (self.context.fenced, self.context.released) = (false, false);
        self.context.acquired = BlockSet::default();
        self.states.fill(State::Ready);
        self.barriers = [Arrivals::default(); 16];
        self.random = launch.seed ^ (u64::from(linear) << 32 | 0x9e37_79b9);
        let coordinates = self.context.coordinates;
        self.warps.iter_mut().for_each(|warp| warp.reset(launch, coordinates));
    }

    /// splitmix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Runs at most about `quota` instructions.
    pub fn turn(&mut self, quota: u64) -> Turn {
        let mut left = quota;
        loop {
            let ready: u32 =
                self.states.iter().enumerate().fold(0, |ready, (w, s)| ready | u32::from(*s == State::Ready) << w);
            if ready == 0 {
                if self.states.iter().all(|state| *state == State::Done) {
                    self.check_warpgroups();
                    return Turn::Done;
                }
                if !self.open_mbarrier() {
                    self.stuck();
                }
                continue;
            }
            let mut skip = self.draw() % u64::from(ready.count_ones());
            let mut index = 0;
            each(ready, |warp| {
                if skip == 0 {
                    index = warp;
                }
                skip = skip.wrapping_sub(1);
            });
            let budget = 256 + self.draw() % 4096;
            let before = self.warps[index].ran;
            let stop = run(&mut self.warps[index], &mut self.context, budget);
            let ran = self.warps[index].ran - before;
            self.context.counts.instructions += ran;
            match stop {
                Stop::Done => self.states[index] = State::Done,
                Stop::Barrier => self.arrive(index),
                Stop::Mbarrier => self.states[index] = State::Waiting,
                Stop::Budget => {}
            }
            self.wake();
            if stop == Stop::Done {
                self.release_complete();
            }
            left = left.saturating_sub(ran);
            if left == 0 {
                return Turn::Again;
            }
        }
    }

    fn barrier_at(&self, warp: usize) -> Option<&'l Barrier> {
        let launch = self.context.launch;
        match &launch.program.steps.get(self.warps[warp].pc() as usize)?.op {
            Op::Barrier(barrier) => Some(barrier),
            _ => None,
        }
    }

    fn arrive(&mut self, index: usize) {
        let Some(barrier) = self.barrier_at(index) else { return };
        let warp = &self.warps[index];
        let lane = warp.live.trailing_zeros() as usize % 32;
        let id = warp.words[barrier.id as usize][lane] as usize % 16;
        let expected = if barrier.count == NONE { 0 } else { warp.words[barrier.count as usize][lane] };
        let arrivals = &mut self.barriers[id];
        arrivals.expected = expected;
        if barrier.source != NONE {
            let votes = warp.predicates[barrier.source as usize] ^ if barrier.negated { ALL } else { 0 };
            arrivals.popc += (votes & warp.live).count_ones();
            arrivals.any |= votes & warp.live != 0;
            arrivals.not_all |= votes & warp.live != warp.live;
        }
        let own = &mut self.context.known[index];
        own.warps[index] = warp.clock;
        arrivals.seen.join(own);
        self.context.counts.barriers += 1;
        if barrier.kind == BarrierKind::Arrive {
            arrivals.passed += 1;
            let warp = &mut self.warps[index];
            warp.clock += 1;
            warp.pass_barrier();
        } else {
            arrivals.waiting |= 1 << index;
            self.states[index] = State::AtBarrier;
        }
        self.release_complete();
    }

    fn release_complete(&mut self) {
        let living = self.states.iter().filter(|state| **state != State::Done).count() as u32;
        for id in 0..16 {
            let Arrivals { waiting, passed, expected, .. } = self.barriers[id];
            let needed = if expected == 0 { living } else { expected.div_ceil(32) };
            if waiting != 0 && waiting.count_ones() + passed >= needed {
                self.release(id);
            }
        }
    }

    /// All have come: they know each other's past, and their clocks move.
    fn release(&mut self, id: usize) {
        let arrivals = std::mem::take(&mut self.barriers[id]);
        each(arrivals.waiting, |index| {
            self.context.known[index].join(&arrivals.seen);
            let barrier = self.barrier_at(index);
            let warp = &mut self.warps[index];
            warp.clock += 1;
            match barrier.map(|barrier| (barrier.kind, barrier.d)) {
                Some((BarrierKind::Popc, d)) => {
                    super::put(&mut warp.words[d as usize], warp.live, &[arrivals.popc; 32])
                }
                Some((BarrierKind::And, d)) => warp.predicates[d as usize] = if arrivals.not_all { 0 } else { ALL },
                Some((BarrierKind::Or, d)) => warp.predicates[d as usize] = if arrivals.any { ALL } else { 0 },
                _ => {}
            }
            warp.pass_barrier();
            self.states[index] = State::Ready;
        });
    }

    /// Warps whose mbarrier has moved may ask it again.
    fn wake(&mut self) {
        for (state, warp) in self.states.iter_mut().zip(&self.warps) {
            if *state == State::Waiting && self.context.mbarriers.any_passes(&warp.awaited) {
                *state = State::Ready;
            }
        }
    }

    /// Nothing can go on, and a warp waits at an mbarrier: it is reported and let through.
    fn open_mbarrier(&mut self) -> bool {
        let Some(index) = self.states.iter().position(|state| *state == State::Waiting) else { return false };
        let warp = &mut self.warps[index];
        if let Some((pc, lane)) = warp.give_up_waiting() {
            let (address, parity) = warp.awaited[0];
            self.context.fault(index as u8, lane, Kind::NoProgress, pc, Some(address.into()), || {
                let missing = self.context.mbarriers.missing(address);
                format!("waits for ever for the phase of parity {parity} of an mbarrier: {missing}")
            });
        }
        self.states[index] = State::Ready;
        true
    }

    /// The warps of a warpgroup must have made the same products in the same order.
    fn check_warpgroups(&self) {
        for (group, warps) in self.warps.chunks(4).enumerate() {
            let first = &warps[0].products;
            if let Some(other) = warps.iter().find(|warp| warp.products.path() != first.path()) {
                let (one, pc) = (first.path().1, other.products.path().1);
                self.context.fault(other.index, 0, Kind::BarrierDivergence, pc.max(one), None, || {
                    format!("warps {} to {} did not all execute the same wgmma operations", 4 * group, 4 * group + 3)
                });
            }
        }
    }

    /// Nothing can go on: some barrier will never be reached by all. It is reported and opened.
    fn stuck(&mut self) {
        for id in 0..16 {
            let waiting = self.barriers[id].waiting;
            if waiting == 0 {
                continue;
            }
            let first = waiting.trailing_zeros() as usize;
            let elsewhere: Vec<String> = (0..self.warps.len())
                .filter(|&warp| waiting >> warp & 1 == 0 && self.states[warp] != State::Done)
                .map(|warp| format!("warp {warp} is at {}", self.context.place(self.warps[warp].pc())))
                .collect();
            let pc = self.warps[first].pc();
            let lane = self.warps[first].live.trailing_zeros();
            self.context.fault(first as u8, lane, Kind::BarrierDivergence, pc, None, || {
                let rest = if elsewhere.is_empty() { "the others have left".to_owned() } else { elsewhere.join(", ") };
                format!("warps {waiting:#x} wait at barrier {id} for ever: {rest}")
            });
            self.release(id);
            return;
        }
    }
}

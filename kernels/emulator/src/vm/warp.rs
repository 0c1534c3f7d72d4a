//! A warp: 32 lanes that share an instruction while they stand at the same place.
//!
//! Lanes that parted are groups of (pc, mask). The group with the lowest pc runs, until it meets another, parts again,
//! waits for lanes it must act together with, or leaves. Groups at one pc become one.

use super::block::Context;
use super::copy::Copies;
use super::hopper::{self, Products};
use super::launch::Launch;
use super::matrix::Tile;
use super::{ALL, Lanes, WideLanes, alu, collective, exchange, lanes, memory, noise, print, vector};
use crate::ptx::decode::{Constant, MaskKind};
use crate::ptx::op::{NONE, Op, Slot};
use crate::ptx::types::Class;
use crate::ptx::watch::{Origin, Watch};
use crate::race::report::Kind;

#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub pc: u32,
    pub mask: u32,
    /// Stands at a collective operation whose other lanes are elsewhere.
    waiting: bool,
    /// Stands at an mbarrier whose phase is not complete.
    pub(super) awaits: bool,
    /// Nobody else can come: it acts with the lanes it has, or passes the mbarrier.
    pub(super) forced: bool,
}

impl Group {
    fn new(pc: u32, mask: u32) -> Self {
        Self { pc, mask, waiting: false, awaits: false, forced: false }
    }
}

/// Why a warp handed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Done,
    Barrier,
    /// All that could run waits at an mbarrier.
    Mbarrier,
    Budget,
}

/// What ends a stretch of instructions of one group.
enum Event {
    Regroup,
    Barrier,
    Budget,
}

pub struct Warp {
    pub index: u8,
    pub words: Vec<Lanes>,
    pub doubles: Vec<WideLanes>,
    pub predicates: Vec<u32>,
    /// Lanes that have not left.
    pub live: u32,
    pub groups: Vec<Group>,
    /// Moves at every synchronisation; starts at 1.
    pub clock: u32,
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    pub copies: Copies,
    /// The mbarriers that groups wait at, each with the parity of its phase.
    pub awaited: Vec<(u32, u32)>,
    pub products: Products,
    /// Lanes in which a watched register was written.
    pub(super) written: Vec<u32>,
    /// Where an mma is worked out.
    pub tile: Box<Tile>,
    /// Instructions run so far.
    pub ran: u64,
    /// The CPU has AVX2 and FMA.
    pub vector: bool,
    pub noise: Option<u64>,
}

impl Warp {
    pub fn new(launch: &Launch, index: u8) -> Self {
        let [predicates, words, doubles] = launch.program.files;
        let local = launch.program.local_bytes as usize * 32;
        Self {
            index,
            words: vec![[0; 32]; words],
            doubles: vec![[0; 32]; doubles],
            predicates: vec![0; predicates],
            live: 0,
            groups: Vec::new(),
            clock: 1,
            local: vec![0xff; local],
            local_written: vec![false; local],
            copies: Copies::default(),
            awaited: Vec::new(),
            products: Products::new(launch.program.lent),
            written: vec![0; launch.program.watched],
            tile: Box::default(),
            ran: 0,
            vector: launch.vector,
            noise: launch.noise,
        }
    }

    /// At the first instruction, with the constants of this warp of this block.
    pub fn reset(&mut self, launch: &Launch, block: [u32; 3]) {
        let threads = launch.threads();
        let first = u32::from(self.index) * 32;
        let present = (threads - first).min(32);
        self.live = if present == 32 { ALL } else { (1 << present) - 1 };
        self.groups.clear();
        self.groups.push(Group::new(0, self.live));
        self.clock = 1;
        self.local_written.fill(false);
        self.copies.clear();
        self.awaited.clear();
        self.products.clear();
        self.written.fill(0);
        self.words.fill([0x7fff_7fff; 32]);
        for &(class, slot, constant) in &launch.program.constants {
            let value: WideLanes = match constant {
                Constant::Bits(bits) => [bits; 32],
                other => lanes(|lane| value_of(launch, block, self.index, lane as u32, other)),
            };
            match class {
                Class::Double => self.doubles[slot as usize] = value,
                Class::Word => self.words[slot as usize] = lanes(|lane| value[lane] as u32),
                Class::Predicate => self.predicates[slot as usize] = if value[0] == 0 { 0 } else { ALL },
            }
        }
    }

    /// Goes on after a barrier.
    pub fn pass_barrier(&mut self) {
        for group in &mut self.groups {
            group.pc += 1;
        }
    }

    pub fn pc(&self) -> u32 {
        self.groups.first().map_or(0, |group| group.pc)
    }

    /// The group to run next, after merging groups that met; `None` if all wait.
    fn pick(&mut self) -> Option<usize> {
        if self.groups.len() > 1 {
            self.groups.sort_unstable_by_key(|group| group.pc);
            self.groups.dedup_by(|next, first| {
                let met = next.pc == first.pc;
                if met {
                    first.mask |= next.mask;
                    (first.waiting, first.awaits) = (false, false);
                }
                met
            });
        }
        self.groups.iter().position(|group| !group.waiting && !group.awaits)
    }

    /// Nothing will complete a phase that this warp waits for: the first group that does goes on without. Its place and
    /// its first lane, unless that was said before.
    pub fn give_up_waiting(&mut self) -> Option<(u32, u32)> {
        let group = self.groups.iter_mut().find(|group| group.awaits)?;
        group.forced = true;
        Some((group.pc, group.mask.trailing_zeros()))
    }

    fn watch_before(&mut self, context: &Context, watch: &Watch, pc: u32, group: u32, active: u32) {
        if let Some(guard) = watch.guard {
            self.check_written(context, guard, pc, group);
        }
        for &register in &watch.uses {
            self.check_written(context, register, pc, active);
        }
        if !watch.touches.is_empty() {
            self.products.touch(context, self.index, watch, pc, active);
        }
    }

    pub(super) fn check_written(&mut self, context: &Context, register: u16, pc: u32, active: u32) {
        let written = &mut self.written[register as usize];
        let missing = active & !*written;
        if missing != 0 {
            // Once is enough for each register.
            *written = ALL;
            context.fault(self.index, missing.trailing_zeros(), Kind::Uninitialised, pc, None, || {
                "reads a register that was never written on this path".into()
            });
        }
    }

    fn watch_after(&mut self, watch: &Watch, active: u32) {
        let written = |register: Option<u16>| register.map_or(ALL, |register| self.written[register as usize]);
        let source = match watch.origin {
            Origin::Computed => ALL,
            Origin::Copy(from) => written(from),
            Origin::Select { p, a, b } => {
                let p = self.predicates[p as usize];
                p & written(a) | !p & written(b)
            }
        };
        for &register in &watch.defines {
            let lanes = &mut self.written[register as usize];
            *lanes = *lanes & !active | source & active;
        }
    }
}

fn value_of(launch: &Launch, block: [u32; 3], warp: u8, lane: u32, constant: Constant) -> u64 {
    let linear = u32::from(warp) * 32 + lane;
    let [x, y, _] = launch.block;
    let value = match constant {
        Constant::Bits(bits) => return bits,
        Constant::Thread(0) => linear % x,
        Constant::Thread(1) => linear / x % y,
        Constant::Thread(_) => linear / (x * y),
        Constant::BlockSize(axis) => launch.block[axis as usize],
        Constant::Block(axis) => block[axis as usize],
        Constant::GridSize(axis) => launch.grid[axis as usize],
        Constant::Lane => lane,
        Constant::Warp => warp.into(),
        Constant::Warps => launch.threads().div_ceil(32),
        Constant::Multiprocessor => 0,
        Constant::LaneMask(kind) => match kind {
            MaskKind::Eq => 1 << lane,
            MaskKind::Lt => (1 << lane) - 1,
            MaskKind::Le => ALL >> (31 - lane),
            MaskKind::Gt => !(ALL >> (31 - lane)),
            MaskKind::Ge => !((1 << lane) - 1),
        },
        Constant::DynamicShared => launch.dynamic_shared,
        Constant::TotalShared => launch.program.shared_bytes + launch.dynamic_shared,
    };
    value.into()
}

/// Runs a warp until it is done, stands at a barrier, or has used `budget` instructions.
pub fn run(warp: &mut Warp, context: &mut Context, budget: u64) -> Stop {
    let mut left = budget;
    warp.groups.iter_mut().for_each(|group| group.awaits = false);
    warp.awaited.clear();
    let stop = loop {
        if warp.groups.is_empty() {
            break Stop::Done;
        }
        let Some(group) = warp.pick() else {
            if warp.groups.iter().any(|group| group.awaits) {
                break Stop::Mbarrier;
            }
            // Every group waits for lanes that cannot come.
            let first = &mut warp.groups[0];
            (first.waiting, first.forced) = (false, true);
            continue;
        };
        match stretch(warp, context, group, &mut left) {
            Event::Regroup => {}
            Event::Barrier => break Stop::Barrier,
            Event::Budget => break Stop::Budget,
        }
    };
    warp.ran += budget - left;
    stop
}

/// Whether the group may act together with the lanes in `required`; else it waits, or acts with those present.
pub(super) fn together(warp: &mut Warp, context: &Context, group: usize, pc: u32, active: u32, required: u32) -> bool {
    let missing = required & !active;
    if missing == 0 {
        let outside = active & !required;
        if outside != 0 {
            context.fault(warp.index, outside.trailing_zeros(), Kind::AbsentLanes, pc, None, || {
                format!("lanes {outside:#010x} execute this but are not in its mask {required:#010x}")
            });
        }
        return true;
    }
    if !warp.groups[group].forced {
        warp.groups[group].waiting = true;
        warp.groups[group].pc = pc;
        return false;
    }
    warp.groups[group].forced = false;
    context.fault(warp.index, active.trailing_zeros(), Kind::AbsentLanes, pc, None, || {
        format!("waits for lanes {missing:#010x}, which left or stand elsewhere")
    });
    true
}

fn stretch(warp: &mut Warp, context: &mut Context, group: usize, left: &mut u64) -> Event {
    let launch = context.launch;
    let steps = &launch.program.steps[..];
    let Group { mut pc, mask, .. } = warp.groups[group];
    let limit = warp.groups.iter().map(|other| other.pc).filter(|&other| other > pc).min().unwrap_or(u32::MAX);
    loop {
        if *left == 0 {
            warp.groups[group].pc = pc;
            return Event::Budget;
        }
        *left -= 1;
        let step = &steps[pc as usize];
        let mut active = mask;
        if step.guard != NONE {
            let p = warp.predicates[step.guard as usize];
            active &= if step.negated { !p } else { p };
        }
        context.counts.flop += u64::from(step.flop) * u64::from(active.count_ones());
        if let Some(watch) = &step.watch {
            warp.watch_before(context, watch, pc, mask, active);
        }
        // Lanes that left may be written freely, which makes most writes whole registers.
        let wide = active | !warp.live;
        let mut next = pc + 1;
        match &step.op {
            Op::Word1(op, d, [a]) => {
                // The result may take the operand's place.
                let noise = launch.noise.map(|seed| (seed, warp.words[*a as usize]));
                vector::unary(warp, *op, *d, *a, wide);
                if let Some((seed, operand)) = noise {
                    noise::unary(warp, seed, *op, *d, &operand, wide);
                }
            }
            Op::Word2(op, d, s) => {
                let noise = launch.noise.map(|seed| (seed, s.map(|slot| warp.words[slot as usize])));
                vector::binary(warp, *op, *d, *s, wide);
                if let Some((seed, [a, b])) = noise {
                    noise::binary(warp, seed, *op, *d, [&a, &b], wide);
                }
            }
            Op::Word3(op, d, s) => vector::ternary(warp, *op, *d, *s, wide),
            Op::Mma(m) => {
                if !together(warp, context, group, pc, active, ALL) {
                    return Event::Regroup;
                }
                context.counts.mma += 1;
                vector::multiply(warp, m);
            }
            Op::Matrix(m) => {
                if !together(warp, context, group, pc, active, ALL) {
                    return Event::Regroup;
                }
                memory::matrix(warp, context, m, pc, active);
            }
            Op::Compare(c) => vector::compare(warp, c, active),
            Op::Branch(target) => {
                if active == mask {
                    next = *target;
                } else if active != 0 {
                    warp.groups[group] = Group::new(next, mask & !active);
                    warp.groups.push(Group::new(*target, active));
                    return Event::Regroup;
                }
            }
            Op::Load(m) if active != 0 => memory::load(warp, context, m, pc, active),
            Op::Store(m) if active != 0 => memory::store(warp, context, m, pc, active),
            Op::Atomic(a) if active != 0 => exchange::atomic(warp, context, a, pc, active),
            Op::CopyAsync(c) if active != 0 => memory::copy_async(warp, context, c, pc, active),
            Op::CopyCommit => warp.copies.commit(active),
            Op::CopyWait(pending) => memory::copy_wait(warp, context, *pending, active),
            Op::CopyWaitAll => {
                warp.copies.commit(active);
                memory::copy_wait(warp, context, 0, active);
            }
            Op::Shuffle(s) if active != 0 => {
                let required = warp.words[s.mask as usize][active.trailing_zeros() as usize];
                if !together(warp, context, group, pc, active, required) {
                    return Event::Regroup;
                }
                collective::shuffle(warp, context, s, pc, active, wide);
            }
            Op::Vote { mask: m, .. } | Op::Match { mask: m, .. } | Op::Reduce { mask: m, .. } if active != 0 => {
                let required = warp.words[*m as usize][active.trailing_zeros() as usize];
                if !together(warp, context, group, pc, active, required) {
                    return Event::Regroup;
                }
                collective::gather(warp, &step.op, active);
            }
            Op::SyncWarp(m) if active != 0 => {
                let required = warp.words[*m as usize][active.trailing_zeros() as usize];
                if !together(warp, context, group, pc, active, required) {
                    return Event::Regroup;
                }
                context.known[warp.index as usize].warps[warp.index as usize & 31] = warp.clock;
                warp.clock += 1;
            }
            Op::Barrier(_) if active != 0 => {
                if active == warp.live && warp.groups.len() == 1 {
                    warp.groups[group].pc = pc;
                    return Event::Barrier;
                }
                if !warp.groups[group].forced {
                    (warp.groups[group].waiting, warp.groups[group].pc) = (true, pc);
                    return Event::Regroup;
                }
                warp.groups[group].forced = false;
                let missing = warp.live & !active;
                context.fault(warp.index, active.trailing_zeros(), Kind::BarrierDivergence, pc, None, || {
                    format!("lanes {missing:#010x} of the warp do not come to this barrier")
                });
            }
            Op::Exit => {
                warp.live &= !active;
                if active == mask {
                    warp.groups.remove(group);
                } else {
                    warp.groups[group].mask &= !active;
                    warp.groups[group].pc = next;
                }
                // A barrier asks for the lanes that are left.
                warp.groups.iter_mut().for_each(|group| group.waiting = false);
                return Event::Regroup;
            }
            Op::BranchTable(index, targets) if active != 0 => {
                let index = warp.words[*index as usize];
                warp.groups[group].mask &= !active;
                warp.groups[group].pc = next;
                for (position, &target) in targets.iter().enumerate() {
                    let last = position + 1 == targets.len();
                    let lanes = (0..32)
                        .filter(|&lane| index[lane] as usize == position || last && index[lane] as usize > position);
                    let lanes = lanes.fold(0, |lanes, lane| lanes | 1 << lane) & active;
                    if lanes != 0 {
                        warp.groups.push(Group::new(target, lanes));
                    }
                }
                warp.groups.retain(|group| group.mask != 0);
                return Event::Regroup;
            }
            Op::Word4(op, d, s) => vector::quaternary(warp, *op, *d, *s, wide),
            Op::Double1(op, d, [a]) => vector::double_unary(warp, *op, *d, *a, wide),
            Op::Double2(op, d, s) => vector::double_binary(warp, *op, *d, *s, wide),
            Op::Double3(op, d, s) => vector::double_ternary(warp, *op, *d, *s, wide),
            Op::Predicate2(op, d, a, b) => {
                let value = alu::logic(*op, warp.predicates[*a as usize], warp.predicates[*b as usize]);
                set_predicate(warp, *d, value, active);
            }
            Op::PredicateMov { d, a, negated } => {
                let value = warp.predicates[*a as usize] ^ if *negated { ALL } else { 0 };
                set_predicate(warp, *d, value, active);
            }
            Op::Hopper(hopper) if active != 0 => {
                if !hopper::run(warp, context, hopper, step.watch.as_deref(), group, pc, active) {
                    return Event::Regroup;
                }
            }
            Op::Fence => (context.fenced, context.released) = (true, true),
            Op::ActiveMask(d) => super::put(&mut warp.words[*d as usize], active, &[active; 32]),
            Op::Clock(d) => super::put(&mut warp.words[*d as usize], active, &[(warp.ran + *left) as u32; 32]),
            Op::Clock64(d) => {
                let now = launch.started.elapsed().as_nanos() as u64;
                super::put(&mut warp.doubles[*d as usize], active, &[now; 32]);
            }
            Op::Print { .. } | Op::Assert { .. } | Op::Trap => print::host(warp, context, &step.op, pc, active),
            other => vector::mixed(warp, other, wide),
        }
        if let Some(watch) = &step.watch {
            warp.watch_after(watch, active);
        }
        pc = next;
        if pc >= limit {
            warp.groups[group].pc = pc;
            return Event::Regroup;
        }
    }
}

fn set_predicate(warp: &mut Warp, d: Slot, value: u32, active: u32) {
    let old = &mut warp.predicates[d as usize];
    *old = *old & !active | value & active;
}

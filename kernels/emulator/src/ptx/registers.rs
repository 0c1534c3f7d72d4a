//! nvcc's PTX names thousands of registers; a warp holding all of them runs out of the cache. Here they are packed into
//! few slots by a linear scan over live ranges. The same pass finds the registers that some path reads before it writes
//! them: those keep a slot of their own and are watched while the kernel runs.

use super::decode::{Constant, Instruction, Kernel};
use super::hopper::{Left, asynchronous};
use super::op::{NONE, Op, Role, Slot};
use super::parse::Location;
use super::types::Class;
use super::watch::{Watch, copies};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// One operation ready to run.
#[derive(Clone, Debug)]
pub struct Step {
    pub op: Op,
    pub guard: Slot,
    pub negated: bool,
    /// Floating-point operations of a lane.
    pub flop: u8,
    /// Set where it touches a watched register.
    pub watch: Option<Box<Watch>>,
    pub line: u32,
    pub location: Location,
}

/// A kernel whose registers are slots of a warp's files.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: String,
    pub steps: Vec<Step>,
    pub constants: Vec<(Class, Slot, Constant)>,
    /// Slots of each file: predicates, words, doubles.
    pub files: [usize; 3],
    /// Registers that are watched for reads before their first write.
    pub watched: usize,
    /// The first so many of them are wgmma's.
    pub lent: usize,
    pub parameters: Vec<(u32, u32)>,
    pub parameter_bytes: u32,
    pub shared_bytes: u32,
    pub local_bytes: u32,
    pub max_threads: u32,
}

/// A set of small numbers.
#[derive(Clone, PartialEq)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(size: usize, full: bool) -> Self {
        Self(vec![if full { u64::MAX } else { 0 }; size.div_ceil(64)])
    }
    fn insert(&mut self, bit: Slot) {
        self.0[bit as usize / 64] |= 1 << (bit % 64);
    }
    fn remove(&mut self, bit: Slot) {
        self.0[bit as usize / 64] &= !(1 << (bit % 64));
    }
    fn contains(&self, bit: Slot) -> bool {
        self.0[bit as usize / 64] >> (bit % 64) & 1 == 1
    }
    fn union(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }
    fn intersect(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= b);
    }
    fn each(&self, mut f: impl FnMut(Slot)) {
        for (word, &bits) in self.0.iter().enumerate() {
            let mut bits = bits;
            while bits != 0 {
                f((word * 64) as Slot + bits.trailing_zeros() as Slot);
                bits &= bits - 1;
            }
        }
    }
}

/// Registers that the tensor cores use after the operation that names them: they are nobody else's meanwhile.
fn lent(kernel: &Kernel, registers: usize) -> Bits {
    let mut lent = Bits::new(registers, false);
    for m in kernel.instructions.iter().filter_map(|instruction| asynchronous(&instruction.op)) {
        m.d.iter().filter(|&&slot| slot != NONE).for_each(|&slot| lent.insert(slot));
        if let Left::Registers(slots) = &m.a {
            slots.iter().for_each(|&slot| lent.insert(slot));
        }
    }
    lent
}

/// What an instruction reads and writes; a guarded write keeps the old value in other lanes, so it reads too.
#[derive(Default)]
struct Effect {
    uses: Vec<(Class, Slot)>,
    defines: Vec<(Class, Slot)>,
    guarded: bool,
}

struct Block {
    start: usize,
    end: usize,
    next: Vec<usize>,
}

fn effects(instructions: &mut [Instruction]) -> Vec<Effect> {
    let effect = |instruction: &mut Instruction| {
        let mut effect = Effect { guarded: instruction.guard != NONE, ..Effect::default() };
        if effect.guarded {
            effect.uses.push((Class::Predicate, instruction.guard));
        }
        instruction.op.slots(&mut |class, slot, role| match role {
            Role::Use => effect.uses.push((class, *slot)),
            Role::Define => effect.defines.push((class, *slot)),
        });
        effect
    };
    instructions.iter_mut().map(effect).collect()
}

fn blocks(instructions: &[Instruction]) -> Vec<Block> {
    let mut leader = vec![false; instructions.len() + 1];
    leader[0] = true;
    for (at, instruction) in instructions.iter().enumerate() {
        match &instruction.op {
            Op::Branch(target) => (leader[*target as usize], leader[at + 1]) = (true, true),
            Op::BranchTable(_, targets) => {
                targets.iter().for_each(|&target| leader[target as usize] = true);
                leader[at + 1] = true;
            }
            Op::Exit => leader[at + 1] = true,
            _ => {}
        }
    }
    let starts: Vec<usize> = (0..instructions.len()).filter(|&at| leader[at]).collect();
    let block_at = |at: usize| starts.partition_point(|&start| start <= at) - 1;
    let block = |(index, &start): (usize, &usize)| {
        let end = starts.get(index + 1).copied().unwrap_or(instructions.len());
        let last = &instructions[end - 1];
        let mut next = Vec::new();
        match &last.op {
            Op::Branch(target) => next.push(block_at(*target as usize)),
            Op::BranchTable(_, targets) => next.extend(targets.iter().map(|&target| block_at(target as usize))),
            _ => {}
        }
        let falls = !matches!(last.op, Op::Branch(_) | Op::BranchTable(..) | Op::Exit) || last.guard != NONE;
        if falls && end < instructions.len() {
            next.push(index + 1);
        }
        Block { start, end, next }
    };
    starts.iter().enumerate().map(block).collect()
}

/// Registers live at the start and at the end of each block.
fn liveness(blocks: &[Block], effects: &[Effect], registers: usize) -> (Vec<Bits>, Vec<Bits>) {
    let mut live_in = vec![Bits::new(registers, false); blocks.len()];
    let mut live_out = live_in.clone();
    let mut changed = true;
    while changed {
        changed = false;
        for (index, block) in blocks.iter().enumerate().rev() {
            let mut live = Bits::new(registers, false);
            block.next.iter().for_each(|&next| live.union(&live_in[next]));
            live_out[index] = live.clone();
            for effect in effects[block.start..block.end].iter().rev() {
                if !effect.guarded {
                    effect.defines.iter().for_each(|&(_, slot)| live.remove(slot));
                }
                effect.uses.iter().for_each(|&(_, slot)| live.insert(slot));
            }
            changed |= live != live_in[index];
            live_in[index] = live;
        }
    }
    (live_in, live_out)
}

/// Registers that some path reads before any write, and those that copies carry their emptiness to.
fn unwritten(kernel: &Kernel, blocks: &[Block], effects: &[Effect], registers: usize) -> Bits {
    let mut written = vec![Bits::new(registers, true); blocks.len()];
    let mut first = Bits::new(registers, false);
    kernel.constants.iter().for_each(|&(_, slot, _)| first.insert(slot));
    written[0] = first.clone();
    let mut suspects = Bits::new(registers, false);
    let after = |block: &Block, known: &Bits, suspects: &mut Bits| {
        let mut known = known.clone();
        for effect in &effects[block.start..block.end] {
            effect.uses.iter().filter(|&&(_, slot)| !known.contains(slot)).for_each(|&(_, slot)| suspects.insert(slot));
            if !effect.guarded {
                effect.defines.iter().for_each(|&(_, slot)| known.insert(slot));
            }
        }
        known
    };
    let mut changed = true;
    while changed {
        changed = false;
        for block in 0..blocks.len() {
            let out = after(&blocks[block], &written[block], &mut Bits::new(registers, false));
            for &next in &blocks[block].next {
                let before = written[next].clone();
                written[next].intersect(&out);
                changed |= before != written[next];
            }
        }
    }
    for (block, known) in blocks.iter().zip(&written) {
        after(block, known, &mut suspects);
    }
    loop {
        let before = suspects.clone();
        for (instruction, effect) in kernel.instructions.iter().zip(effects) {
            if copies(&instruction.op) && effect.uses.iter().any(|&(_, slot)| suspects.contains(slot)) {
                effect.defines.iter().for_each(|&(_, slot)| suspects.insert(slot));
            }
        }
        if before == suspects {
            return suspects;
        }
    }
}

fn file(class: Class) -> usize {
    match class {
        Class::Predicate => 0,
        Class::Word => 1,
        Class::Double => 2,
    }
}

/// Packs a kernel's registers.
pub fn compact(mut kernel: Kernel) -> Program {
    let registers = kernel.registers as usize;
    let effects = effects(&mut kernel.instructions);
    let blocks = blocks(&kernel.instructions);
    let lent = lent(&kernel, registers);
    let mut suspects = unwritten(&kernel, &blocks, &effects, registers);
    suspects.union(&lent);
    let (live_in, live_out) = liveness(&blocks, &effects, registers);

    // Live ranges in half steps: reads at 2 i, writes at 2 i + 1.
    let mut ranges = vec![(usize::MAX, 0usize); registers];
    let mut classes = vec![Class::Word; registers];
    let mut touch = |slot: Slot, at: usize| {
        let (start, end) = &mut ranges[slot as usize];
        (*start, *end) = ((*start).min(at), (*end).max(at));
    };
    for (index, block) in blocks.iter().enumerate() {
        live_in[index].each(|slot| touch(slot, 2 * block.start));
        live_out[index].each(|slot| touch(slot, 2 * block.end - 1));
    }
    for (at, effect) in effects.iter().enumerate() {
        for &(class, slot) in &effect.uses {
            classes[slot as usize] = class;
            touch(slot, 2 * at);
        }
        for &(class, slot) in &effect.defines {
            classes[slot as usize] = class;
            touch(slot, 2 * at + 1);
        }
    }
    suspects.each(|slot| (touch(slot, 0), touch(slot, 2 * effects.len())).0);

    let mut files = [0usize; 3];
    let mut slots = vec![NONE; registers];
    let mut constants = kernel.constants.clone();
    let is_constant: HashSet<Slot> = constants.iter().map(|&(_, slot, _)| slot).collect();
    let mut order: Vec<usize> =
        (0..registers).filter(|&r| ranges[r].0 != usize::MAX && !is_constant.contains(&(r as Slot))).collect();
    order.sort_by_key(|&register| ranges[register]);
    let mut active: BinaryHeap<Reverse<(usize, usize)>> = BinaryHeap::new();
    let mut free: [BinaryHeap<Reverse<Slot>>; 3] = Default::default();
    for register in order {
        let (start, end) = ranges[register];
        while let Some(&Reverse((ended, old))) = active.peek() {
            if ended >= start {
                break;
            }
            active.pop();
            free[file(classes[old])].push(Reverse(slots[old]));
        }
        let own = file(classes[register]);
        slots[register] = match free[own].pop() {
            Some(Reverse(slot)) => slot,
            None => {
                files[own] += 1;
                (files[own] - 1) as Slot
            }
        };
        active.push(Reverse((end, register)));
    }
    for (class, register, _) in &mut constants {
        let own = file(*class);
        slots[*register as usize] = files[own] as Slot;
        *register = files[own] as Slot;
        files[own] += 1;
    }

    // Those that are lent first.
    let mut watched = HashMap::new();
    let mut number = |slot: Slot| {
        let next = watched.len() as u16;
        watched.entry((classes[slot as usize], slots[slot as usize])).or_insert(next);
    };
    lent.each(&mut number);
    suspects.each(&mut number);
    let mut count = 0;
    lent.each(|_| count += 1);
    let steps = kernel.instructions.into_iter().map(|mut instruction| {
        instruction.op.slots(&mut |_, slot, _| *slot = slots[*slot as usize]);
        let guard = if instruction.guard == NONE { NONE } else { slots[instruction.guard as usize] };
        let Instruction { mut op, negated, line, location, .. } = instruction;
        let watch = Watch::new(&mut op, guard, &watched, count).map(Box::new);
        Step { flop: op.flop(), op, guard, negated, watch, line, location }
    });
    let steps = steps.collect();
    Program {
        name: kernel.name,
        steps,
        constants,
        files,
        watched: watched.len(),
        lent: count.into(),
        parameters: kernel.parameters,
        parameter_bytes: kernel.parameter_bytes,
        shared_bytes: kernel.shared_bytes,
        local_bytes: kernel.local_bytes,
        max_threads: kernel.max_threads,
    }
}

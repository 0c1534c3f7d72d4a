//! What compute capability 9.0 added: who does what of [`Hopper`], and the products of a warpgroup.
//!
//! A warp makes its own 16 rows of a warpgroup's 64 by itself: they depend on nothing of the other three warps but on what
//! lies in shared memory. A product is worked out when it is issued; until its wait, its accumulators may not be touched, nor
//! its operands be written, and both are reported.

use super::block::Context;
use super::matrix::{self, Tile};
use super::memory::{At, shared_conflict, shared_in_bounds, who};
use super::warp::{Warp, together};
use super::{ALL, mbarrier, put, vector};
use crate::ptx::hopper::{Hopper, Left, Wgmma};
use crate::ptx::op::NONE;
use crate::ptx::watch::Watch;
use crate::race::report::Kind;
use crate::race::shared::Who;

/// An accumulator that a product is under way to.
const BUSY: u8 = 1;
/// A fragment of A that a product reads.
const READ: u8 = 2;
/// Touched by another operation since the last wgmma.fence.
const TOUCHED: u8 = 4;

/// Products up to a commit.
#[derive(Default)]
struct Batch {
    /// Their operations.
    steps: Vec<u32>,
    /// Addresses of the 16 bytes each that they read.
    held: Vec<u32>,
}

/// A warp's products under way.
pub struct Products {
    /// Of each register lent to wgmma: what it is used for.
    lent: Vec<u8>,
    open: Batch,
    committed: Vec<Batch>,
    /// A hash of the wgmma operations so far, and the last one's place.
    path: (u64, u32),
    /// Addresses of 16 bytes of the operands of one product: A's 16 rows, two each, if they lie in shared memory; B's columns.
    pub places: Vec<u32>,
}

impl Products {
    pub fn new(lent: usize) -> Self {
        let lent = vec![TOUCHED; lent];
        Self { lent, open: Batch::default(), committed: Vec::new(), path: (0, 0), places: Vec::new() }
    }

    pub fn clear(&mut self) {
        self.lent.fill(TOUCHED);
        self.open = Batch::default();
        self.committed.clear();
        self.path = (0, 0);
    }

    pub fn path(&self) -> (u64, u32) {
        self.path
    }

    fn walk(&mut self, pc: u32) {
        self.path = ((self.path.0 ^ u64::from(pc + 1)).wrapping_mul(0x100_0000_01b3), pc);
    }

    /// Another operation reads or writes registers that are lent.
    #[inline(never)]
    pub fn touch(&mut self, context: &Context, warp: u8, watch: &Watch, pc: u32, active: u32) {
        if active == 0 {
            return;
        }
        for (index, &register) in watch.touches.iter().enumerate() {
            let state = &mut self.lent[register as usize];
            let reads = index < watch.reads;
            if *state & BUSY != 0 || *state & READ != 0 && !reads {
                *state &= !(BUSY | READ);
                if context.launch.detect {
                    context.fault(warp, active.trailing_zeros(), Kind::EarlyRegister, pc, None, || {
                        let verb = if reads { "reads" } else { "writes" };
                        format!("{verb} a register of wgmma.mma_async with no wgmma.wait_group between")
                    });
                }
            }
            *state |= TOUCHED;
        }
    }

    /// Marks what the products of a batch use.
    fn mark(lent: &mut [u8], steps: &[u32], context: &Context, set: bool) {
        for &step in steps {
            let Some(watch) = context.launch.program.steps[step as usize].watch.as_deref() else { continue };
            for (registers, flag) in [(&watch.defines, BUSY), (&watch.uses, READ)] {
                for &register in registers {
                    let state = &mut lent[register as usize];
                    *state = if set { *state | flag } else { *state & !flag };
                }
            }
        }
    }
}

/// Executes an operation; false where its group of lanes must wait. Apart from the interpreter's loop, which is slower
/// where it is longer.
#[inline(never)]
pub fn run(
    warp: &mut Warp,
    context: &mut Context,
    hopper: &Hopper,
    watch: Option<&Watch>,
    group: usize,
    pc: u32,
    active: u32,
) -> bool {
    match hopper {
        Hopper::Wgmma(_) | Hopper::WgmmaFence | Hopper::WgmmaCommit | Hopper::WgmmaWait(_) => {
            if !together(warp, context, group, pc, active, ALL) {
                return false;
            }
            warp.products.walk(pc);
            match hopper {
                Hopper::Wgmma(m) => product(warp, context, m, watch, pc),
                Hopper::WgmmaFence => warp.products.lent.iter_mut().for_each(|state| *state &= !TOUCHED),
                Hopper::WgmmaCommit => {
                    let batch = std::mem::take(&mut warp.products.open);
                    warp.products.committed.push(batch);
                }
                Hopper::WgmmaWait(pending) => wait(warp, context, *pending as usize),
                _ => {}
            }
        }
        Hopper::Init { barrier, count } => mbarrier::init(warp, context, *barrier, *count, pc, active),
        Hopper::Invalidate { barrier } => mbarrier::invalidate(warp, context, *barrier, pc, active),
        Hopper::Arrive { barrier, count, bytes } => {
            mbarrier::arrive(warp, context, *barrier, [*count, *bytes], pc, active);
        }
        Hopper::Test { d, barrier, parity, wait } => {
            let (mut passed, awaited) = mbarrier::passed(warp, context, *barrier, *parity, pc, active);
            if passed == 0 && *wait {
                if !warp.groups[group].forced {
                    (warp.groups[group].awaits, warp.groups[group].pc) = (true, pc);
                    warp.awaited.extend(awaited);
                    return false;
                }
                warp.groups[group].forced = false;
                passed = active;
            }
            let old = &mut warp.predicates[*d as usize];
            *old = *old & !active | passed & active;
        }
        Hopper::BulkCopy { to, from, bytes, barrier } => {
            mbarrier::copy(warp, context, [*to, *from, *barrier], *bytes, pc, active);
        }
        Hopper::Elect { d, p, mask } => {
            let required = warp.words[*mask as usize][active.trailing_zeros() as usize];
            if !together(warp, context, group, pc, active, required) {
                return false;
            }
            let leader = (active & required).trailing_zeros() & 31;
            if *d != NONE {
                put(&mut warp.words[*d as usize], active, &[leader; 32]);
            }
            let old = &mut warp.predicates[*p as usize];
            *old = *old & !active | 1 << leader & active;
        }
        Hopper::FenceProxy => {
            let index = warp.index as usize;
            let known = &mut context.known[index];
            let all = known.warps;
            known.fenced.iter_mut().zip(&all).for_each(|(fenced, known)| *fenced = (*fenced).max(*known));
            // Lanes that do not fence have their own writes since they last met the others left out.
            if active == warp.live {
                known.fenced[index & 31] = warp.clock;
            }
            warp.clock += 1;
            context.mbarriers.fence();
        }
        Hopper::FenceInit => context.mbarriers.fence(),
    }
    true
}

/// Products of all batches but the last `pending` are done.
fn wait(warp: &mut Warp, context: &mut Context, pending: usize) {
    let done = warp.products.committed.len().saturating_sub(pending);
    let finished: Vec<Batch> = warp.products.committed.drain(..done).collect();
    let Products { lent, open, committed, .. } = &mut warp.products;
    finished.iter().for_each(|batch| Products::mark(lent, &batch.steps, context, false));
    committed.iter().chain([&*open]).for_each(|batch| Products::mark(lent, &batch.steps, context, true));
    for &place in finished.iter().flat_map(|batch| &batch.held) {
        context.shadow.release(warp.index, warp.clock, place);
    }
    // What later batches read too stays held.
    for &place in committed.iter().chain([&*open]).flat_map(|batch| &batch.held) {
        context.shadow.release(warp.index, u32::MAX, place);
    }
}

/// Where the two vectors of 16 bytes along k lie of a line (a row of A, a column of B) of a matrix in shared memory.
struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    swizzled: bool,
}

impl Descriptor {
    /// Reads bits 0-13 start, 16-29 leading and 32-45 stride offset in units of 16 bytes, 49-51 base offset, 62-63 swizzle.
    fn new(bits: u64) -> Result<Self, String> {
        let field = |shift: u32| ((bits >> shift) as u32 & 0x3fff) << 4;
        let swizzled = match bits >> 62 {
            0 => false,
            1 => true,
            other => return Err(format!("swizzle mode {other} of a matrix descriptor is not supported: 0 and 1 are")),
        };
        let start = field(0);
        if bits >> 49 & 7 != 0 || swizzled && start >> 7 & 7 != 0 {
            return Err(format!("a swizzled matrix at {start:#x} does not begin on a multiple of 1024 bytes"));
        }
        Ok(Self { start, leading: field(16), stride: field(32), swizzled })
    }

    fn place(&self, line: u32, half: u32) -> u32 {
        // Groups of 8 lines; of 128 bytes a line, swizzled, or core matrices of 8 lines of 16 bytes.
        let group = self.start + line / 8 * self.stride;
        if !self.swizzled {
            return group + half * self.leading + line % 8 * 16;
        }
        let plain = group + line % 8 * 128 + half * 16;
        plain ^ (plain >> 7 & 7) << 4
    }
}

fn product(warp: &mut Warp, context: &mut Context, m: &Wgmma, watch: Option<&Watch>, pc: u32) {
    let fault = |context: &Context, kind: Kind, what: String| context.fault(warp.index, 0, kind, pc, None, || what);
    let threads = context.launch.threads();
    if (u32::from(warp.index) / 4 + 1) * 128 > threads {
        return fault(
            context,
            Kind::AbsentLanes,
            format!("a warpgroup is four warps; the block has {threads} threads"),
        );
    }
    let columns = m.d.len() / 4 * 8;
    let mut places = std::mem::take(&mut warp.products.places);
    places.clear();
    let mut lay = |slot: u16, lines: std::ops::Range<u32>| -> Result<(), String> {
        let bits = &warp.doubles[slot as usize];
        if bits.iter().any(|other| *other != bits[0]) {
            return Err("lanes give different matrix descriptors".into());
        }
        let descriptor = Descriptor::new(bits[0])?;
        places.extend(lines.flat_map(|line| [0, 1].map(|half| descriptor.place(line, half))));
        Ok(())
    };
    let first = u32::from(warp.index) % 4 * 16;
    let laid = match m.a {
        Left::Shared(slot) => lay(slot, first..first + 16),
        Left::Registers(_) => Ok(()),
    };
    if let Err(what) = laid.and_then(|()| lay(m.b, 0..columns as u32)) {
        return fault(context, Kind::Misaligned, what);
    }
    for &place in &places {
        let at = At { warp: warp.index, lane: 0, pc };
        if !shared_in_bounds(context, at, place.into(), 16, "multiplies") {
            return;
        }
        if context.launch.detect
            && let Some(conflict) = context.shadow.hold(&who!(warp, context, pc), place)
        {
            shared_conflict(context, at, place.into(), "multiplies", conflict);
        }
    }
    let (p, negated) = m.add;
    let add = (warp.predicates[p as usize] & 1 == 1) != negated;
    if let Some(watch) = watch {
        if add {
            watch.defines.iter().for_each(|&register| warp.check_written(context, register, pc, ALL));
        }
        let products = &mut warp.products;
        let mut touched = watch
            .defines
            .iter()
            .chain(&watch.uses)
            .filter(|&&register| products.lent[register as usize] & TOUCHED != 0);
        if touched.next().is_some() && context.launch.detect {
            let what = "wgmma.mma_async of registers that were touched since the last wgmma.fence";
            context.fault(warp.index, 0, Kind::NoFence, pc, None, || what.into());
        }
        Products::mark(&mut products.lent, &[pc], context, true);
    }
    warp.products.open.steps.push(pc);
    if context.launch.detect {
        warp.products.open.held.extend(&places);
    }
    context.counts.mma += columns as u64 / 8;
    warp.products.places = places;
    vector::products(warp, &context.shared, m, add);
}

/// 16 elements along k.
#[inline(always)]
fn line(shared: &[u8], places: &[u32]) -> [u32; 8] {
    let mut line = [0; 8];
    for (half, &place) in places.iter().enumerate() {
        let bytes = &shared[place as usize..place as usize + 16];
        for (word, bytes) in line[4 * half..4 * half + 4].iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
    }
    line
}

/// Word w of a line holds k = 2 w and the next: of plane 2 (w / 4) and the next, at t = w % 4.
#[inline(always)]
fn split(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

#[inline(always)]
pub fn products(warp: &mut Warp, shared: &[u8], m: &Wgmma, add: bool) {
    let Warp { words, tile, vector, noise, products, .. } = warp;
    let tile: &mut Tile = tile;
    (tile.count, tile.together) = (4, 2);
    let mut places = &products.places[..];
    match &m.a {
        Left::Shared(_) => {
            for row in 0..16 {
                let line = line(shared, &places[2 * row..2 * row + 2]);
                for (w, word) in line.into_iter().enumerate() {
                    let [low, high] = split(word);
                    (tile.planes[w / 4 * 2].a[4 * row + w % 4], tile.planes[w / 4 * 2 + 1].a[4 * row + w % 4]) =
                        (low, high);
                }
            }
            places = &places[32..];
        }
        Left::Registers(slots) => {
            for (index, slot) in slots.iter().enumerate() {
                // Registers: rows g and g + 8 of the first eight k, then of the others.
                for (lane, word) in words[*slot as usize].iter().enumerate() {
                    let at = 32 * (index % 2) + lane;
                    let [low, high] = split(*word);
                    (tile.planes[index / 2 * 2].a[at], tile.planes[index / 2 * 2 + 1].a[at]) = (low, high);
                }
            }
        }
    }
    for (d, places) in m.d.as_chunks::<4>().0.iter().zip(places.chunks_exact(16)) {
        for (column, places) in places.chunks_exact(2).enumerate() {
            for (w, word) in line(shared, places).into_iter().enumerate() {
                let [low, high] = split(word);
                (tile.planes[w / 4 * 2].b[w % 4][column], tile.planes[w / 4 * 2 + 1].b[w % 4][column]) = (low, high);
            }
        }
        if add {
            matrix::gather_sums(words, d, tile);
        } else {
            tile.sum = [[0.0; 8]; 16];
        }
        matrix::sum(tile, *noise, *vector);
        matrix::scatter_sums(words, d, tile);
    }
}

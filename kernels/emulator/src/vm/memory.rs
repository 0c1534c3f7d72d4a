//! Loads, stores, matrix loads and asynchronous copies, each access checked before it is made.

use super::block::Context;
use super::warp::Warp;
use super::{Lanes, each, lanes};
use crate::memory::{Buffer, SHIFT};
use crate::ptx::decode::{LOCAL_BASE, SHARED_BASE};
use crate::ptx::op::{Access, Address, Base, CopyAsync, MatrixLoad, NONE, Window};
use crate::race::global::{self, Other, Touch};
use crate::race::report::Kind;
use crate::race::shared::{Conflict, Trouble, Who};

/// At most 16 bytes on their way.
pub type Data = [u32; 4];

const SHARED: u64 = SHARED_BASE >> SHIFT;
const LOCAL: u64 = LOCAL_BASE >> SHIFT;
const OFFSET: u64 = (1 << SHIFT) - 1;

/// The lane an access is made by, as reports name it.
#[derive(Clone, Copy)]
pub struct At {
    pub warp: u8,
    pub lane: u32,
    pub pc: u32,
}

#[inline(always)]
pub fn addresses(warp: &Warp, address: Address) -> [u64; 32] {
    let offset = address.offset as u64;
    match address.base {
        Base::Absolute => [offset; 32],
        Base::Double(slot) => {
            let base = &warp.doubles[slot as usize];
            lanes(|lane| base[lane].wrapping_add(offset))
        }
        Base::Word(slot) => {
            let base = &warp.words[slot as usize];
            lanes(|lane| u64::from(base[lane].wrapping_add(offset as u32)))
        }
    }
}

/// Checks bounds and alignment in global memory.
#[inline]
pub fn locate<'l>(context: &Context<'l>, at: At, address: u64, bytes: u32, verb: &str) -> Option<(&'l Buffer, u64)> {
    let memory = context.launch.memory;
    match memory.range(address, bytes.into()) {
        Some((buffer, offset)) if address.is_multiple_of(bytes.into()) => Some((buffer, offset)),
        _ => {
            astray(context, at, address, bytes, verb);
            None
        }
    }
}

#[cold]
fn astray(context: &Context, at: At, address: u64, bytes: u32, verb: &str) {
    if !address.is_multiple_of(bytes.into()) {
        return context.fault(at.warp, at.lane, Kind::Misaligned, at.pc, Some(address), || {
            format!("{verb} {bytes} bytes at an address not a multiple of {bytes}")
        });
    }
    context.fault(at.warp, at.lane, Kind::OutOfBounds, at.pc, Some(address), || {
        match context.launch.memory.find(address) {
            Some((buffer, offset)) => {
                format!("{verb} {bytes} bytes at offset {offset} of an allocation of {} bytes", buffer.len())
            }
            None => format!("{verb} {bytes} bytes where no allocation is"),
        }
    });
}

/// Watches an access to global memory that lies in bounds.
#[inline]
pub fn watch(context: &Context, at: At, clock: u32, buffer: &Buffer, address: u64, bytes: u32, kind: Touch) {
    let offset = address & OFFSET;
    if (kind == Touch::Read || kind == Touch::Atomic) && !buffer.is_written(offset, bytes) {
        unwritten(context, at, address, bytes);
    }
    let words = (bytes as usize).div_ceil(4);
    let mask = if bytes >= 4 { 15 } else { ((1 << bytes) - 1) << (offset % 4) };
    let who = global::Who {
        epoch: context.launch.epoch,
        block: context.linear,
        acquired: &context.acquired,
        warp: at.warp,
        clock,
        known: &context.known[at.warp as usize].warps,
    };
    let words = buffer.shadow(offset as usize / 4, words, kind == Touch::Write);
    if let Some(conflict) = who.touch(&words, mask, kind) {
        global_conflict(context, at, address, kind, conflict);
    }
}

#[cold]
fn unwritten(context: &Context, at: At, address: u64, bytes: u32) {
    context.fault(at.warp, at.lane, Kind::Uninitialised, at.pc, Some(address), || {
        format!("reads {bytes} bytes of global memory of which some were never written")
    });
}

#[cold]
fn global_conflict(context: &Context, at: At, address: u64, kind: Touch, conflict: global::Conflict) {
    let past = if conflict.wrote { "wrote" } else { "read" };
    let verb = if kind == Touch::Read { "reads" } else { "writes" };
    let [x, y, _] = context.launch.grid;
    let (kind, what) = match conflict.other {
        Other::Block(b) => {
            let other = format!("block ({}, {}, {})", b % x, b / x % y, b / (x * y));
            (Kind::GlobalRace, format!("{verb} what {other} {past} in the same launch"))
        }
        Other::Blocks => (Kind::GlobalRace, format!("{verb} what other blocks {past} in the same launch")),
        // Fences and atomics may order them, and warps' own orders are not followed through those.
        Other::Warp(_) if context.released => return,
        Other::Warp(w) => {
            (Kind::GlobalRaceInBlock, format!("{verb} what warp {w} of the block {past} with no barrier between"))
        }
    };
    context.fault(at.warp, at.lane, kind, at.pc, Some(address), || what);
}

/// Checks bounds and alignment in shared memory.
#[inline(always)]
pub fn shared_in_bounds(context: &Context, at: At, address: u64, bytes: u32, verb: &str) -> bool {
    let size = u64::from(context.launch.program.shared_bytes + context.launch.dynamic_shared);
    let good = address.is_multiple_of(bytes.into()) && address + u64::from(bytes) <= size;
    if !good {
        shared_astray(context, at, address, bytes, verb, size);
    }
    good
}

#[cold]
fn shared_astray(context: &Context, at: At, address: u64, bytes: u32, verb: &str, size: u64) {
    if !address.is_multiple_of(bytes.into()) {
        return context.fault(at.warp, at.lane, Kind::Misaligned, at.pc, Some(address), || {
            format!("{verb} {bytes} bytes of shared memory at an address not a multiple of {bytes}")
        });
    }
    context.fault(at.warp, at.lane, Kind::OutOfBounds, at.pc, Some(address), || {
        format!("{verb} {bytes} bytes at offset {address} of {size} bytes of shared memory")
    });
}

#[cold]
pub fn shared_conflict(context: &Context, at: At, address: u64, verb: &str, conflict: Conflict) {
    let (kind, what) = match conflict.trouble {
        Trouble::Unwritten => (Kind::Uninitialised, format!("{verb} shared memory that was never written")),
        Trouble::Pending => (
            Kind::EarlyRead,
            format!("{verb} what {conflict} copies asynchronously at {}, before the wait", context.place(conflict.pc)),
        ),
        Trouble::Race { wrote } => {
            let past = if wrote { "wrote" } else { "read" };
            (
                Kind::SharedRace,
                format!("{verb} what {conflict} {past} with no barrier between, at {}", context.place(conflict.pc)),
            )
        }
        Trouble::Unfenced => (
            Kind::NoFence,
            format!(
                "{verb} what {conflict} wrote, with no fence.proxy.async between, at {}",
                context.place(conflict.pc)
            ),
        ),
    };
    context.fault(at.warp, at.lane, kind, at.pc, Some(address), || what);
}

macro_rules! who {
    ($warp:expr, $context:expr, $pc:expr) => {
        Who { warp: $warp.index, clock: $warp.clock, pc: $pc, known: &$context.known[$warp.index as usize] }
    };
}
pub(super) use who;

#[inline(always)]
fn shared_data(shared: &[u8], address: usize, bytes: usize) -> Data {
    let from = &shared[address..address + bytes];
    let word = |index: usize| {
        u32::from_le_bytes([from[4 * index], from[4 * index + 1], from[4 * index + 2], from[4 * index + 3]])
    };
    match bytes {
        16 => [word(0), word(1), word(2), word(3)],
        8 => [word(0), word(1), 0, 0],
        4 => [word(0), 0, 0, 0],
        2 => [u32::from(from[0]) | u32::from(from[1]) << 8, 0, 0, 0],
        _ => [u32::from(from[0]), 0, 0, 0],
    }
}

#[inline(always)]
pub fn set_shared(shared: &mut [u8], address: usize, bytes: usize, data: &Data) {
    let to = &mut shared[address..address + bytes];
    match to.as_chunks_mut::<4>() {
        (words, []) => {
            for (index, word) in words.iter_mut().enumerate() {
                *word = data[index].to_le_bytes();
            }
        }
        _ => {
            for (index, byte) in to.iter_mut().enumerate() {
                *byte = (data[0] >> (8 * index)) as u8;
            }
        }
    }
}

#[inline(always)]
fn read_shared(warp: &Warp, context: &mut Context, at: At, lane: u8, address: u64, bytes: u32) -> Data {
    if !shared_in_bounds(context, at, address, bytes, "reads") {
        return [0; 4];
    }
    if context.launch.detect {
        let conflict = context.shadow.read(&who!(warp, context, at.pc), lane, address as u32, bytes);
        if let Some(conflict) = conflict {
            shared_conflict(context, at, address, "reads", conflict);
        }
    }
    shared_data(&context.shared, address as usize, bytes as usize)
}

#[inline(always)]
fn write_shared(warp: &Warp, context: &mut Context, at: At, address: u64, bytes: u32, data: Data) {
    if !shared_in_bounds(context, at, address, bytes, "writes") {
        return;
    }
    if context.launch.detect {
        // Both are zero past the end of the access.
        let same = shared_data(&context.shared, address as usize, bytes as usize) == data;
        let conflict =
            context.shadow.write(&who!(warp, context, at.pc), at.lane as u8, address as u32, bytes, false, same);
        if let Some(conflict) = conflict {
            shared_conflict(context, at, address, "writes", conflict);
        }
    }
    set_shared(&mut context.shared, address as usize, bytes as usize, &data);
}

#[inline(always)]
fn global_data(buffer: &Buffer, offset: u64, bytes: u32) -> Data {
    let first = offset as usize / 4;
    let mut data = [0; 4];
    if bytes >= 4 {
        for (i, word) in data.iter_mut().enumerate().take(bytes as usize / 4) {
            *word = buffer.word(first + i);
        }
    } else {
        data[0] = buffer.word(first) >> (offset % 4 * 8) & ((1 << (8 * bytes)) - 1);
    }
    data
}

#[inline]
pub fn read_global(context: &Context, at: At, clock: u32, address: u64, bytes: u32, strong: bool) -> Data {
    let Some((buffer, offset)) = locate(context, at, address, bytes, "reads") else { return [0; 4] };
    if context.launch.detect {
        watch(context, at, clock, buffer, address, bytes, if strong { Touch::Atomic } else { Touch::Read });
    }
    global_data(buffer, offset, bytes)
}

#[inline]
fn write_global(context: &Context, at: At, clock: u32, address: u64, bytes: u32, data: Data, strong: bool) {
    let Some((buffer, offset)) = locate(context, at, address, bytes, "writes") else { return };
    buffer.mark_written(offset, bytes);
    if context.launch.detect {
        watch(context, at, clock, buffer, address, bytes, if strong { Touch::Atomic } else { Touch::Write });
    }
    let first = offset as usize / 4;
    if bytes >= 4 {
        (0..bytes as usize / 4).for_each(|i| buffer.set_word(first + i, data[i]));
    } else {
        let shift = offset % 4 * 8;
        buffer.merge_word(first, data[0] << shift, ((1 << (8 * bytes)) - 1) << shift);
    }
}

/// A thread's own memory: its place in the warp's, if in bounds.
fn local(warp: &Warp, context: &Context, at: At, address: u64, bytes: u32, verb: &str) -> Option<usize> {
    let size = u64::from(context.launch.program.local_bytes);
    if !address.is_multiple_of(bytes.into()) || address + u64::from(bytes) > size {
        let kind = if address.is_multiple_of(bytes.into()) { Kind::OutOfBounds } else { Kind::Misaligned };
        context.fault(warp.index, at.lane, kind, at.pc, Some(address), || {
            format!("{verb} {bytes} bytes at offset {address} of {size} bytes of local memory")
        });
        return None;
    }
    Some((u64::from(at.lane) * size + address) as usize)
}

fn read_local(warp: &Warp, context: &Context, at: At, address: u64, bytes: u32) -> Data {
    let Some(start) = local(warp, context, at, address, bytes, "reads") else { return [0; 4] };
    let range = start..start + bytes as usize;
    if context.launch.detect && !warp.local_written[range].iter().all(|written| *written) {
        context.fault(warp.index, at.lane, Kind::Uninitialised, at.pc, Some(address), || {
            format!("reads {bytes} bytes of local memory of which some were never written")
        });
    }
    shared_data(&warp.local, start, bytes as usize)
}

fn write_local(warp: &mut Warp, context: &Context, at: At, address: u64, bytes: u32, data: Data) {
    let Some(start) = local(warp, context, at, address, bytes, "writes") else { return };
    let range = start..start + bytes as usize;
    warp.local_written[range.clone()].fill(true);
    let flat = data.map(u32::to_le_bytes);
    warp.local[range].copy_from_slice(&flat.as_flattened()[..bytes as usize]);
}

/// Where an address leads: its window and the address in it.
#[inline(always)]
pub fn resolve(window: Window, address: u64) -> (Window, u64) {
    match (window, address >> SHIFT) {
        (Window::Generic, SHARED) => (Window::Shared, address & OFFSET),
        (Window::Generic | Window::Local, LOCAL) => (Window::Local, address & OFFSET),
        (window, _) => (window, address),
    }
}

/// Counts sectors of an access to global memory, or passes over the banks of one to shared memory.
#[inline(always)]
pub fn count(context: &mut Context, window: Window, addresses: &[u64; 32], mask: u32, bytes: u32, store: bool) {
    let active = u64::from(mask.count_ones());
    match window {
        Window::Shared => {
            // 128 bytes a pass: accesses of 8 bytes go by half warps, of 16 by quarters.
            let lanes = 128 / bytes.max(4);
            let mut passes = 0;
            let mut least = 0;
            let mut start = 0;
            while start < 32 {
                let part = if lanes >= 32 { mask } else { mask & (((1u32 << lanes) - 1) << start) };
                if part != 0 {
                    passes += bank_passes(addresses, part);
                    least += 1;
                }
                start += lanes;
            }
            context.counts.shared_passes += passes;
            context.counts.shared_passes_least += least;
        }
        Window::Generic => {
            let mut seen = [u64::MAX; 32];
            let mut sectors = 0;
            each(mask, |lane| {
                let sector = addresses[lane] / 32;
                if !seen[..sectors].iter().rev().any(|old| *old == sector) {
                    seen[sectors] = sector;
                    sectors += 1;
                }
            });
            let moved = active * u64::from(bytes);
            context.counts.sectors += sectors as u64;
            context.counts.sectors_least += moved.div_ceil(32).min(sectors as u64);
            *if store { &mut context.counts.global_written } else { &mut context.counts.global_read } += moved;
        }
        _ => {}
    }
}

/// How often the banks must be gone over: lanes that want other words of one bank wait for another pass.
#[inline]
fn bank_passes(addresses: &[u64; 32], mask: u32) -> u64 {
    let mut banks = 0u32;
    each(mask, |lane| banks |= 1 << (addresses[lane] / 4 % 32));
    if banks.count_ones() == mask.count_ones() {
        return 1;
    }
    let mut left = mask;
    let mut passes = 0;
    while left != 0 {
        let mut owner = [u64::MAX; 32];
        passes += 1;
        let mut rest = 0;
        each(left, |lane| {
            let word = addresses[lane] / 4;
            let bank = &mut owner[word as usize % 32];
            if *bank == u64::MAX {
                *bank = word;
            }
            if *bank != word {
                rest |= 1 << lane;
            }
        });
        left = rest;
    }
    passes
}

/// An element as the register holds it: narrow ones extended by their sign or zeros.
fn element(data: &Data, index: usize, access: &Access) -> u64 {
    let signed = access.kind.signed();
    match access.kind.bytes() {
        8 => u64::from(data[2 * index]) | u64::from(data[2 * index + 1]) << 32,
        4 => {
            let word = data[index];
            if signed { word as i32 as u64 } else { word.into() }
        }
        2 => {
            let half = (data[index / 2] >> (16 * (index % 2))) as u16;
            if signed { half as i16 as u64 } else { half.into() }
        }
        _ => {
            let byte = (data[index / 4] >> (8 * (index % 4))) as u8;
            if signed { byte as i8 as u64 } else { byte.into() }
        }
    }
}

pub fn load(warp: &mut Warp, context: &mut Context, access: &Access, pc: u32, mask: u32) {
    let bytes = access.kind.bytes() * u32::from(access.count);
    if access.window == Window::Param {
        let start = access.address.offset as usize;
        let data = shared_data(context.launch.parameters, start, bytes as usize);
        for index in 0..access.count as usize {
            let value = element(&data, index, access);
            set(warp, access, index, mask, &[value; 32]);
        }
        return;
    }
    let at_lanes = addresses(warp, access.address);
    let mut data = [[0; 4]; 32];
    let first = resolve(access.window, at_lanes[mask.trailing_zeros() as usize]).0;
    count(context, first, &at_lanes, mask, bytes, false);
    each(mask, |lane| {
        let at = At { warp: warp.index, lane: lane as u32, pc };
        let (window, address) = resolve(access.window, at_lanes[lane]);
        data[lane] = match window {
            Window::Shared => read_shared(warp, context, at, lane as u8, address, bytes),
            Window::Local => read_local(warp, context, at, address, bytes),
            _ => read_global(context, at, warp.clock, address, bytes, access.strong),
        };
    });
    if access.strong && first == Window::Generic {
        synchronise(context, &at_lanes, mask, false);
    }
    if access.kind.bytes() == 4 && !access.double {
        for (index, &slot) in access.registers.iter().enumerate().take(access.count as usize) {
            if slot != NONE {
                let value: Lanes = lanes(|lane| data[lane][index]);
                super::put(&mut warp.words[slot as usize], mask, &value);
            }
        }
        return;
    }
    for index in 0..access.count as usize {
        let value = lanes(|lane| element(&data[lane], index, access));
        set(warp, access, index, mask, &value);
    }
}

fn set(warp: &mut Warp, access: &Access, index: usize, mask: u32, value: &[u64; 32]) {
    match access.registers[index] {
        NONE => {}
        slot if access.double => super::put(&mut warp.doubles[slot as usize], mask, value),
        slot => super::put(&mut warp.words[slot as usize], mask, &lanes(|lane| value[lane] as u32)),
    }
}

pub fn store(warp: &mut Warp, context: &mut Context, access: &Access, pc: u32, mask: u32) {
    let each_bytes = access.kind.bytes();
    let bytes = each_bytes * u32::from(access.count);
    let at_lanes = addresses(warp, access.address);
    let first = resolve(access.window, at_lanes[mask.trailing_zeros() as usize]).0;
    count(context, first, &at_lanes, mask, bytes, true);
    if access.strong && first == Window::Generic {
        synchronise(context, &at_lanes, mask, context.fenced);
    }
    each(mask, |lane| {
        let mut data = [0; 4];
        for index in 0..access.count as usize {
            let slot = access.registers[index] as usize;
            let word = || if access.double { warp.doubles[slot][lane] as u32 } else { warp.words[slot][lane] };
            match each_bytes {
                8 => {
                    let value = warp.doubles[slot][lane];
                    (data[2 * index], data[2 * index + 1]) = (value as u32, (value >> 32) as u32);
                }
                4 => data[index] = word(),
                2 => data[index / 2] |= (word() & 0xffff) << (16 * (index % 2)),
                _ => data[index / 4] |= (word() & 0xff) << (8 * (index % 4)),
            }
        }
        let at = At { warp: warp.index, lane: lane as u32, pc };
        match resolve(access.window, at_lanes[lane]) {
            (Window::Shared, address) => write_shared(warp, context, at, address, bytes, data),
            (Window::Local, address) => write_local(warp, context, at, address, bytes, data),
            (_, address) => write_global(context, at, warp.clock, address, bytes, data, access.strong),
        }
    });
}

/// An ordered access to global memory learns what was published at its address, and may publish.
pub fn synchronise(context: &mut Context, addresses: &[u64; 32], mask: u32, publish: bool) {
    let launch = context.launch;
    each(mask, |lane| launch.published.atomic(addresses[lane], context.linear, publish, &mut context.acquired));
}

/// ldmatrix and stmatrix: lane 8 m + r holds the address of row r of matrix m; lane l's register m holds elements
/// (l / 4, 2 (l % 4)) and the next of the matrix, or of its transpose.
pub fn matrix(warp: &mut Warp, context: &mut Context, m: &MatrixLoad, pc: u32, active: u32) {
    let at_lanes = addresses(warp, m.address);
    for matrix in 0..m.count as usize {
        count(context, Window::Shared, &at_lanes, 0xff << (8 * matrix), 16, m.store);
        let slot = m.registers[matrix] as usize;
        let mut flat: Lanes = [0; 32];
        if m.store {
            flat = if m.transposed { transpose(&warp.words[slot]) } else { warp.words[slot] };
        }
        for row in 0..8 {
            let lane = 8 * matrix + row;
            let at = At { warp: warp.index, lane: lane as u32, pc };
            if m.store {
                let data = [flat[4 * row], flat[4 * row + 1], flat[4 * row + 2], flat[4 * row + 3]];
                write_shared(warp, context, at, at_lanes[lane], 16, data);
            } else {
                // The row goes to other lanes: the whole warp reads it.
                let data = read_shared(warp, context, at, 32, at_lanes[lane], 16);
                flat[4 * row..4 * row + 4].copy_from_slice(&data);
            }
        }
        if !m.store {
            let value = if m.transposed { transpose(&flat) } else { flat };
            super::put(&mut warp.words[slot], active, &value);
        }
    }
}

/// An 8 x 8 matrix of 16-bit elements, four words a row. Its indices are constants once the loops are unrolled.
fn transpose(flat: &Lanes) -> Lanes {
    let half = |row: usize, column: usize| flat[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    let mut value = [0; 32];
    for column in 0..8 {
        for pair in 0..4 {
            value[4 * column + pair] = half(2 * pair, column) | half(2 * pair + 1, column) << 16;
        }
    }
    value
}

pub fn copy_async(warp: &mut Warp, context: &mut Context, c: &CopyAsync, pc: u32, mask: u32) {
    let (to, from) = (addresses(warp, c.to), addresses(warp, c.from));
    let bytes = u32::from(c.bytes);
    count(context, Window::Shared, &to, mask, bytes, true);
    let sizes: Lanes = if c.size == NONE { [bytes; 32] } else { warp.words[c.size as usize] };
    let reading = (0..32).fold(0, |reading, lane| reading | u32::from(sizes[lane] > 0) << lane) & mask;
    if reading != 0 {
        count(context, Window::Generic, &from, reading, bytes, false);
    }
    let clock = warp.clock;
    let mut good = 0;
    let mut places = warp.copies.room();
    places.data = [[0; 4]; 32];
    places.to = lanes(|lane| to[lane] as u32);
    each(mask, |lane| {
        let at = At { warp: warp.index, lane: lane as u32, pc };
        let size = sizes[lane].min(bytes);
        // Reads of fewer bytes than are copied come by bytes, the rest is zero.
        let data = &mut places.data[lane];
        match size {
            0 => {}
            _ if size == bytes => *data = read_global(context, at, clock, from[lane], bytes, false),
            _ => (0..size).for_each(|byte| {
                let value = read_global(context, at, clock, from[lane] + u64::from(byte), 1, false)[0];
                data[byte as usize / 4] |= value << (byte % 4 * 8);
            }),
        }
        if !shared_in_bounds(context, at, to[lane], bytes, "copies") {
            return;
        }
        good |= 1 << lane;
        if context.launch.detect {
            let conflict =
                context.shadow.write(&who!(warp, context, pc), lane as u8, to[lane] as u32, bytes, true, false);
            if let Some(conflict) = conflict {
                shared_conflict(context, at, to[lane], "copies over", conflict);
            }
        }
    });
    warp.copies.start(pc, good, c.bytes, places);
}

pub fn copy_wait(warp: &mut Warp, context: &mut Context, pending: u32, mask: u32) {
    let Warp { index, clock, copies, .. } = warp;
    copies.arrive(mask, pending, |batch, landed| {
        let who = Who { warp: *index, clock: *clock, pc: batch.pc, known: &context.known[*index as usize] };
        each(landed, |lane| {
            let (to, bytes) = (batch.lanes.to[lane], u32::from(batch.bytes));
            if context.launch.detect {
                context.shadow.land(&who, lane as u8, to, bytes);
            }
            set_shared(&mut context.shared, to as usize, bytes as usize, &batch.lanes.data[lane]);
        });
    });
}

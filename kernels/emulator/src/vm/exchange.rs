//! Atomic operations on global and shared memory, lane after lane.

use super::block::Context;
use super::memory::{
    At, addresses, count, locate, resolve, shared_conflict, shared_in_bounds, synchronise, watch, who,
};
use super::warp::Warp;
use super::{each, half, lanes, put};
use crate::ptx::op::{Atomic, AtomicOp, Half, HalfOp, NONE, Window};
use crate::ptx::types::{Class, Type};
use crate::race::global::Touch;
use crate::race::shared::Who;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

/// 64-bit atomics on memory made of 32-bit words take turns.
static WIDE: Mutex<()> = Mutex::new(());

fn apply(op: AtomicOp, kind: Type, old: u64, b: u64, c: u64) -> u64 {
    let float = |bits: u64| f32::from_bits(bits as u32);
    match (op, kind) {
        (AtomicOp::Exchange, _) => b,
        (AtomicOp::CompareSwap, _) => {
            if old == b {
                c
            } else {
                old
            }
        }
        (AtomicOp::And, _) => old & b,
        (AtomicOp::Or, _) => old | b,
        (AtomicOp::Xor, _) => old ^ b,
        (AtomicOp::Add, Type::F32) => (float(old) + float(b)).to_bits().into(),
        (AtomicOp::Add, Type::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (AtomicOp::Add, Type::F16x2 | Type::Bf16x2) => {
            half::two(HalfOp::Add, Half { bf16: kind == Type::Bf16x2, pair: true }, old as u32, b as u32).into()
        }
        (AtomicOp::Add, _) if kind.bytes() == 4 => (old as u32).wrapping_add(b as u32).into(),
        (AtomicOp::Add, _) => old.wrapping_add(b),
        (AtomicOp::Min, Type::S32) => (old as i32).min(b as i32) as u32 as u64,
        (AtomicOp::Max, Type::S32) => (old as i32).max(b as i32) as u32 as u64,
        (AtomicOp::Min, Type::S64) => (old as i64).min(b as i64) as u64,
        (AtomicOp::Max, Type::S64) => (old as i64).max(b as i64) as u64,
        (AtomicOp::Min, _) => old.min(b),
        (AtomicOp::Max, _) => old.max(b),
        (AtomicOp::Inc, _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        (AtomicOp::Dec, _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}

pub fn atomic(warp: &mut Warp, context: &mut Context, a: &Atomic, pc: u32, mask: u32) {
    let bytes = a.kind.bytes();
    let at_lanes = addresses(warp, a.address);
    let first = resolve(a.window, at_lanes[mask.trailing_zeros() as usize]).0;
    count(context, first, &at_lanes, mask, bytes, true);
    if first == Window::Generic {
        context.released |= a.release;
        synchronise(context, &at_lanes, mask, context.fenced || a.release);
    }
    let double = a.kind.class() == Class::Double;
    let mut old = [0u64; 32];
    each(mask, |lane| {
        let operand = |slot: u16| match slot {
            NONE => 0,
            slot if double => warp.doubles[slot as usize][lane],
            slot => warp.words[slot as usize][lane].into(),
        };
        let (b, c) = (operand(a.b), operand(a.c));
        let at = At { warp: warp.index, lane: lane as u32, pc };
        old[lane] = match resolve(a.window, at_lanes[lane]) {
            (Window::Shared, address) => shared(warp, context, at, a, address, (b, c)),
            (_, address) => global(warp, context, at, a, address, (b, c)),
        };
    });
    if first == Window::Generic {
        // A block on another thread may have published and updated since: who saw its update has what it published.
        synchronise(context, &at_lanes, mask, false);
    }
    match a.d {
        NONE => {}
        d if double => put(&mut warp.doubles[d as usize], mask, &old),
        d => put(&mut warp.words[d as usize], mask, &lanes(|lane| old[lane] as u32)),
    }
}

fn global(warp: &Warp, context: &Context, at: At, a: &Atomic, address: u64, (b, c): (u64, u64)) -> u64 {
    let bytes = a.kind.bytes();
    let Some((buffer, offset)) = locate(context, at, address, bytes, "updates") else { return 0 };
    if context.launch.detect {
        watch(context, at, warp.clock, buffer, address, bytes, Touch::Atomic);
    }
    buffer.mark_written(offset, bytes);
    let word = offset as usize / 4;
    if bytes == 4 {
        let update = |old: u32| Some(apply(a.op, a.kind, old.into(), b, c) as u32);
        return buffer.atomic(word).fetch_update(Relaxed, Relaxed, update).unwrap_or_else(|old| old).into();
    }
    let _turn = WIDE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let old = u64::from(buffer.word(word)) | u64::from(buffer.word(word + 1)) << 32;
    let new = apply(a.op, a.kind, old, b, c);
    buffer.set_word(word, new as u32);
    buffer.set_word(word + 1, (new >> 32) as u32);
    old
}

fn shared(warp: &Warp, context: &mut Context, at: At, a: &Atomic, address: u64, (b, c): (u64, u64)) -> u64 {
    let bytes = a.kind.bytes();
    if !shared_in_bounds(context, at, address, bytes, "updates") {
        return 0;
    }
    if context.launch.detect {
        let conflict = context.shadow.atomic(&who!(warp, context, at.pc), at.lane as u8, address as u32, bytes);
        if let Some(conflict) = conflict {
            shared_conflict(context, at, address, "updates", conflict);
        }
    }
    let place = &mut context.shared[address as usize..(address + u64::from(bytes)) as usize];
    let mut old = [0; 8];
    old[..bytes as usize].copy_from_slice(place);
    let old = u64::from_le_bytes(old);
    place.copy_from_slice(&apply(a.op, a.kind, old, b, c).to_le_bytes()[..bytes as usize]);
    old
}

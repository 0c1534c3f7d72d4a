//! What the lanes of a warp do together in registers: shuffles, votes, matches, reductions.

use super::block::Context;
use super::warp::Warp;
use super::{ALL, Lanes, each, put};
use crate::ptx::op::{AtomicOp, NONE, Op, Shuffle, ShuffleMode, VoteMode};
use crate::race::report::Kind;

pub fn shuffle(warp: &mut Warp, context: &Context, s: &Shuffle, pc: u32, active: u32, wide: u32) {
    let [a, b, c] = [s.a, s.b, s.c].map(|slot| warp.words[slot as usize]);
    let mut value: Lanes = [0; 32];
    let (mut in_range, mut absent) = (0u32, 0u32);
    for lane in 0..32 {
        let (segment, clamp, by) = ((c[lane] >> 8 & 31) as i32, (c[lane] & 31) as i32, (b[lane] & 31) as i32);
        let own = lane as i32;
        let first = own & segment;
        let last = first | clamp & !segment;
        let (from, inside) = match s.mode {
            ShuffleMode::Up => (own - by, own - by >= last),
            ShuffleMode::Down => (own + by, own + by <= last),
            ShuffleMode::Butterfly => (own ^ by, own ^ by <= last),
            ShuffleMode::Index => (first | by & !segment, (first | by & !segment) <= last),
        };
        let from = if inside { (from & 31) as usize } else { lane };
        in_range |= u32::from(inside) << lane;
        absent |= u32::from(active >> from & 1 == 0) << lane;
        value[lane] = a[from];
    }
    absent &= active;
    if absent != 0 {
        context.fault(warp.index, absent.trailing_zeros(), Kind::AbsentLanes, pc, None, || {
            format!("lanes {absent:#010x} read from lanes that do not take part in the shuffle")
        });
    }
    put(&mut warp.words[s.d as usize], wide, &value);
    if s.in_range != NONE {
        let old = &mut warp.predicates[s.in_range as usize];
        *old = *old & !active | in_range & active;
    }
}

/// Votes, matches and reductions.
pub fn gather(warp: &mut Warp, op: &Op, active: u32) {
    match *op {
        Op::Vote { mode, d, source, negated, .. } => {
            let votes = (warp.predicates[source as usize] ^ if negated { ALL } else { 0 }) & active;
            let truth = match mode {
                VoteMode::Ballot => return put(&mut warp.words[d as usize], active, &[votes; 32]),
                VoteMode::All => votes == active,
                VoteMode::Any => votes != 0,
                VoteMode::Uniform => votes == active || votes == 0,
            };
            let old = &mut warp.predicates[d as usize];
            *old = *old & !active | if truth { active } else { 0 };
        }
        Op::Match { d, a, .. } => {
            let a = warp.words[a as usize];
            let mut value: Lanes = [0; 32];
            each(active, |lane| each(active, |other| value[lane] |= u32::from(a[lane] == a[other]) << other));
            put(&mut warp.words[d as usize], active, &value);
        }
        Op::Reduce { op, signed, d, a, .. } => {
            let a = warp.words[a as usize];
            let mut value: Option<u32> = None;
            each(active, |lane| value = Some(value.map_or(a[lane], |value| reduce(op, signed, value, a[lane]))));
            put(&mut warp.words[d as usize], active, &[value.unwrap_or(0); 32]);
        }
        _ => {}
    }
}

fn reduce(op: AtomicOp, signed: bool, a: u32, b: u32) -> u32 {
    match op {
        AtomicOp::Add => a.wrapping_add(b),
        AtomicOp::And => a & b,
        AtomicOp::Or => a | b,
        AtomicOp::Xor => a ^ b,
        AtomicOp::Min if signed => (a as i32).min(b as i32) as u32,
        AtomicOp::Max if signed => (a as i32).max(b as i32) as u32,
        AtomicOp::Min => a.min(b),
        _ => a.max(b),
    }
}

//! The interpreter: a launch is blocks spread over cores ([`launch`]), a block is warps in a drawn order ([`block`]), a
//! warp is groups of lanes at one place ([`warp`]), and an operation works on 32 lanes at once.

mod alu;
mod block;
mod collective;
mod copy;
mod exchange;
mod half;
mod hopper;
pub mod launch;
mod math;
mod matrix;
mod mbarrier;
mod memory;
mod noise;
mod print;
mod vector;
mod warp;

pub use launch::{Counts, Launch, Outcome, Settings};

/// One 32-bit register of all lanes of a warp.
pub type Lanes = [u32; 32];
pub type WideLanes = [u64; 32];
pub const ALL: u32 = u32::MAX;

/// Calls `f` for each set lane.
#[inline(always)]
pub fn each(mask: u32, mut f: impl FnMut(usize)) {
    let mut left = mask;
    while left != 0 {
        f(left.trailing_zeros() as usize);
        left &= left - 1;
    }
}

/// A value a lane.
#[inline(always)]
pub fn lanes<T: Copy + Default>(f: impl Fn(usize) -> T) -> [T; 32] {
    let mut value = [T::default(); 32];
    for (lane, slot) in value.iter_mut().enumerate() {
        *slot = f(lane);
    }
    value
}

/// Writes the lanes of `mask`.
#[inline(always)]
pub fn put<T: Copy>(to: &mut [T; 32], mask: u32, value: &[T; 32]) {
    if mask == ALL {
        *to = *value;
    } else {
        for lane in 0..32 {
            to[lane] = if mask >> lane & 1 == 1 { value[lane] } else { to[lane] };
        }
    }
}

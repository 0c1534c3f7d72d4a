//! The functions whose loops over lanes are compiled twice: plain, and for CPUs with AVX2 and FMA. Each pair is a
//! compilation of its own: one function of all operations took minutes to build, and the compiler gave up inlining in it.

use super::warp::Warp;
use super::{alu, hopper, matrix};
use crate::ptx::hopper::Wgmma;
use crate::ptx::op::*;

macro_rules! twice {
    ($($name:ident = $plain:path, ($($argument:ident: $kind:ty),*);)*) => {$(
        pub fn $name(warp: &mut Warp, $($argument: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
            fn vector(warp: &mut Warp, $($argument: $kind),*) {
                $plain(warp, $($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            if warp.vector {
                // SAFETY: `vector` is set only where the CPU was found to have these features.
                return unsafe { vector(warp, $($argument),*) };
            }
            $plain(warp, $($argument),*)
        }
    )*};
}

twice! {
    unary = alu::unary, (op: Word1, d: Slot, a: Slot, mask: u32);
    binary = alu::binary, (op: Word2, d: Slot, s: [Slot; 2], mask: u32);
    ternary = alu::ternary, (op: Word3, d: Slot, s: [Slot; 3], mask: u32);
    quaternary = alu::quaternary, (op: Word4, d: Slot, s: [Slot; 4], mask: u32);
    double_unary = alu::double_unary, (op: Double1, d: Slot, a: Slot, mask: u32);
    double_binary = alu::double_binary, (op: Double2, d: Slot, s: [Slot; 2], mask: u32);
    double_ternary = alu::double_ternary, (op: Double3, d: Slot, s: [Slot; 3], mask: u32);
    mixed = alu::mixed, (op: &Op, mask: u32);
    compare = alu::compare, (c: &Compare, mask: u32);
    multiply = matrix::multiply, (m: &Mma);
    products = hopper::products, (shared: &[u8], m: &Wgmma, add: bool);
}

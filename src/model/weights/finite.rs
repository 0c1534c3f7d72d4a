//! Finding the first NaN or infinity of a mapped tensor at memory speed.

use crate::device::{DType, MappedSlice};
use rayon::prelude::*;

/// Elements per task: large enough to amortise scheduling, small enough to share.
const BLOCK: usize = 1 << 16;

/// Index of the first element that is NaN or infinite.
pub(super) fn first_non_finite(slice: &MappedSlice) -> Option<usize> {
    // An IEEE number is NaN or infinite exactly where all exponent bits are set.
    match slice.dtype {
        DType::F32 => first(slice.bytes(), |bytes| u32::from_le_bytes(bytes) & 0x7f80_0000 == 0x7f80_0000),
        DType::BF16 => first(slice.bytes(), |bytes| u16::from_le_bytes(bytes) & 0x7f80 == 0x7f80),
        DType::F16 => first(slice.bytes(), |bytes| u16::from_le_bytes(bytes) & 0x7c00 == 0x7c00),
    }
}

/// `NaN`, `inf` or `-inf`, whatever element `index` is.
pub(super) fn describe(slice: &MappedSlice, index: usize) -> String {
    let size = slice.dtype.size();
    let bytes = &slice.bytes()[index * size..][..size];
    let value = match slice.dtype {
        DType::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        DType::BF16 => half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        DType::F16 => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
    };
    value.to_string()
}

fn first<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool + Sync) -> Option<usize> {
    let elements = |block: &'_ [u8]| -> bool {
        // Without a branch in the loop it becomes SIMD.
        block.as_chunks::<N>().0.iter().fold(false, |any, &element| any | bad(element))
    };
    let (number, block) = bytes.par_chunks(BLOCK * N).enumerate().find_first(|(_, block)| elements(block))?;
    let within = block.as_chunks::<N>().0.iter().position(|&element| bad(element))?;
    Some(number * BLOCK + within)
}

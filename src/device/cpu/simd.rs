//! Vectors of f32 lanes, written once and run on every instruction set.
//!
//! A [`Kernel`] is code generic over [`Simd`]; [`Isa::run`] picks the instantiation. Everything a kernel calls on
//! its hot path must be `#[inline(always)]`, so that it is compiled inside the function that enables the features.

use super::Isa;
use half::{bf16, f16};

/// Work that is generic over the vector width.
pub trait Kernel {
    type Output;
    /// Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self) -> Self::Output;
}

/// f32 vectors of one instruction set.
///
/// # Safety
/// Every function needs the instruction set the implementing type stands for (guaranteed inside [`Kernel::run`]);
/// loads and stores need `LANES` (or `count <= LANES`) readable or writable elements at the pointer, of any alignment.
#[allow(clippy::missing_safety_doc)]
pub trait Simd: Copy + Send + Sync + 'static {
    /// One register of f32 lanes.
    type V: Copy;
    /// Lanes in a register.
    const LANES: usize;
    /// Rows of `gemm`'s dot-product tile, four columns wide, whose accumulators fill the register file.
    const DOT_ROWS: usize;
    /// Rows of `gemm`'s outer-product tile, two registers wide, whose accumulators fill the register file.
    const OUTER_ROWS: usize;

    /// Runs a kernel in a function of its own, so that registers are allocated for its loops alone.
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output;

    unsafe fn zero() -> Self::V;
    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(source: *const f32) -> Self::V;
    /// Loads `count < LANES` lanes; the others are zero.
    unsafe fn load_partial(source: *const f32, count: usize) -> Self::V;
    unsafe fn store(target: *mut f32, value: Self::V);
    /// Stores the first `count < LANES` lanes.
    unsafe fn store_partial(target: *mut f32, value: Self::V, count: usize);
    /// `LANES` bf16 values, widened.
    unsafe fn load_bf16(source: *const bf16) -> Self::V;
    /// `LANES` f16 values, widened.
    unsafe fn load_f16(source: *const f16) -> Self::V;
    /// `2 * LANES` bf16 values, widened: those at even places, those at odd places. Cheaper than two loads in order.
    unsafe fn load_bf16_split(source: *const bf16) -> [Self::V; 2];
    /// Of the values of `a`, then `b`: those at even places, those at odd places.
    unsafe fn split(a: Self::V, b: Self::V) -> [Self::V; 2];
    /// Asks for the cache line at `address`, which need not be readable, to be brought near.
    unsafe fn prefetch(address: *const u8);
    /// The same, but no nearer than the second-level cache.
    unsafe fn prefetch_far(address: *const u8);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// The larger of each lane; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each lane; `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the instruction set has it.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// Rounds each lane to the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `2^n` for lanes that hold integers in `-126..=127`.
    unsafe fn exp2_int(n: Self::V) -> Self::V;
    /// Sum of all lanes, in a fixed order (a tree).
    unsafe fn sum(a: Self::V) -> f32;
    /// The sums of four vectors, each bit for bit what [`Simd::sum`] gives.
    unsafe fn sum4(a: [Self::V; 4]) -> [f32; 4];
    /// Largest lane.
    unsafe fn max_lane(a: Self::V) -> f32;

    /// `e^x` a lane, within 2 ulp; 0 below -87.3 (so `-inf` gives 0), saturates above 88.
    ///
    /// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its degree-6 minimax polynomial (Cephes `expf`), e^x = 2^n e^r.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: pure lane arithmetic, allowed by this function's own contract.
        unsafe {
            let clamped = Self::min(Self::splat(88.0), Self::max(Self::splat(-87.336_54), x));
            let n = Self::round(Self::mul(clamped, Self::splat(std::f32::consts::LOG2_E)));
            // ln 2 in two parts, so that n * ln 2 is subtracted without rounding.
            let r = Self::fma(n, Self::splat(-355.0 / 512.0), clamped);
            let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.987_569_2e-4);
            for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
                p = Self::fma(p, r, Self::splat(coefficient));
            }
            let e = Self::add(Self::fma(p, Self::mul(r, r), r), Self::splat(1.0));
            let scaled = Self::mul(e, Self::exp2_int(n));
            Self::zero_below(x, -87.336_54, scaled)
        }
    }

    /// `value` where `x >= bound`, else 0.
    unsafe fn zero_below(x: Self::V, bound: f32, value: Self::V) -> Self::V;
}

/// A type that weights are stored in.
///
/// # Safety
/// As for [`Simd`]: the instruction set must be there, and `S::LANES` (or `count`) elements readable.
#[allow(clippy::missing_safety_doc)]
pub trait Element: Copy + Send + Sync + 'static {
    /// `S::LANES` values, widened.
    unsafe fn load<S: Simd>(source: *const Self) -> S::V;
    /// `count < S::LANES` values, widened; the other lanes are zero.
    unsafe fn load_partial<S: Simd>(source: *const Self, count: usize) -> S::V;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(source: *const Self) -> S::V {
        // SAFETY: the contract of `Element`.
        unsafe { S::load(source) }
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(source: *const Self, count: usize) -> S::V {
        // SAFETY: the contract of `Element`.
        unsafe { S::load_partial(source, count) }
    }
}

macro_rules! half_element {
    ($type:ty, $load:ident) => {
        impl Element for $type {
            #[inline(always)]
            unsafe fn load<S: Simd>(source: *const Self) -> S::V {
                // SAFETY: the contract of `Element`.
                unsafe { S::$load(source) }
            }
            #[inline(always)]
            unsafe fn load_partial<S: Simd>(source: *const Self, count: usize) -> S::V {
                // No instruction set has more lanes.
                let mut whole = [<$type>::ZERO; 16];
                // SAFETY: `count` elements are readable by the contract; `whole` holds a full register.
                unsafe {
                    std::ptr::copy_nonoverlapping(source, whole.as_mut_ptr(), count);
                    S::$load(whole.as_ptr())
                }
            }
        }
    };
}

half_element!(bf16, load_bf16);
half_element!(f16, load_f16);

impl Isa {
    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Self::Scalar => run_portable(kernel),
            // SAFETY: a `Cpu` is made only with an available `Isa` (`Cpu::with_isa` asserts it).
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { run_avx512(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("no such instruction set on this architecture"),
        }
    }
}

#[inline(never)]
fn run_portable<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Portable>()
}

/// 8 lanes of plain Rust; the compiler vectorises it with what the target's baseline has.
#[derive(Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> [f32; 8] {
    std::array::from_fn(f)
}

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    const DOT_ROWS: usize = 2;
    const OUTER_ROWS: usize = 2;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        run_portable(kernel)
    }
    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; 8]
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self::V {
        // SAFETY: 8 readable elements, by the contract of `load`.
        unsafe { source.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_partial(source: *const f32, count: usize) -> Self::V {
        // SAFETY: only the first `count` elements are read.
        lanes(|i| if i < count { unsafe { *source.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(target: *mut f32, value: Self::V) {
        // SAFETY: 8 writable elements, by the contract of `store`.
        unsafe { target.cast::<[f32; 8]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn store_partial(target: *mut f32, value: Self::V, count: usize) {
        for (i, lane) in value.into_iter().enumerate().take(count) {
            // SAFETY: only the first `count` elements are written.
            unsafe { *target.add(i) = lane }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(source: *const bf16) -> Self::V {
        // SAFETY: 8 readable elements, by the contract of `load_bf16`.
        lanes(|i| f32::from_bits(u32::from(unsafe { (*source.add(i)).to_bits() }) << 16))
    }
    #[inline(always)]
    unsafe fn load_f16(source: *const f16) -> Self::V {
        // SAFETY: 8 readable elements, by the contract of `load_f16`.
        lanes(|i| unsafe { (*source.add(i)).to_f32() })
    }
    #[inline(always)]
    unsafe fn load_bf16_split(source: *const bf16) -> [Self::V; 2] {
        // SAFETY: 16 readable elements, by the contract of `load_bf16_split`.
        unsafe { Self::split(Self::load_bf16(source), Self::load_bf16(source.add(8))) }
    }
    #[inline(always)]
    unsafe fn split(a: Self::V, b: Self::V) -> [Self::V; 2] {
        [[a[0], a[2], a[4], a[6], b[0], b[2], b[4], b[6]], [a[1], a[3], a[5], a[7], b[1], b[3], b[5], b[7]]]
    }
    #[inline(always)]
    unsafe fn prefetch(_address: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_far(_address: *const u8) {}
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        lanes(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn sqrt(a: Self::V) -> Self::V {
        lanes(|i| a[i].sqrt())
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        lanes(|i| a[i].round_ties_even())
    }
    #[inline(always)]
    unsafe fn exp2_int(n: Self::V) -> Self::V {
        lanes(|i| f32::from_bits(((n[i] as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    unsafe fn sum4(a: [Self::V; 4]) -> [f32; 4] {
        // SAFETY: pure arithmetic.
        unsafe { [Self::sum(a[0]), Self::sum(a[1]), Self::sum(a[2]), Self::sum(a[3])] }
    }
    #[inline(always)]
    unsafe fn max_lane(a: Self::V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn zero_below(x: Self::V, bound: f32, value: Self::V) -> Self::V {
        lanes(|i| if x[i] < bound { 0.0 } else { value[i] })
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};
#[cfg(target_arch = "x86_64")]
use x86::{run_avx2, run_avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    // Each function below is one or a few intrinsics whose contract is exactly the trait's.
    #![allow(clippy::undocumented_unsafe_blocks)]

    use super::{Kernel, Simd};
    use half::{bf16, f16};
    use std::arch::x86_64::*;

    #[inline(never)]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx2>()
    }

    #[inline(never)]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx512>()
    }

    /// 8 lanes; 16 registers.
    #[derive(Clone, Copy)]
    pub struct Avx2;

    /// All-ones in lanes `0..count`, read at offset `8 - count`.
    static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    #[inline(always)]
    unsafe fn mask(count: usize) -> __m256i {
        debug_assert!(count <= 8);
        unsafe { _mm256_loadu_si256(MASK.as_ptr().add(8 - count).cast()) }
    }

    /// (0 + 2) + (1 + 3).
    #[inline(always)]
    unsafe fn sum_lanes(four: __m128) -> f32 {
        unsafe {
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    /// (low + high of a | low + high of b).
    #[inline(always)]
    unsafe fn fold_256(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(_mm256_blend_ps::<0xF0>(a, b), _mm256_permute2f128_ps::<0x21>(a, b)) }
    }

    /// (low + high of a | low + high of b).
    #[inline(always)]
    unsafe fn fold_512(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b)) }
    }

    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        const DOT_ROWS: usize = 3;
        const OUTER_ROWS: usize = 6;

        #[inline(always)]
        unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
            unsafe { run_avx2(kernel) }
        }
        #[inline(always)]
        unsafe fn zero() -> __m256 {
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> __m256 {
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(source: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(source) }
        }
        #[inline(always)]
        unsafe fn load_partial(source: *const f32, count: usize) -> __m256 {
            unsafe { _mm256_maskload_ps(source, mask(count)) }
        }
        #[inline(always)]
        unsafe fn store(target: *mut f32, value: __m256) {
            unsafe { _mm256_storeu_ps(target, value) }
        }
        #[inline(always)]
        unsafe fn store_partial(target: *mut f32, value: __m256, count: usize) {
            unsafe { _mm256_maskstore_ps(target, mask(count), value) }
        }
        #[inline(always)]
        unsafe fn load_bf16(source: *const bf16) -> __m256 {
            unsafe {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(source.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }
        }
        #[inline(always)]
        unsafe fn load_f16(source: *const f16) -> __m256 {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(source.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bf16_split(source: *const bf16) -> [__m256; 2] {
            unsafe {
                let pairs = _mm256_loadu_si256(source.cast());
                let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
                [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(odd)]
            }
        }
        #[inline(always)]
        unsafe fn split(a: __m256, b: __m256) -> [__m256; 2] {
            unsafe {
                // Each shuffle yields (a, b | a, b) in quarters of two lanes; the permutation brings a before b.
                let even = _mm256_castps_pd(_mm256_shuffle_ps::<0x88>(a, b));
                let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0xDD>(a, b));
                [
                    _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(even)),
                    _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(odd)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn prefetch(address: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_far(address: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sqrt(a: __m256) -> __m256 {
            unsafe { _mm256_sqrt_ps(a) }
        }
        #[inline(always)]
        unsafe fn round(a: __m256) -> __m256 {
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        }
        #[inline(always)]
        unsafe fn exp2_int(n: __m256) -> __m256 {
            unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            }
        }
        #[inline(always)]
        unsafe fn sum(a: __m256) -> f32 {
            unsafe { sum_lanes(_mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a))) }
        }
        #[inline(always)]
        unsafe fn sum4(a: [__m256; 4]) -> [f32; 4] {
            unsafe {
                let (ac, bd) = (fold_256(a[0], a[2]), fold_256(a[1], a[3]));
                // (0 + 2 of a, 0 + 2 of b, 1 + 3 of a, 1 + 3 of b | the same of c, d): the tree of `sum_lanes`.
                let pairs = _mm256_add_ps(_mm256_unpacklo_ps(ac, bd), _mm256_unpackhi_ps(ac, bd));
                let (ab, cd) = (_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
                std::mem::transmute(_mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab)))
            }
        }
        #[inline(always)]
        unsafe fn max_lane(a: __m256) -> f32 {
            unsafe {
                let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
            }
        }
        #[inline(always)]
        unsafe fn zero_below(x: __m256, bound: f32, value: __m256) -> __m256 {
            unsafe { _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(bound)), value) }
        }
    }

    /// 16 lanes; 32 registers.
    #[derive(Clone, Copy)]
    pub struct Avx512;

    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const DOT_ROWS: usize = 6;
        const OUTER_ROWS: usize = 12;

        #[inline(always)]
        unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
            unsafe { run_avx512(kernel) }
        }
        #[inline(always)]
        unsafe fn zero() -> __m512 {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(source: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(source) }
        }
        #[inline(always)]
        unsafe fn load_partial(source: *const f32, count: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(((1_u32 << count) - 1) as __mmask16, source) }
        }
        #[inline(always)]
        unsafe fn store(target: *mut f32, value: __m512) {
            unsafe { _mm512_storeu_ps(target, value) }
        }
        #[inline(always)]
        unsafe fn store_partial(target: *mut f32, value: __m512, count: usize) {
            unsafe { _mm512_mask_storeu_ps(target, ((1_u32 << count) - 1) as __mmask16, value) }
        }
        #[inline(always)]
        unsafe fn load_bf16(source: *const bf16) -> __m512 {
            unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(source.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            }
        }
        #[inline(always)]
        unsafe fn load_f16(source: *const f16) -> __m512 {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(source.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bf16_split(source: *const bf16) -> [__m512; 2] {
            unsafe {
                let pairs = _mm512_loadu_si512(source.cast());
                let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
                [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
            }
        }
        #[inline(always)]
        unsafe fn split(a: __m512, b: __m512) -> [__m512; 2] {
            unsafe {
                let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
                let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
                [_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b)]
            }
        }
        #[inline(always)]
        unsafe fn prefetch(address: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_far(address: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sqrt(a: __m512) -> __m512 {
            unsafe { _mm512_sqrt_ps(a) }
        }
        #[inline(always)]
        unsafe fn round(a: __m512) -> __m512 {
            unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        }
        #[inline(always)]
        unsafe fn exp2_int(n: __m512) -> __m512 {
            unsafe {
                let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
            }
        }
        #[inline(always)]
        unsafe fn sum(a: __m512) -> f32 {
            unsafe {
                let eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
                Avx2::sum(eight)
            }
        }
        #[inline(always)]
        unsafe fn sum4(a: [__m512; 4]) -> [f32; 4] {
            unsafe {
                let (ab, cd) = (fold_512(a[0], a[1]), fold_512(a[2], a[3]));
                let four = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xDD>(ab, cd));
                // Quarters of `four` are now four lanes of a, b, c and d: finish as `sum_lanes` does.
                let two = _mm512_add_ps(four, _mm512_permute_ps::<0b01_00_11_10>(four));
                let one = _mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two));
                let picked = _mm512_maskz_compress_ps(0b0001_0001_0001_0001, one);
                std::mem::transmute(_mm512_castps512_ps128(picked))
            }
        }
        #[inline(always)]
        unsafe fn max_lane(a: __m512) -> f32 {
            unsafe { _mm512_reduce_max_ps(a) }
        }
        #[inline(always)]
        unsafe fn zero_below(x: __m512, bound: f32, value: __m512) -> __m512 {
            unsafe {
                let keep = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(bound));
                _mm512_maskz_mov_ps(keep, value)
            }
        }
    }
}

//! The hyperbolic tangent on vector lanes, and the softcap `c tanh(z / c)` made of it.

use super::simd::{Kernel, Simd};

/// `tanh(x)` a lane, within 3 ulp.
///
/// Below 0.625 the odd minimax polynomial of Cephes' `tanhf`, above it (e^2x - 1) / (e^2x + 1).
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: pure lane arithmetic, allowed by this function's own contract.
    unsafe {
        let one = S::splat(1.0);
        // Kept finite where it is not wanted; a NaN stays one (the second operand wins).
        let small = S::min(one, S::max(S::splat(-1.0), x));
        let square = S::mul(small, small);
        let mut p = S::splat(-5.704_988_7e-3);
        for coefficient in [2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8] {
            p = S::fma(p, square, S::splat(coefficient));
        }
        let near = S::fma(S::mul(p, square), small, small);
        let e = S::exp(S::add(x, x));
        let far = S::div(S::sub(e, one), S::add(e, one));
        let size = S::max(S::sub(S::zero(), x), x);
        let outside = |value| S::zero_below(size, 0.625, value);
        S::add(S::sub(near, outside(near)), outside(far))
    }
}

/// `z -> c tanh(z / c)` on every element; an element's bits do not depend on its place.
pub struct Softcap<'a> {
    pub values: &'a mut [f32],
    pub cap: f32,
}

impl Kernel for Softcap<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { values, cap } = self;
        let whole = values.len() / S::LANES * S::LANES;
        let rest = values.len() - whole;
        let pointer = values.as_mut_ptr();
        // SAFETY: whole registers within `values`, then the `rest` elements after them.
        unsafe {
            let (c, inverse) = (S::splat(cap), S::splat(1.0 / cap));
            let capped = |z| S::mul(c, tanh::<S>(S::mul(z, inverse)));
            for j in (0..whole).step_by(S::LANES) {
                S::store(pointer.add(j), capped(S::load(pointer.add(j))));
            }
            if rest > 0 {
                S::store_partial(pointer.add(whole), capped(S::load_partial(pointer.add(whole), rest)), rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::Isa;

    struct Tanh<'a>(&'a mut [f32]);

    impl Kernel for Tanh<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self) {
            for values in self.0.chunks_exact_mut(S::LANES) {
                // SAFETY: a chunk has LANES elements.
                unsafe { S::store(values.as_mut_ptr(), tanh::<S>(S::load(values.as_ptr()))) }
            }
        }
    }

    #[test]
    fn tanh_is_within_3_ulp() {
        // Every 1009th f32 from 2^-31 to 2^8, both signs.
        let points: Vec<f32> = (0x3000_0000..0x4380_0000_u32)
            .step_by(1009)
            .flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)])
            .chain([0.0, -0.0, 1e-38, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY])
            .collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut values = points.clone();
            values.resize(points.len().next_multiple_of(16), 0.0);
            isa.run(Tanh(&mut values));
            for (&x, &got) in points.iter().zip(&values) {
                let want = f64::from(x).tanh();
                let ulp = f64::from(f32::EPSILON) * want.abs();
                assert!((f64::from(got) - want).abs() <= 3.0 * ulp, "{isa}: tanh({x}) = {got} instead of {want}");
            }
        }
    }

    #[test]
    fn an_element_does_not_depend_on_its_place() {
        let values: Vec<f32> = (0..45).map(|i| (i as f32 - 20.0) * 1.7).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut together = values.clone();
            isa.run(Softcap { values: &mut together, cap: 7.3 });
            for (&z, capped) in values.iter().zip(together) {
                let mut alone = [z];
                isa.run(Softcap { values: &mut alone, cap: 7.3 });
                assert_eq!(alone[0].to_bits(), capped.to_bits());
            }
        }
    }
}

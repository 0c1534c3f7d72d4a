//! The approximate functions. Hardware's own tables are not modelled: results are within 2 ulp of the exact value, as
//! PTX promises for most of them.

/// 2^x: split into an integer and a fraction in [-0.5, 0.5], whose power is a polynomial (Taylor's in ln 2; the first
/// term left out is below 2^-27). Written without branches, so that loops over lanes vectorise.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer.
    let bounded = if x > 129.0 { 129.0 } else { x };
    let bounded = if bounded < -151.0 { -151.0 } else { bounded };
    let shifted = bounded + MAGIC;
    let fraction = bounded - (shifted - MAGIC);
    let exponent = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let mut p = 1.525_273_4e-5f32;
    for c in [1.540_353_e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0] {
        p = p * fraction + c;
    }
    // Two factors, because 2^exponent alone may leave the range at both ends.
    let half = exponent >> 1;
    let power = |e: i32| f32::from_bits((e.wrapping_add(127) << 23) as u32);
    let value = p * power(half) * power(exponent - half);
    if x.is_nan() { x } else { value }
}

pub fn log2(x: f32) -> f32 {
    x.log2()
}

pub fn tanh(x: f32) -> f32 {
    f64::from(x).tanh() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_is_within_two_ulp_and_right_at_the_ends() {
        for i in -150_000..130_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp2();
            let ulp = f64::from((exact as f32).next_up() - exact as f32).max(f64::from(f32::from_bits(1)));
            if (exact as f32).is_finite() {
                assert!((f64::from(exp2(x)) - exact).abs() <= 2.0 * ulp, "2^{x} = {} is not {exact}", exp2(x));
            }
        }
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp2(0.0), 1.0);
        assert!(exp2(f32::NAN).is_nan());
    }
}

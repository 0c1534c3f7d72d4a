//! `cvt` and the 16-bit float formats.

use super::op::{Rounding, Slot};
use super::types::Type;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conversion {
    pub from: Type,
    pub to: Type,
    pub rounding: Rounding,
    /// `.rni` and its like: float to integral float or integer.
    pub integral: bool,
    pub saturate: bool,
    pub relu: bool,
    pub d: Slot,
    pub a: Slot,
}

pub fn f32_from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[inline(always)]
pub fn bf16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    // Round to nearest even; a NaN becomes the canonical one, as the hardware's conversion makes it.
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { 0x7fff } else { rounded as u16 }
}

#[inline(always)]
pub fn f32_from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let value = match magnitude {
        0x7c01.. => f32::NAN,
        0x7c00 => f32::INFINITY,
        0x400.. => f32::from_bits((magnitude << 13) + (112 << 23)),
        // Subnormal: magnitude units of 2^-24, exact.
        _ => magnitude as f32 * (1.0 / 16_777_216.0),
    };
    f32::from_bits(value.to_bits() | sign)
}

#[inline(always)]
pub fn f16_from_f32(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16 & 0x8000) as u16;
    let magnitude = value.abs();
    if value.is_nan() {
        return 0x7fff;
    }
    if magnitude >= 65520.0 {
        return sign | 0x7c00;
    }
    if magnitude < 6.103_515_6e-5 {
        // Below 2^-14 the units are 2^-24; adding 0.5 * 2^24 units rounds to nearest even in the sum's last place.
        return sign | ((magnitude + 0.5).to_bits() - 0.5f32.to_bits()) as u16;
    }
    let bits = magnitude.to_bits();
    sign | ((bits + 0xfff + (bits >> 13 & 1) - (112 << 23)) >> 13) as u16
}

/// What a finite exact value past f32's range becomes: infinite only where `rounding` goes that way.
pub fn overflowed(infinite: f32, rounding: Rounding) -> f32 {
    let goes = match rounding {
        Rounding::Nearest => true,
        Rounding::Zero => false,
        Rounding::Down => infinite < 0.0,
        Rounding::Up => infinite > 0.0,
    };
    if goes { infinite } else { f32::MAX.copysign(infinite) }
}

/// The f32 next to `value` in the direction of `rounding` for an exact value that is `value + error`.
pub fn directed(value: f32, error: f64, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::Nearest => value,
        Rounding::Down if error < 0.0 => value.next_down(),
        Rounding::Up if error > 0.0 => value.next_up(),
        Rounding::Zero if value > 0.0 && error < 0.0 => value.next_down(),
        Rounding::Zero if value < 0.0 && error > 0.0 => value.next_up(),
        _ => value,
    }
}

/// a b + c in one rounding of the given direction.
pub fn fma_rounded(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let sum = product + f64::from(c);
    // Knuth's two-sum: what the f64 addition lost.
    let from_c = sum - product;
    let lost = (product - (sum - from_c)) + (f64::from(c) - from_c);
    let rounded = sum as f32;
    match rounded.is_infinite() && sum.is_finite() {
        true => overflowed(rounded, rounding),
        false if rounded.is_nan() || sum.is_infinite() => rounded,
        false => directed(rounded, (sum - f64::from(rounded)) + lost, rounding),
    }
}

fn integral(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => value.round_ties_even(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

impl Conversion {
    /// Both ends as bits in the low end of the word.
    pub fn value(&self, bits: u64) -> u64 {
        use Type::*;
        let number = match self.from {
            F32 | Tf32 => f64::from(f32::from_bits(bits as u32)),
            F64 => f64::from_bits(bits),
            F16 => f64::from(f32_from_f16(bits as u16)),
            Bf16 => f64::from(f32_from_bf16(bits as u16)),
            _ => return self.of_integer(bits),
        };
        if self.to.float() { self.as_float(number) } else { self.as_integer(number) }
    }

    fn of_integer(&self, bits: u64) -> u64 {
        let shift = 64 - 8 * self.from.bytes();
        let wide = if self.from.signed() {
            i128::from((bits << shift) as i64 >> shift)
        } else {
            i128::from(bits << shift >> shift)
        };
        match self.to {
            Type::F32 => {
                let nearest = wide as f32;
                let error = wide - nearest as i128;
                u64::from(directed(nearest, error as f64, self.rounding).to_bits())
            }
            Type::F64 => (wide as f64).to_bits(),
            to if to.float() => self.as_float(wide as f64),
            to => clamp(wide, to, self.saturate),
        }
    }

    fn as_integer(&self, number: f64) -> u64 {
        // Out of range clamps to the nearest end and NaN is 0, which is also what `as` does. (NaN to 64 bits is
        // 0x8000000000000000 on hardware.)
        if number.is_nan() && self.to.bytes() == 8 {
            return 1 << 63;
        }
        let rounding = if self.integral { self.rounding } else { Rounding::Zero };
        clamp(integral(number, rounding) as i128, self.to, true)
    }

    fn as_float(&self, mut number: f64) -> u64 {
        if self.integral {
            number = integral(number, self.rounding).copysign(number);
        }
        if self.saturate {
            number = if number.is_nan() { 0.0 } else { number.clamp(0.0, 1.0) };
        }
        if self.relu && number < 0.0 {
            number = 0.0;
        }
        let single = number as f32;
        let single =
            if single.is_finite() { directed(single, number - f64::from(single), self.rounding) } else { single };
        match self.to {
            Type::F64 => number.to_bits(),
            Type::F32 => u64::from(single.to_bits()),
            // 10 bits of mantissa, ties away from zero (.rna, the only rounding on sm_80).
            Type::Tf32 => u64::from(single.to_bits().wrapping_add(0x1000) & 0xffff_e000),
            Type::Bf16 if self.rounding == Rounding::Zero => u64::from(single.to_bits() >> 16),
            Type::Bf16 => bf16_from_f32(single).into(),
            _ => f16_from_f32(single).into(),
        }
    }
}

fn clamp(value: i128, to: Type, saturate: bool) -> u64 {
    let bits = 8 * to.bytes();
    let (low, high) =
        if to.signed() { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
    let value = if saturate { value.clamp(low, high) } else { value };
    // A narrow result fills its 32-bit register: sign-extended for signed types.
    let value = value as u64;
    let shift = 64 - bits;
    if to.signed() { ((value << shift) as i64 >> shift) as u64 } else { value << shift >> shift }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_survives_the_way_through_f32() {
        for bits in 0..=u16::MAX {
            let back = f16_from_f32(f32_from_f16(bits));
            assert!(back == bits || f32_from_f16(bits).is_nan(), "{bits:#x} came back as {back:#x}");
        }
    }

    #[test]
    fn f16_rounds_to_nearest_even() {
        assert_eq!(f16_from_f32(1.0 + 1.0 / 2048.0), 0x3c00);
        assert_eq!(f16_from_f32(1.0 + 3.0 / 2048.0), 0x3c02);
        assert_eq!(f16_from_f32(65519.0), 0x7bff);
        assert_eq!(f16_from_f32(65520.0), 0x7c00);
        assert_eq!(f16_from_f32(2.0f32.powi(-25)), 0);
        assert_eq!(f16_from_f32(3.0 * 2.0f32.powi(-25)), 2);
    }

    #[test]
    fn directed_rounding_brackets_the_exact_sum() {
        let (a, b, c) = (1.000_001f32, 3.3f32, 1e-9f32);
        let (down, up) = (fma_rounded(a, b, c, Rounding::Down), fma_rounded(a, b, c, Rounding::Up));
        assert_eq!(down.next_up(), up);
        assert!(f64::from(down) <= f64::from(a) * f64::from(b) + f64::from(c));
        assert_eq!(fma_rounded(a, b, c, Rounding::Zero), down);
    }

    #[test]
    fn conversions_clamp_round_and_extend() {
        let cvt = |from, to, rounding, integral, bits| {
            Conversion { from, to, rounding, integral, saturate: false, relu: false, d: 0, a: 0 }.value(bits)
        };
        let nearest = Rounding::Nearest;
        assert_eq!(cvt(Type::F32, Type::S32, nearest, true, 2.5f32.to_bits().into()), 2);
        assert_eq!(cvt(Type::F32, Type::S32, Rounding::Zero, true, (-2.9f32).to_bits().into()) as u32, -2i32 as u32);
        assert_eq!(cvt(Type::F32, Type::U8, Rounding::Zero, true, 300f32.to_bits().into()), 255);
        assert_eq!(cvt(Type::S8, Type::S32, nearest, false, 0xff) as u32, u32::MAX);
        assert_eq!(cvt(Type::U16, Type::F32, nearest, false, 65535) as u32, 65535f32.to_bits());
        assert_eq!(cvt(Type::S64, Type::F32, Rounding::Zero, false, 16_777_219) as u32, 16_777_218f32.to_bits());
    }
}

//! Floating point, one lane at a time: exact values in f64 with what f64 lost beside them, rounded by hand.

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Zero,
    Down,
    Up,
}

/// A format of `mantissa` stored bits with exponents from `lowest`.
struct Format {
    mantissa: i32,
    lowest: i32,
    largest: f64,
}

const F32: Format = Format { mantissa: 23, lowest: -126, largest: 3.402_823_466_385_288_6e38 };
const BF16: Format = Format { mantissa: 7, lowest: -126, largest: 3.389_531_389_251_535_5e38 };
const F16: Format = Format { mantissa: 10, lowest: -14, largest: 65_504.0 };

/// `value + rest` in the format, where |rest| is below half an ulp of f64's `value`.
fn round(value: f64, rest: f64, format: &Format, mode: Mode) -> f64 {
    if !value.is_finite() || value == 0.0 {
        return value;
    }
    let exponent = ((value.to_bits() >> 52 & 2047) as i32 - 1023).max(format.lowest);
    let unit = 2f64.powi(exponent - format.mantissa);
    // A power of two has the exact value below it where `rest` is negative; a quotient has room for a sticky digit.
    let scaled = value / unit;
    let floor = scaled.floor();
    let fraction = (scaled - floor, rest);
    let above = match mode {
        Mode::Nearest => {
            fraction.0 > 0.5 || fraction.0 == 0.5 && (rest > 0.0 || rest == 0.0 && floor.rem_euclid(2.0) == 1.0)
        }
        Mode::Down => false,
        Mode::Up => fraction.0 > 0.0 || rest > 0.0,
        Mode::Zero => value < 0.0 && (fraction.0 > 0.0 || rest > 0.0),
    };
    // An exact multiple with a negative rest lies in the step below.
    let below = fraction.0 == 0.0 && rest < 0.0 && (mode == Mode::Down || mode == Mode::Zero && value > 0.0);
    let result = (floor + f64::from(i8::from(above)) - f64::from(i8::from(below))) * unit;
    let overflows = match mode {
        Mode::Nearest => true,
        Mode::Zero => false,
        Mode::Down => result < 0.0,
        Mode::Up => result > 0.0,
    };
    match result.abs() > format.largest {
        true if overflows => f64::INFINITY.copysign(result),
        true => format.largest.copysign(result),
        false => result.abs().copysign(value),
    }
}

/// a + b and what the sum lost.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    if !sum.is_finite() {
        return (sum, 0.0);
    }
    let from_b = sum - a;
    (sum, (a - (sum - from_b)) + (b - from_b))
}

fn f32_bits(value: f64) -> u32 {
    (value as f32).to_bits()
}

fn single(value: f64, rest: f64, mode: Mode) -> u32 {
    f32_bits(round(value, rest, &F32, mode))
}

/// The bits of a 16-bit float.
fn encode(value: f64, rest: f64, bf16: bool) -> u32 {
    if value.is_nan() {
        return 0x7fff;
    }
    let format = if bf16 { BF16 } else { F16 };
    let rounded = round(value, rest, &format, Mode::Nearest);
    let sign = u32::from(rounded.is_sign_negative()) << 15;
    let infinite = if bf16 { 0x7f80 } else { 0x7c00 };
    let size = rounded.abs();
    if size.is_infinite() {
        return sign | infinite;
    }
    let step = 2f64.powi(format.lowest - format.mantissa);
    if size < 2f64.powi(format.lowest) {
        return sign | (size / step) as u32;
    }
    let exponent = (size.to_bits() >> 52) as i32 - 1023;
    let mantissa = size / 2f64.powi(exponent - format.mantissa) - 2f64.powi(format.mantissa);
    sign | ((exponent - format.lowest + 1) as u32) << format.mantissa | mantissa as u32
}

pub fn decode(bits: u32, bf16: bool) -> f64 {
    let format = if bf16 { BF16 } else { F16 };
    let sign = if bits >> 15 & 1 == 1 { -1.0 } else { 1.0 };
    let exponent = (bits & 0x7fff) >> format.mantissa;
    let mantissa = f64::from(bits & ((1 << format.mantissa) - 1));
    let highest = if bf16 { 255 } else { 31 };
    let scale = 2f64.powi(format.lowest - format.mantissa);
    sign * match exponent {
        0 => mantissa * scale,
        e if e == highest => {
            if mantissa == 0.0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        e => (mantissa + 2f64.powi(format.mantissa)) * scale * 2f64.powi(e as i32 - 1),
    }
}

/// The number of two, unless `nan` lets a NaN through; -0 is below +0.
fn extreme(a: f64, b: f64, max: bool, nan: bool) -> f64 {
    if a.is_nan() || b.is_nan() {
        return if nan || a.is_nan() && b.is_nan() {
            f64::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    let below = a < b || a == b && a.is_sign_negative();
    if below != max { a } else { b }
}

fn compare(relation: &str, a: f64, b: f64) -> Option<bool> {
    let unordered = a.is_nan() || b.is_nan();
    Some(match relation {
        "eq" => !unordered && a == b,
        "ne" => !unordered && a != b,
        "lt" => a < b,
        "le" => a <= b,
        "gt" => a > b,
        "ge" => a >= b,
        "equ" => unordered || a == b,
        "neu" => unordered || a != b,
        "ltu" => unordered || a < b,
        "leu" => unordered || a <= b,
        "gtu" => unordered || a > b,
        "geu" => unordered || a >= b,
        "num" => !unordered,
        "nan" => unordered,
        _ => return None,
    })
}

/// To an integer between `low` and `high`; NaN is 0.
fn integer(value: f64, low: f64, high: f64) -> u32 {
    if value.is_nan() { 0 } else { value.clamp(low, high) as i64 as u32 }
}

fn pairs(name: &str, a: u32, b: u32, c: u32) -> Option<u32> {
    let (op, kind) = name.rsplit_once('.')?;
    let bf16 = match kind {
        "bf16x2" => true,
        "f16x2" => false,
        _ => return None,
    };
    let one = |shift: u32| {
        let [x, y, z] = [a, b, c].map(|word| decode(word >> shift & 0xffff, bf16));
        let (value, rest) = match op {
            "add" => two_sum(x, y),
            "sub" => two_sum(x, -y),
            "mul" => (x * y, 0.0),
            "fma.rn" => two_sum(x * y, z),
            "min" => (extreme(x, y, false, false), 0.0),
            "max" => (extreme(x, y, true, false), 0.0),
            _ => return None,
        };
        Some(encode(value, rest, bf16))
    };
    Some(one(0)? | one(16)? << 16)
}

pub fn answer(name: &str, operands: &[u32]) -> Option<Vec<u32>> {
    let bits = |row: usize| operands.get(row).copied().unwrap_or(0);
    let float = |row: usize| f64::from(f32::from_bits(bits(row)));
    let (a, b, c) = (float(0), float(1), float(2));
    if let Some(word) = pairs(name, bits(0), bits(1), bits(2)) {
        return Some(vec![word]);
    }
    if let Some(relation) = name.strip_prefix("setp.").and_then(|rest| rest.strip_suffix(".f32")) {
        return Some(vec![u32::from(compare(relation, a, b)?)]);
    }
    let sum = |mode| {
        let (sum, rest) = two_sum(a, b);
        single(sum, rest, mode)
    };
    let multiplied = |mode| {
        let (sum, rest) = two_sum(a * b, c);
        single(sum, rest, mode)
    };
    let double = |value: f64| Some(vec![value.to_bits() as u32, (value.to_bits() >> 32) as u32]);
    let (low, high) = (f64::from(i32::MIN), f64::from(i32::MAX));
    let near = Mode::Nearest;
    let one = match name {
        "neg.f32" => bits(0) ^ 1 << 31,
        "abs.f32" => bits(0) & !(1 << 31),
        "copysign.f32" => bits(0) & 1 << 31 | bits(1) & !(1 << 31),
        "sqrt.rn.f32" | "sqrt.approx.f32" => single(a.sqrt(), 0.0, near),
        "rcp.rn.f32" | "rcp.approx.f32" => single(1.0 / a, 0.0, near),
        "rsqrt.approx.f32" => single(1.0 / a.sqrt(), 0.0, near),
        "ex2.approx.f32" => single(a.exp2(), 0.0, near),
        "lg2.approx.f32" => single(a.log2(), 0.0, near),
        "tanh.approx.f32" => single(a.tanh(), 0.0, near),
        "sin.approx.f32" => single(a.sin(), 0.0, near),
        "cos.approx.f32" => single(a.cos(), 0.0, near),
        "div.approx.f32" | "div.full.f32" | "div.rn.f32" => single(a / b, 0.0, near),
        "add.f32" => sum(near),
        "add.rz.f32" => sum(Mode::Zero),
        "add.rm.f32" => sum(Mode::Down),
        "add.rp.f32" => sum(Mode::Up),
        "sub.f32" => single(two_sum(a, -b).0, two_sum(a, -b).1, near),
        "mul.f32" => single(a * b, 0.0, near),
        "mul.rz.f32" => single(a * b, 0.0, Mode::Zero),
        "fma.rn.f32" => multiplied(near),
        "fma.rz.f32" => multiplied(Mode::Zero),
        "min.f32" => f32_bits(extreme(a, b, false, false)),
        "max.f32" => f32_bits(extreme(a, b, true, false)),
        "min.NaN.f32" => f32_bits(extreme(a, b, false, true)),
        "max.NaN.f32" => f32_bits(extreme(a, b, true, true)),
        "cvt.rni.f32.f32" => f32_bits(a.round_ties_even()),
        "cvt.sat.f32.f32" => f32_bits(if a > 0.0 { a.min(1.0) } else { 0.0 }),
        "cvt.rni.s32.f32" => integer(a.round_ties_even(), low, high),
        "cvt.rzi.s32.f32" => integer(a.trunc(), low, high),
        "cvt.rmi.s32.f32" => integer(a.floor(), low, high),
        "cvt.rpi.s32.f32" => integer(a.ceil(), low, high),
        "cvt.rzi.u32.f32" => integer(a.trunc(), 0.0, f64::from(u32::MAX)),
        "cvt.rn.f32.s32" => single(f64::from(bits(0) as i32), 0.0, near),
        "cvt.rz.f32.s32" => single(f64::from(bits(0) as i32), 0.0, Mode::Zero),
        "cvt.rn.f32.u32" => single(f64::from(bits(0)), 0.0, near),
        "cvt.rn.f16.f32" => encode(a, 0.0, false),
        "cvt.rn.bf16.f32" => encode(a, 0.0, true),
        // The first source is the high half.
        "cvt.rn.f16x2.f32" => encode(a, 0.0, false) << 16 | encode(b, 0.0, false),
        "cvt.rn.bf16x2.f32" => encode(a, 0.0, true) << 16 | encode(b, 0.0, true),
        "cvt.rna.tf32.f32" => {
            // Ties away from zero at 10 bits; NaN's payload is not promised, so it keeps its bits here.
            if a.is_nan() { bits(0) } else { (bits(0) + 0x1000) & !0x1fff }
        }
        "cvt.f32.f16" => {
            return Some([0, 16].map(|shift| f32_bits(decode(bits(0) >> shift & 0xffff, false))).to_vec());
        }
        "add.f64" => return double(a + b),
        "mul.f64" => return double(a * b),
        "div.rn.f64" => return double(a / b),
        "fma.rn.f64" => return double(a.mul_add(b, c)),
        _ => return None,
    };
    Some(vec![one])
}

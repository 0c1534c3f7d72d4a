//! Integer instructions, one lane at a time, in i128 where widths matter.

fn bits_of(value: i128) -> u32 {
    value as u32
}

fn extract(a: u32, position: u32, length: u32, signed: bool) -> u32 {
    let (position, length) = (position & 255, length & 255);
    let bit = |at: u32| if at < 32 { a >> at & 1 } else { 0 };
    let sign = if signed && length > 0 { bit(31.min(position + length - 1)) } else { 0 };
    (0..32).fold(0, |value, i| {
        let set = if i < length && position + i < 32 { bit(position + i) } else { sign };
        value | set << i
    })
}

fn insert(a: u32, b: u32, position: u32, length: u32) -> u32 {
    let (position, length) = (position & 255, length & 255);
    (0..32).fold(0, |value, i| {
        let inside = i >= position && i < position + length;
        value | (if inside { a >> (i - position) & 1 } else { b >> i & 1 }) << i
    })
}

fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = [a.to_le_bytes(), b.to_le_bytes()].concat();
    (0..4).fold(0, |value, i| {
        let pick = selector >> (4 * i) & 15;
        let byte = bytes[(pick & 7) as usize];
        let byte = if pick > 7 { if byte > 127 { 255 } else { 0 } } else { byte };
        value | u32::from(byte) << (8 * i)
    })
}

fn highest(a: u32) -> u32 {
    (0..32).rev().find(|&bit| a >> bit & 1 == 1).unwrap_or(u32::MAX)
}

fn dot(a: u32, b: u32, c: u32, signed: bool) -> u32 {
    let part = |byte: u8| if signed { i128::from(byte as i8) } else { i128::from(byte) };
    let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes()).map(|(a, b)| part(a) * part(b));
    bits_of(products.sum::<i128>() + i128::from(c))
}

fn wide(value: i128) -> Vec<u32> {
    vec![value as u32, (value >> 32) as u32]
}

pub fn answer(name: &str, operands: &[u32]) -> Option<Vec<u32>> {
    let word = |row: usize| operands.get(row).copied().unwrap_or(0);
    let (a, b, c, d) = (word(0), word(1), word(2), word(3));
    let signed = |word: u32| i128::from(word as i32);
    let unsigned = |word: u32| i128::from(word);
    let pair = u64::from(a) | u64::from(b) << 32;
    let truth = |truth: bool| u32::from(truth);
    let one = match name {
        "neg.s32" => bits_of(-signed(a)),
        "abs.s32" => bits_of(signed(a).abs()),
        "not.b32" => u32::MAX - a,
        "popc.b32" => (0..32).map(|bit| a >> bit & 1).sum(),
        "clz.b32" => {
            if a == 0 {
                32
            } else {
                31 - highest(a)
            }
        }
        "brev.b32" => (0..32).fold(0, |value, bit| value | (a >> bit & 1) << (31 - bit)),
        "bfind.u32" => highest(a),
        "bfind.s32" => highest(if a >> 31 == 1 { !a } else { a }),
        "add.s32" => bits_of(signed(a) + signed(b)),
        "sub.s32" => bits_of(signed(a) - signed(b)),
        "mul.lo.s32" => bits_of(signed(a) * signed(b)),
        "mul.hi.s32" => bits_of((signed(a) * signed(b)) >> 32),
        "mul.hi.u32" => bits_of((unsigned(a) * unsigned(b)) >> 32),
        "min.s32" => bits_of(signed(a).min(signed(b))),
        "min.u32" => bits_of(unsigned(a).min(unsigned(b))),
        "max.s32" => bits_of(signed(a).max(signed(b))),
        "max.u32" => bits_of(unsigned(a).max(unsigned(b))),
        "and.b32" => a & b,
        "or.b32" => a | b,
        "xor.b32" => a ^ b,
        "shl.b32" => {
            if b > 31 {
                0
            } else {
                bits_of(unsigned(a) << b)
            }
        }
        "shr.u32" => bits_of(unsigned(a) >> b.min(32)),
        "shr.s32" => bits_of(signed(a) >> b.min(32)),
        "div.s32" => bits_of(signed(a) / signed(b)),
        "div.u32" => bits_of(unsigned(a) / unsigned(b)),
        "rem.s32" => bits_of(signed(a) % signed(b)),
        "rem.u32" => bits_of(unsigned(a) % unsigned(b)),
        "mad.lo.s32" => bits_of(signed(a) * signed(b) + signed(c)),
        "mad.hi.u32" => bits_of(((unsigned(a) * unsigned(b)) >> 32) + unsigned(c)),
        "bfe.u32" => extract(a, b, c, false),
        "bfe.s32" => extract(a, b, c, true),
        "bfi.b32" => insert(a, b, c, d),
        "prmt.b32" => permute(a, b, c),
        "shf.l.wrap.b32" => bits_of(i128::from((pair << (c % 32)) >> 32)),
        "shf.l.clamp.b32" => bits_of((i128::from(pair) << c.min(32)) >> 32),
        "shf.r.wrap.b32" => (pair >> (c % 32)) as u32,
        "shf.r.clamp.b32" => (pair >> c.min(32)) as u32,
        "sad.u32" => bits_of((unsigned(a) - unsigned(b)).abs() + unsigned(c)),
        "dp4a.s32.s32" => dot(a, b, c, true),
        "dp4a.u32.u32" => dot(a, b, c, false),
        // 0xca: where a is set b, elsewhere c.
        "lop3.b32" => a & b | !a & c,
        "mul.wide.s32" => return Some(wide(signed(a) * signed(b))),
        "mul.wide.u32" => return Some(wide(unsigned(a) * unsigned(b))),
        "shl.b64" => return Some(wide(if c > 63 { 0 } else { i128::from(pair) << c })),
        "shr.u64" => return Some(wide(i128::from(pair) >> c.min(64))),
        "shr.s64" => return Some(wide(i128::from(pair as i64) >> c.min(64))),
        "setp.lt.s32" => truth(signed(a) < signed(b)),
        "setp.ge.s32" => truth(signed(a) >= signed(b)),
        "setp.lt.u32" => truth(a < b),
        "setp.ge.u32" => truth(a >= b),
        "setp.eq.s32" => truth(a == b),
        "setp.ne.s32" => truth(a != b),
        "setp.lt.and.s32" => truth(signed(a) < signed(b) && c != 0),
        "selp.f32" => {
            if signed(a) < signed(b) {
                a
            } else {
                b
            }
        }
        // Narrow results fill their register by sign or zero; values are cut, not clamped.
        "cvt.s8.s32" => bits_of(i128::from(a as i8)),
        "cvt.u8.u32" => a % 256,
        "cvt.s16.s32" => bits_of(i128::from(a as i16)),
        "cvt.u16.u32" => a % 65_536,
        _ => return None,
    };
    Some(vec![one])
}

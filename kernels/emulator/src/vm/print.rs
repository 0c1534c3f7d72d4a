//! What a kernel asks of the host: printf, assert, trap.

use super::block::Context;
use super::each;
use super::warp::Warp;
use crate::memory::SHIFT;
use crate::ptx::decode::LOCAL_BASE;
use crate::ptx::op::Op;
use crate::race::report::Kind;

/// A C string in global memory.
fn text(context: &Context, address: u64) -> String {
    let Some((buffer, offset)) = context.launch.memory.find(address) else { return "?".into() };
    let byte = |at: u64| (buffer.word(at as usize / 4) >> (at % 4 * 8)) as u8;
    let bytes: Vec<u8> = (offset..buffer.len()).map(byte).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub fn host(warp: &mut Warp, context: &Context, op: &Op, pc: u32, active: u32) {
    match op {
        Op::Print { d, format, arguments } => {
            let list = arguments[0].1 as usize;
            each(active, |lane| {
                let format = text(context, warp.doubles[*format as usize][lane]);
                print!("{}", expand(warp, context, lane, &format, warp.doubles[list][lane]));
                warp.words[*d as usize][lane] = 1;
            });
        }
        Op::Assert { message, file, line } => {
            let lane = active.trailing_zeros();
            if lane < 32 {
                let [message, file] =
                    [message, file].map(|slot| text(context, warp.doubles[*slot as usize][lane as usize]));
                let line = warp.words[*line as usize][lane as usize];
                context.fault(warp.index, lane, Kind::Assertion, pc, None, || {
                    format!("`{message}` failed, {file}:{line}")
                });
            }
        }
        _ if active != 0 => context.fault(warp.index, active.trailing_zeros(), Kind::Trap, pc, None, || "trap".into()),
        _ => {}
    }
}

/// printf's common conversions; the arguments stand in local memory, each aligned to its size.
fn expand(warp: &Warp, context: &Context, lane: usize, format: &str, list: u64) -> String {
    let mut at = if list >> SHIFT == LOCAL_BASE >> SHIFT { list - LOCAL_BASE } else { list };
    let base = lane * context.launch.program.local_bytes as usize;
    let mut argument = |bytes: u64| {
        at = at.next_multiple_of(bytes);
        let start = base + at as usize;
        at += bytes;
        let mut value = [0; 8];
        if let Some(source) = warp.local.get(start..start + bytes as usize) {
            value[..bytes as usize].copy_from_slice(source);
        }
        u64::from_le_bytes(value)
    };
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut precision = None;
        let mut long = false;
        let conversion = loop {
            match rest.next() {
                Some('l' | 'z' | 'j') => long = true,
                Some('.') => precision = Some(0),
                Some(digit @ '0'..='9') => precision = precision.map(|p| p * 10 + digit as usize - '0' as usize),
                Some('-' | '+' | ' ' | '#' | 'h') => {}
                other => break other,
            }
        };
        let bytes = if long { 8 } else { 4 };
        match conversion {
            Some('d' | 'i') if long => out += &(argument(8) as i64).to_string(),
            Some('d' | 'i') => out += &(argument(4) as i32).to_string(),
            Some('u') => out += &argument(bytes).to_string(),
            Some('x') => out += &format!("{:x}", argument(bytes)),
            Some('X') => out += &format!("{:X}", argument(bytes)),
            Some('c') => out.push(argument(4) as u8 as char),
            Some('p') => out += &format!("{:#x}", argument(8)),
            Some('s') => out += &text(context, argument(8)),
            Some('f' | 'F') => out += &format!("{:.*}", precision.unwrap_or(6), f64::from_bits(argument(8))),
            Some('e' | 'E') => out += &format!("{:.*e}", precision.unwrap_or(6), f64::from_bits(argument(8))),
            Some('g' | 'G') => out += &f64::from_bits(argument(8)).to_string(),
            Some('%') => out.push('%'),
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

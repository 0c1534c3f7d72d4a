//! Instructions that look at other lanes or at memory: whole warps at once.

use super::float::decode;

type Row = [u32; 32];

fn each(f: impl Fn(usize) -> u32) -> Row {
    std::array::from_fn(f)
}

/// PTX's own pseudocode of shfl.
fn shuffle(mode: &str, row: &Row, by: i32, c: i32) -> Vec<Row> {
    let (segment, clamp) = (c >> 8 & 31, c & 31);
    let source = |lane: i32| {
        let (max, min) = (lane & segment | clamp & !segment, lane & segment);
        let (from, valid) = match mode {
            "up" => (lane - by, lane - by >= max),
            "down" => (lane + by, lane + by <= max),
            "bfly" => (lane ^ by, lane ^ by <= max),
            _ => (min | by & !segment, (min | by & !segment) <= max),
        };
        (if valid { from } else { lane }, valid)
    };
    vec![each(|lane| row[source(lane as i32).0 as usize]), each(|lane| u32::from(source(lane as i32).1))]
}

fn atomic(op: &str, old: u32, b: u32, c: u32) -> Option<u32> {
    Some(match op {
        "add.u32" => old.wrapping_add(b),
        "min.s32" => (old as i32).min(b as i32) as u32,
        "max.s32" => (old as i32).max(b as i32) as u32,
        "min.u32" => old.min(b),
        "max.u32" => old.max(b),
        "and.b32" => old & b,
        "or.b32" => old | b,
        "xor.b32" => old ^ b,
        "exch.b32" => b,
        "inc.u32" => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        "dec.u32" => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        "add.f32" => return super::float::answer("add.f32", &[old, b]).map(|words| words[0]),
        "cas.b32" => {
            if old == b {
                c
            } else {
                old
            }
        }
        _ => return None,
    })
}

/// The words of matrix `m` of four that lie in rows of 16 bytes: element (row, column).
fn element(inputs: &[Row], matrix: usize, row: usize, column: usize) -> u32 {
    let half = matrix * 64 + row * 8 + column;
    inputs[half / 64][half / 2 % 32] >> (16 * (half % 2)) & 0xffff
}

fn load_matrix(name: &str, inputs: &[Row]) -> Option<Vec<Row>> {
    let rest = name.strip_prefix("ldmatrix.sync.aligned.m8n8.x")?;
    let count = rest[..1].parse().ok()?;
    let transposed = rest.contains("trans");
    let matrix = |m: usize| {
        each(|lane| {
            let at = |column: usize| {
                if transposed { element(inputs, m, column, lane / 4) } else { element(inputs, m, lane / 4, column) }
            };
            at(lane % 4 * 2) | at(lane % 4 * 2 + 1) << 16
        })
    };
    Some((0..count).map(matrix).collect())
}

/// Lane 4 g + t holds A at (g, k), (g + 8, k), B at (k, g), C at (g, 2 t), (g, 2 t + 1) and eight rows below.
fn mma(name: &str, inputs: &[Row]) -> Option<Vec<Row>> {
    let rest = name.strip_prefix("mma.sync.aligned.m16n8k")?;
    let depth: usize = rest.split('.').next()?.parse().ok()?;
    let tf32 = rest.contains("tf32");
    let bf16 = rest.contains("bf16");
    let value = |row: usize, lane: usize, k: usize| {
        let word = inputs[row][lane];
        if tf32 { f64::from(f32::from_bits(word & !0x1fff)) } else { decode(word >> (16 * (k % 2)) & 0xffff, bf16) }
    };
    // A step of k that one register holds: 4 lanes of 1 or 2 elements.
    let width = if tf32 { 4 } else { 8 };
    let lane_of = |k: usize| if tf32 { k % 4 } else { k % 8 / 2 };
    let parts = depth / width;
    let a = |row: usize, k: usize| value(2 * (k / width) + row / 8, row % 8 * 4 + lane_of(k), k);
    let b = |k: usize, column: usize| value(2 * parts + k / width, column * 4 + lane_of(k), k);
    let c = |row: usize, column: usize| {
        let word = inputs[3 * parts + column % 2][row % 8 * 4 + column / 2];
        f64::from(f32::from_bits(word)) * if row < 8 { 1.0 } else { -1.0 }
    };
    let d = |register: usize| {
        each(|lane| {
            let (row, column) = (lane / 4 + register / 2 * 8, lane % 4 * 2 + register % 2);
            let sum: f64 = (0..depth).map(|k| a(row, k) * b(k, column)).sum();
            ((sum + c(row, column)) as f32).to_bits()
        })
    };
    Some((0..4).map(d).collect())
}

fn flat(inputs: &[Row]) -> Vec<u8> {
    inputs.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
}

fn copy(name: &str, inputs: &[Row]) -> Option<Vec<Row>> {
    let rest = name.strip_prefix("cp.async.")?.split_once("global ")?.1;
    let numbers: Vec<usize> = rest.split(' ').filter_map(|word| word.parse().ok()).collect();
    let (bytes, size) = (numbers[0], numbers.get(1).copied().unwrap_or(numbers[0]));
    let source = flat(inputs);
    let byte = |lane: usize, at: usize| match at {
        // A lane's own word, 12 bytes for each lane further on.
        _ if at < size => source[16 * lane + at],
        _ if at < bytes => 0,
        _ => 255,
    };
    Some(
        (0..4).map(|word| each(|lane| u32::from_le_bytes(std::array::from_fn(|i| byte(lane, 4 * word + i))))).collect(),
    )
}

/// Warp 0 of a warpgroup makes what mma makes of the same fragments, wherever they come from.
fn hopper(name: &str, inputs: &[Row]) -> Option<Vec<Row>> {
    if name.starts_with("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 ") {
        return mma("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", inputs);
    }
    Some(match name {
        "elect.sync" => vec![[1; 32], [0; 32]],
        // Before all arrive: phase 0 is under way, the one before it is complete; then phase 1 is.
        "mbarrier.test_wait.parity.shared::cta.b64" => vec![[0; 32], [1; 32], [1; 32], [0; 32]],
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes" => inputs[..4].to_vec(),
        _ => return None,
    })
}

pub fn answer(name: &str, inputs: &[Row]) -> Option<Vec<Row>> {
    let first = inputs[0];
    let votes = || (0..32).filter(|&lane| first[lane] != 0).count() as u32;
    if let Some(rest) = name.strip_prefix("shfl.sync.") {
        let words: Vec<&str> = rest.split(' ').collect();
        return Some(shuffle(words[0].strip_suffix(".b32")?, &first, words[1].parse().ok()?, words[2].parse().ok()?));
    }
    if let Some(op) = name.strip_prefix("redux.sync.") {
        let value = (1..32)
            .try_fold(first[0], |value, lane| atomic(&op.replace("add.s32", "add.u32"), value, first[lane], 0))?;
        return Some(vec![[value; 32]]);
    }
    if let Some(op) = name.strip_prefix("atom.global.").or(name.strip_prefix("atom.shared.")) {
        let other = |row: usize, lane: usize| inputs.get(row).map_or(0, |row| row[lane]);
        atomic(op, 0, 0, 0)?;
        return Some(vec![first, each(|lane| atomic(op, first[lane], other(1, lane), other(2, lane)).unwrap_or(0))]);
    }
    if let Some(kind) = name.strip_prefix("ld.global.").filter(|kind| !kind.starts_with('v')) {
        let bytes = flat(inputs);
        return Some(vec![each(|lane| match kind {
            "u8" => bytes[lane].into(),
            "s8" => bytes[lane] as i8 as u32,
            "u16" => u16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]).into(),
            "s16" => i16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]) as u32,
            _ => first[lane],
        })]);
    }
    Some(match name {
        "vote.sync.all.pred" => vec![[u32::from(votes() == 32); 32]],
        "vote.sync.any.pred" => vec![[u32::from(votes() > 0); 32]],
        "vote.sync.uni.pred" => vec![[u32::from(votes() == 0 || votes() == 32); 32]],
        "vote.sync.ballot.b32" => vec![[(0..32).map(|lane| (first[lane] & 1) << lane).sum(); 32]],
        "match.any.sync.b32" => {
            vec![each(|lane| (0..32).map(|other| u32::from(first[other] == first[lane]) << other).sum())]
        }
        "bar.red.popc.u32" => vec![[votes(); 32]],
        "bar.red.and.pred" => vec![[u32::from(votes() == 32); 32]],
        "bar.red.or.pred" => vec![[u32::from(votes() > 0); 32]],
        "bar.sync 0" | "bar.sync 1 32" | "bar.warp.sync 0xffffffff" => vec![each(|lane| first[lane ^ 1])],
        "red.global.add.u32" => vec![each(|lane| first[lane].wrapping_add(inputs[1][lane]))],
        "ld.global.v4.u32" => {
            let bytes = flat(inputs);
            let word = |index: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[4 * index + i]));
            (0..4).map(|row| each(|lane| word(4 * lane + row))).collect()
        }
        "st.shared.v4.u32" => vec![inputs[2], inputs[3], inputs[0], inputs[1]],
        _ => {
            return load_matrix(name, inputs)
                .or_else(|| mma(name, inputs))
                .or_else(|| copy(name, inputs))
                .or_else(|| hopper(name, inputs));
        }
    })
}

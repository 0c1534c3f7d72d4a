//! The correct kernels with one barrier, one wait, one commit or one bound taken out of their PTX: each such change must
//! be reported whatever the seed.

mod common;

use common::{Arg, Bench, Random, to_bf16};

const SEEDS: u64 = 10;

/// The text with the `n`th line that begins with `opcode` replaced, and that line's number.
fn replaced(text: &str, opcode: &str, n: usize, by: &str) -> Option<(String, usize)> {
    let is = |line: &str| line.trim_start().starts_with(opcode);
    let at = text.lines().enumerate().filter(|(_, line)| is(line)).nth(n)?.0;
    let changed = text.lines().enumerate().map(|(i, line)| if i == at { by } else { line });
    Some((changed.collect::<Vec<_>>().join("\n"), at + 1))
}

fn gemm(text: &str, seed: u64) -> Vec<String> {
    let (mut bench, mut random) = (Bench::from_text(text, seed), Random(seed));
    let (m, n, k) = (70, 66, 160);
    let [a, b] = [m, n].map(|rows| to_bf16(&random.normals(rows * k)));
    let (pa, pb, c) = (bench.halves(&a), bench.halves(&b), bench.empty(4 * m * n));
    let arguments = [
        Arg::Int(m as i32),
        Arg::Int(n as i32),
        Arg::Int(k as i32),
        Arg::Pointer(pa),
        Arg::Pointer(pb),
        Arg::Pointer(c),
    ];
    let outcome = bench.run("gemm_bf16", [2, 2, 1], 128, 0, &arguments);
    outcome.reports.iter().map(|report| report.to_string()).collect()
}

fn flash(text: &str, seed: u64) -> Vec<String> {
    let (mut bench, mut random) = (Bench::from_text(text, seed), Random(seed));
    let (length, depth) = (250, 64);
    let values = to_bf16(&random.normals(length * depth));
    let [q, k, v] = [(); 3].map(|()| bench.halves(&values));
    let (o, sums) = (bench.empty(2 * length * depth), bench.empty(4 * length));
    let pointers = [q, k, v, o, sums].map(Arg::Pointer);
    let arguments: Vec<Arg> = [Arg::Int(length as i32), Arg::Float(0.125)].into_iter().chain(pointers).collect();
    let outcome = bench.run("flash_64", [4, 1, 1], 128, 5 * 64 * 72 * 2, &arguments);
    outcome.reports.iter().map(|report| report.to_string()).collect()
}

/// Takes out each occurrence in turn; the run must report something under every seed.
fn all_caught(name: &str, text: &str, opcodes: &[(&str, &str)], run: impl Fn(&str, u64) -> Vec<String>) {
    assert!(run(text, 0).is_empty(), "the unchanged {name} has reports");
    let mut changes = 0;
    for (opcode, by) in opcodes {
        for n in 0.. {
            let Some((changed, line)) = replaced(text, opcode, n, by) else { break };
            changes += 1;
            for seed in 0..SEEDS {
                assert!(
                    !run(&changed, seed).is_empty(),
                    "{name}.ptx line {line}, {opcode}: nothing was reported under seed {seed}"
                );
            }
        }
    }
    assert!(changes >= 2 * opcodes.len(), "{changes} changes of {name}");
}

/// The entry `name` and what stands before the first entry.
fn entry(text: &str, name: &str) -> String {
    let starts: Vec<usize> = text.match_indices(".visible .entry").map(|(at, _)| at).collect();
    let own =
        starts.iter().position(|&at| text[at..].starts_with(&format!(".visible .entry {name}("))).expect("the entry");
    let end = starts.get(own + 1).copied().unwrap_or(text.len());
    // Line information follows the last entry; without it places are PTX lines, which is all these tests need.
    let body = &text[starts[own]..end];
    format!("{}{}", &text[..starts[0]], &body[..body.rfind("\n}").map_or(body.len(), |at| at + 2)])
}

#[test]
fn gemm_without_a_barrier_or_a_wait() {
    let text = entry(include_str!("cu/gemm.ptx"), "gemm_bf16");
    all_caught("gemm", &text, &[("bar.sync", "")], gemm);
    // The wait of the last step is for nothing: one instruction serves all steps, and there is but one.
    let (changed, _) = replaced(&text, "cp.async.wait_group", 0, "").expect("a wait");
    assert!((0..SEEDS).all(|seed| !gemm(&changed, seed).is_empty()));
    let (changed, _) = replaced(&text, "cp.async.wait_group", 0, "cp.async.wait_group 2;").expect("a wait");
    assert!((0..SEEDS).all(|seed| !gemm(&changed, seed).is_empty()));
}

#[test]
fn flash_attention_without_a_barrier_or_a_wait() {
    let text = entry(include_str!("cu/flash.ptx"), "flash_64");
    all_caught("flash", &text, &[("bar.sync", "")], flash);
    let (changed, _) = replaced(&text, "cp.async.wait_group", 0, "").expect("a wait");
    assert!((0..SEEDS).all(|seed| !flash(&changed, seed).is_empty()));
}

#[test]
fn gemm_without_its_bounds() {
    let text = entry(include_str!("cu/gemm.ptx"), "gemm_bf16");
    // Each store is guarded by one predicated branch before it; without any, rows past the end are written.
    let stores = text.lines().filter(|line| line.trim_start().starts_with("st.global")).count();
    let mut caught = 0;
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let next_store = lines[at..].iter().take(12).any(|line| line.trim_start().starts_with("st.global"));
        if line.trim_start().starts_with('@') && line.contains("bra") && next_store {
            let changed: Vec<&str> =
                lines.iter().enumerate().map(|(i, line)| if i == at { "" } else { line }).collect();
            caught += usize::from(!gemm(&changed.join("\n"), 1).is_empty());
        }
    }
    assert!(caught >= stores, "{caught} of {stores} stores without their bound were caught");
}

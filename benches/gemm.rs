//! GFLOP/s of the CPU matrix products beside the gemm crate's, and decode's share of copy bandwidth.
//!
//! `cargo bench --bench gemm [-- FILTER] [--threads N]`

use half::bf16;
use safedepth::device::cpu::{Isa, View};
use std::hint::black_box;
use std::time::Instant;

fn random(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Best of several runs, seconds.
fn time(mut work: impl FnMut()) -> f64 {
    work();
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 3 || (start.elapsed().as_secs_f64() < 0.6 && runs < 200) {
        let begin = Instant::now();
        work();
        best = best.min(begin.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

#[allow(clippy::too_many_arguments)]
fn peer(m: usize, n: usize, k: usize, x: &[f32], x_t: bool, w: &[f32], w_t: bool, y: &mut [f32], threads: usize) {
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    let (x_rs, x_cs) = if x_t { (1, m as isize) } else { (k as isize, 1) };
    let (w_rs, w_cs) = if w_t { (1, k as isize) } else { (n as isize, 1) };
    // SAFETY: the slices hold the matrices of these shapes and strides.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n as isize,
            false,
            x.as_ptr(),
            x_cs,
            x_rs,
            w.as_ptr(),
            w_cs,
            w_rs,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let filter = arguments.first().cloned().unwrap_or_default();
    let isa = Isa::detect();
    println!("isa {isa}");
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| run(isa, threads, &filter));
    }
}

fn run(isa: Isa, threads: usize, filter: &str) {
    let size = 1 << 26;
    let (a, mut b) = (random(size, 1), vec![0.0_f32; size]);
    if "copy".contains(filter) {
        let seconds = time(|| {
            use rayon::prelude::*;
            b.par_chunks_mut(size / threads).zip(a.par_chunks(size / threads)).for_each(|(b, a)| b.copy_from_slice(a));
            black_box(&b);
        });
        let read = time(|| {
            use rayon::prelude::*;
            let sum: f32 = a
                .par_chunks(size / threads)
                .map(|a| {
                    a.chunks_exact(64).fold([0.0_f32; 64], |mut s, c| {
                        for i in 0..64 {
                            s[i] += c[i];
                        }
                        s
                    })[0]
                })
                .sum();
            black_box(sum);
        });
        println!(
            "threads {threads}: copy {:.1} GB/s (read + write), read {:.1} GB/s",
            size as f64 * 8.0 / seconds / 1e9,
            size as f64 * 4.0 / read / 1e9
        );
    }
    let shapes = [(576, 576), (1536, 576), (576, 1536), (49152, 576), (4096, 4096)];
    for m in [512, 128, 16, 4, 1] {
        for (n, k) in shapes {
            let name = format!("nt m{m} n{n} k{k}");
            if !name.contains(filter) {
                continue;
            }
            let x = &a[..m * k];
            let w = &a[1024..1024 + n * k];
            let y = &mut b[..m * n];
            let half: Vec<bf16> = w.iter().map(|&v| bf16::from_f32(v)).collect();
            let flops = 2.0 * (m * n * k) as f64;
            let ours = time(|| gemm_nt(isa, m, n, k, x, View::F32(w), y));
            let ours16 = time(|| gemm_nt(isa, m, n, k, x, View::BF16(&half), y));
            let peer = time(|| peer(m, n, k, x, false, w, true, y, threads));
            println!(
                "threads {threads} {name:24} f32 {:7.1} bf16 {:7.1} gemm crate {:7.1} GFLOP/s  ratio {:.2} {:.2}   w bandwidth {:.1} {:.1} GB/s",
                flops / ours / 1e9,
                flops / ours16 / 1e9,
                flops / peer / 1e9,
                peer / ours,
                peer / ours16,
                (n * k * 4) as f64 / ours / 1e9,
                (n * k * 2) as f64 / ours16 / 1e9,
            );
        }
    }
}

fn gemm_nt(isa: Isa, m: usize, n: usize, k: usize, x: &[f32], w: View<'_>, y: &mut [f32]) {
    safedepth::device::cpu::gemm::gemm_nt(isa, m, n, k, x, k, w, k, y, n, false);
    black_box(y);
}

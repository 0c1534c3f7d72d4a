//! GFLOP/s of the CPU matrix products beside the gemm crate's, and decode's share of copy bandwidth.
//!
//! `cargo bench --bench gemm [-- FILTER] [--threads N]`

use gemm_common::Parallelism;
use half::bf16;
use safedepth::device::cpu::{Isa, View, gemm};
use std::hint::black_box;

fn random(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Best of several runs, seconds: of this thread's processor time where one thread works (other processes do not
/// disturb it), else of the clock.
fn time(threads: usize, mut work: impl FnMut()) -> f64 {
    let now = || {
        let clock = if threads == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place for the answer.
        unsafe { libc::clock_gettime(clock, &raw mut time) };
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    };
    work();
    let start = now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 3 || (now() - start < 0.4 && runs < 200) {
        let begin = now();
        work();
        best = best.min(now() - begin);
        runs += 1;
    }
    best
}

#[allow(clippy::too_many_arguments)]
fn peer(m: usize, n: usize, k: usize, x: &[f32], x_t: bool, w: &[f32], w_t: bool, y: &mut [f32], threads: usize) {
    let parallelism = if threads == 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
    let (x_rs, x_cs) = if x_t { (1, m as isize) } else { (k as isize, 1) };
    let (w_rs, w_cs) = if w_t { (1, k as isize) } else { (n as isize, 1) };
    // SAFETY: the slices hold the matrices of these shapes and strides.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
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
        let seconds = time(threads, || {
            use rayon::prelude::*;
            b.par_chunks_mut(size / threads).zip(a.par_chunks(size / threads)).for_each(|(b, a)| b.copy_from_slice(a));
            black_box(&b);
        });
        let read = time(threads, || {
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
    // Shapes of linear layers: [out, in].
    let shapes = [(576, 576), (1536, 576), (576, 1536), (49152, 576), (4096, 4096)];
    for (m, (n, k)) in [512, 128, 16, 4, 1].into_iter().flat_map(|m| shapes.map(|shape| (m, shape))) {
        compare(isa, threads, filter, Product::Nt, m, n, k, &a, &mut b);
    }
    for (m, (n, k)) in [512, 128].into_iter().flat_map(|m| shapes.map(|shape| (m, shape))) {
        compare(isa, threads, filter, Product::Nn, m, k, n, &a, &mut b);
        compare(isa, threads, filter, Product::Tn, n, k, m, &a, &mut b);
    }
    // Attention's tiles: 64 queries, 64 keys, one head.
    for product in [Product::Nt, Product::Nn, Product::Tn] {
        for d in [64, 128] {
            let (n, k) = if product == Product::Nt { (64, d) } else { (d, 64) };
            compare(isa, threads, filter, product, 64, n, k, &a, &mut b);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Product {
    Nt,
    Nn,
    Tn,
}

#[allow(clippy::too_many_arguments)]
fn compare(
    isa: Isa,
    threads: usize,
    filter: &str,
    product: Product,
    m: usize,
    n: usize,
    k: usize,
    data: &[f32],
    output: &mut [f32],
) {
    let name = format!("{product:?} m{m} n{n} k{k} ").to_lowercase();
    if !name.contains(filter) {
        return;
    }
    let left = &data[..m * k];
    let right = &data[1024..1024 + n * k];
    let output = &mut output[..m * n];
    let half: Vec<bf16> = right.iter().map(|&v| bf16::from_f32(v)).collect();
    let mut run = |right: View<'_>| {
        match product {
            Product::Nt => gemm::gemm_nt(isa, m, n, k, left, k, right, k, output, n, false),
            Product::Nn => gemm::gemm_nn(isa, m, n, k, left, k, right, n, output, n, false),
            Product::Tn => gemm::gemm_tn(isa, m, n, k, left, m, right.f32(), n, output, n, false),
        }
        black_box(&output);
    };
    let ours = time(threads, || run(View::F32(right)));
    let ours_half = if product == Product::Tn { f64::NAN } else { time(threads, || run(View::BF16(&half))) };
    let (left_t, right_t) = (product == Product::Tn, product == Product::Nt);
    let peer = time(threads, || peer(m, n, k, left, left_t, right, right_t, output, threads));
    let gflops = |seconds: f64| 2.0 * (m * n * k) as f64 / seconds / 1e9;
    let gbytes = |size: usize, seconds: f64| (n * k * size) as f64 / seconds / 1e9;
    println!(
        "{threads} threads  {name:22} GFLOP/s: f32 {:6.1}  bf16 {:6.1}  gemm crate {:6.1}  ratio {:.2} {:.2}   GB/s of weights: {:.1} {:.1}",
        gflops(ours),
        gflops(ours_half),
        gflops(peer),
        peer / ours,
        peer / ours_half,
        gbytes(4, ours),
        gbytes(2, ours_half),
    );
}

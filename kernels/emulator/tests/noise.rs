//! Noise on whole kernels: the last bits move where tensor cores and approximate functions work, and nowhere else.

mod common;

use common::{Arg, Bench, Random, relative_error, to_bf16};

fn gemm(noise: Option<u64>) -> Vec<f32> {
    let (mut bench, mut random) = (Bench::new("gemm", 0), Random(7));
    bench.device.settings.noise = noise;
    let (m, n, k) = (64, 64, 160);
    let [a, b] = [m, n].map(|rows| to_bf16(&random.normals(rows * k)));
    let (pa, pb, c) = (bench.halves(&a), bench.halves(&b), bench.empty(4 * m * n));
    let sizes = [m, n, k].map(|size| Arg::Int(size as i32));
    let arguments: Vec<Arg> = sizes.into_iter().chain([pa, pb, c].map(Arg::Pointer)).collect();
    bench.clean("gemm_bf16", [1, 1, 1], 128, 0, &arguments);
    bench.read_floats(c, m * n)
}

#[test]
fn sums_of_tensor_cores_move_in_their_last_bits() {
    let quiet = gemm(None);
    let exact: Vec<f64> = quiet.iter().copied().map(f64::from).collect();
    let mut answers = vec![quiet.clone()];
    for seed in 1..8 {
        let noisy = gemm(Some(seed));
        let error = relative_error(noisy.iter().copied().map(f64::from), &exact);
        assert!(error > 0.0 && error < 5e-6, "noise {seed} moves the product by {error}");
        assert_eq!(noisy, gemm(Some(seed)), "the same seed, the same answer");
        answers.push(noisy);
    }
    answers.dedup();
    assert!(answers.len() > 3, "{} different answers of 8 runs", answers.len());
}

#[test]
fn kernels_without_approximations_do_not_move() {
    let run = |noise| {
        let (mut bench, mut random) = (Bench::new("saxpy", 0), Random(3));
        bench.device.settings.noise = noise;
        let (x, y) = (random.normals(256), random.normals(256));
        let (px, py) = (bench.floats(&x), bench.floats(&y));
        bench.clean("saxpy", [2, 1, 1], 128, 0, &[Arg::Int(256), Arg::Float(2.5), Arg::Pointer(px), Arg::Pointer(py)]);
        bench.read_words(py, 256)
    };
    assert_eq!(run(None), run(Some(1)));
}

//! Correct kernels agree with f64 and report nothing, over many seeds and shapes.

mod common;

use common::{Arg, Bench, Random, from_bf16, relative_error, to_bf16};

#[test]
fn saxpy_of_any_length() {
    for n in [1, 31, 32, 33, 255, 256, 1000] {
        let (mut bench, mut random) = (Bench::new("saxpy", n as u64), Random(n as u64));
        let (x, y) = (random.normals(n), random.normals(n));
        let (px, py) = (bench.floats(&x), bench.floats(&y));
        let arguments = [Arg::Int(n as i32), Arg::Float(2.5), Arg::Pointer(px), Arg::Pointer(py)];
        bench.clean("saxpy", [(n as u32).div_ceil(128), 1, 1], 128, 0, &arguments);
        let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 2.5f32.mul_add(*x, *y)).collect();
        assert_eq!(bench.read_floats(py, n), expected);
    }
}

#[test]
fn sums_by_shuffles_atomics_and_the_last_block() {
    for seed in 0..12 {
        let (mut bench, mut random) = (Bench::new("reduce", seed), Random(seed));
        let n = 1 + random.below(5000) as usize;
        let x = random.normals(n);
        let total: f64 = x.iter().map(|&x| f64::from(x)).sum();
        let (px, out, ticket) = (bench.floats(&x), bench.floats(&[0.0]), bench.words(&[0]));
        let (blocks, threads) = (1 + random.below(9) as u32, 32 << random.below(4));
        bench.clean(
            "sum_atomic",
            [blocks, 1, 1],
            threads,
            0,
            &[Arg::Int(n as i32), Arg::Pointer(px), Arg::Pointer(out)],
        );
        assert!((f64::from(bench.read_floats(out, 1)[0]) - total).abs() < 1e-3);
        let partial = bench.empty(4 * blocks as usize);
        let last = bench.empty(4);
        let arguments =
            [Arg::Int(n as i32), Arg::Pointer(px), Arg::Pointer(partial), Arg::Pointer(ticket), Arg::Pointer(last)];
        bench.clean("sum_last_block", [blocks, 1, 1], threads, 0, &arguments);
        assert!((f64::from(bench.read_floats(last, 1)[0]) - total).abs() < 1e-3);
    }
}

#[test]
fn softmax_votes_and_redux() {
    for seed in 0..8 {
        let (mut bench, mut random) = (Bench::new("reduce", seed), Random(seed));
        let (rows, columns) = (1 + random.below(9) as usize, 1 + random.below(200) as usize);
        let x: Vec<f32> = random.normals(rows * columns).iter().map(|x| 10.0 * x).collect();
        let px = bench.floats(&x);
        let (y, count, largest) = (bench.empty(4 * x.len()), bench.empty(4 * rows), bench.empty(4 * rows));
        let arguments = [
            Arg::Int(rows as i32),
            Arg::Int(columns as i32),
            Arg::Pointer(px),
            Arg::Pointer(y),
            Arg::Float(3.0),
            Arg::Pointer(count),
            Arg::Pointer(largest),
        ];
        bench.clean("softmax_rows", [(rows as u32).div_ceil(4), 1, 1], 128, 0, &arguments);
        let mut expected = Vec::new();
        for (row, values) in x.chunks(columns).enumerate() {
            let peak = values.iter().copied().fold(f32::MIN, f32::max);
            let total: f64 = values.iter().map(|x| f64::from(x - peak).exp()).sum();
            expected.extend(values.iter().map(|x| f64::from(x - peak).exp() / total));
            let hits: Vec<usize> = (0..columns).filter(|&c| values[c] > 3.0).collect();
            assert_eq!(bench.read_words(count, rows)[row] as usize, hits.len());
            assert_eq!(bench.read_words(largest, rows)[row] as usize, hits.last().copied().unwrap_or(0));
        }
        assert!(relative_error(bench.read_floats(y, x.len()).into_iter().map(f64::from), &expected) < 1e-5);
    }
}

#[test]
fn gemm_of_odd_shapes() {
    for seed in 0..16 {
        let (mut bench, mut random) = (Bench::new("gemm", seed), Random(seed));
        // The bounds must hold whatever tensor cores do with the last bits.
        bench.device.settings.noise = (seed > 8).then_some(seed);
        let (m, n, k) =
            (1 + random.below(150) as usize, 1 + random.below(150) as usize, 8 * (1 + random.below(20) as usize));
        let (a, b) = (to_bf16(&random.normals(m * k)), to_bf16(&random.normals(n * k)));
        let (pa, pb) = (bench.halves(&a), bench.halves(&b));
        let c = bench.empty(4 * m * n);
        let arguments = [
            Arg::Int(m as i32),
            Arg::Int(n as i32),
            Arg::Int(k as i32),
            Arg::Pointer(pa),
            Arg::Pointer(pb),
            Arg::Pointer(c),
        ];
        bench.clean("gemm_bf16", [(n as u32).div_ceil(64), (m as u32).div_ceil(64), 1], 128, 0, &arguments);
        let (a, b) = (from_bf16(&a), from_bf16(&b));
        let dot = |i: usize, j: usize| (0..k).map(|d| a[i * k + d] * b[j * k + d]).sum::<f64>();
        let expected: Vec<f64> = (0..m * n).map(|at| dot(at / n, at % n)).collect();
        let error = relative_error(bench.read_floats(c, m * n).into_iter().map(f64::from), &expected);
        assert!(error < 1e-5, "{m} x {n} x {k}: {error}");
    }
}

#[test]
fn causal_attention_of_odd_lengths() {
    for seed in 0..16 {
        let (mut bench, mut random) = (Bench::new("flash", seed), Random(seed));
        bench.device.settings.noise = (seed > 8).then_some(seed);
        let depth = if seed % 2 == 0 { 64 } else { 128 };
        let (heads, length) = (1 + random.below(3) as usize, 1 + random.below(200) as usize);
        let scale = 1.0 / (depth as f32).sqrt();
        let [q, k, v] = [4.0, 1.0, 1.0].map(|size| {
            let values: Vec<f32> = random.normals(heads * length * depth).iter().map(|x| size * x).collect();
            to_bf16(&values)
        });
        let [pq, pk, pv] = [&q, &k, &v].map(|x| bench.halves(x));
        let (o, log_sum) = (bench.empty(2 * q.len()), bench.empty(4 * heads * length));
        let arguments = [
            Arg::Int(length as i32),
            Arg::Float(scale),
            Arg::Pointer(pq),
            Arg::Pointer(pk),
            Arg::Pointer(pv),
            Arg::Pointer(o),
            Arg::Pointer(log_sum),
        ];
        let shared = 5 * 64 * (depth as u32 + 8) * 2;
        let outcome = bench.clean(
            &format!("flash_{depth}"),
            [(length as u32).div_ceil(64), heads as u32, 1],
            128,
            shared,
            &arguments,
        );
        assert_eq!(outcome.counts.bank_conflicts(), 0, "rows are padded against them");
        let (q, k, v) = (from_bf16(&q), from_bf16(&k), from_bf16(&v));
        let (mut out, mut sums) = (Vec::new(), Vec::new());
        for head in 0..heads {
            let row = |x: &[f64], i: usize| x[(head * length + i) * depth..][..depth].to_vec();
            for i in 0..length {
                let qi = row(&q, i);
                let scores: Vec<f64> = (0..=i)
                    .map(|j| row(&k, j).iter().zip(&qi).map(|(k, q)| k * q).sum::<f64>() * f64::from(scale))
                    .collect();
                let peak = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
                let mut sum = vec![0.0; depth];
                for (j, s) in scores.iter().enumerate() {
                    row(&v, j).iter().zip(&mut sum).for_each(|(v, sum)| *sum += (s - peak).exp() / total * v);
                }
                out.extend(sum);
                sums.push(peak + total.ln());
            }
        }
        let error = relative_error(from_bf16(&bench.read_halves(o, out.len())), &out);
        assert!(error < 1e-2, "{heads} heads of {length} x {depth}: {error}");
        let error = relative_error(bench.read_floats(log_sum, sums.len()).into_iter().map(f64::from), &sums);
        assert!(error < 1e-5, "log sums: {error}");
    }
}

#[test]
fn threads_of_a_block_exchange_through_global_memory() {
    for seed in 0..20 {
        let mut bench = Bench::new("access", seed);
        let (data, out) = (bench.words(&[0; 64]), bench.empty(256));
        bench.clean("exchange_by_barrier", [1, 1, 1], 64, 0, &[Arg::Pointer(data), Arg::Pointer(out)]);
        assert_eq!(bench.read_words(out, 64), (0..64).collect::<Vec<u32>>());
        let halves = bench.halves(&[0; 64]);
        bench.clean("exchange_of_halves", [1, 1, 1], 64, 0, &[Arg::Pointer(halves)]);
        assert_eq!(bench.read_halves(halves, 64), (1..65).collect::<Vec<u16>>());
        let (flag, out) = (bench.words(&[0]), bench.empty(128));
        let arguments = [data, flag, out].map(Arg::Pointer);
        bench.clean("exchange_by_flag", [1, 1, 1], 64, 0, &arguments);
        assert_eq!(bench.read_words(out, 32), (0..32).collect::<Vec<u32>>());
    }
}

//! RMSNorm, RoPE, GLU, embedding, rows, elementwise, linear layers and AdamW against plain f64 loops; gradients against
//! central differences of those loops.
//!
//! Bounds: a result in f32 is off by a few eps of the terms it is made of, so 1e-5 of the whole output's norm leaves
//! a factor of ten; central differences in f64 with step 1e-5 are good to 1e-6.

use super::device::pool;
use super::measure::{Sum, bits, relative_error};
use super::values::{Random, widen};
use super::{Law, TestDevice, Trial};
use crate::device::{DType, Tensor};
use crate::ops::adamw::AdamWStep;
use crate::ops::attention::{AttentionParams, PAGE, Paged};
use crate::ops::glu::Activation;
use proptest::prelude::*;

pub fn laws<D: TestDevice>() -> Vec<Law<D>> {
    law_table!("small": rms_norm, add_rms_norm, rope, rope_to_cache, glu, embedding_and_rows, linear_layers, adamw, elementwise, thread_counts)
}

const BOUND: f64 = 1e-5;
const DIFFERENCE_BOUND: f64 = 1e-5;

fn tensor<D: TestDevice>(device: &D, rows: usize, cols: usize, values: &[f32]) -> Tensor<D> {
    Tensor::from_slice(device, DType::F32, rows, cols, values).unwrap()
}

#[track_caller]
fn close<D: TestDevice>(device: &D, got: &Tensor<D>, want: &[f64], what: &str) {
    let error = relative_error(&got.to_vec(device).unwrap(), want);
    assert!(error <= BOUND, "{} on {}: off by {error}", what, device.describe());
}

/// [`close`], element by element, for sums.
#[track_caller]
fn close_sums<D: TestDevice>(device: &D, got: &Tensor<D>, want: &[Sum], what: &str) {
    let got = got.to_vec(device).unwrap();
    assert_eq!(got.len(), want.len());
    for (&got, &Sum { value, absolute }) in got.iter().zip(want) {
        let error = (f64::from(got) - value).abs();
        assert!(error <= BOUND * absolute, "{what} on {}: {got} for {value}, terms {absolute}", device.describe());
    }
}

/// The gradient of `sum_i w_i f(x)_i` by central differences.
fn differences(x: &[f64], w: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let step = 1e-5;
    let value = |x: &[f64]| -> f64 { f(x).iter().zip(w).map(|(y, w)| y * w).sum() };
    (0..x.len())
        .map(|i| {
            let mut moved = x.to_vec();
            moved[i] = x[i] + step;
            let up = value(&moved);
            moved[i] = x[i] - step;
            (up - value(&moved)) / (2.0 * step)
        })
        .collect()
}

#[track_caller]
fn close_to_differences(analytic: &[f64], numeric: &[f64], what: &str) {
    let square = |v: f64| v * v;
    let error: f64 = analytic.iter().zip(numeric).map(|(a, n)| square(a - n)).sum::<f64>().sqrt();
    let norm: f64 = numeric.iter().map(|&n| square(n)).sum::<f64>().sqrt();
    assert!(error <= DIFFERENCE_BOUND * norm.max(1e-3), "{what}: {error} of {norm}");
}

fn rms_norm_f64(x: &[f64], w: &[f64], offset: f64, eps: f64) -> Vec<f64> {
    let n = w.len();
    let group = |x: &[f64]| {
        let r = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / n as f64 + eps).sqrt();
        x.iter().zip(w).map(|(x, w)| x * r * (offset + w)).collect::<Vec<_>>()
    };
    x.chunks_exact(n).flat_map(group).collect()
}

/// dx and dweight, with the terms they are sums of.
pub(super) fn rms_norm_backward_f64(x: &[f64], w: &[f64], offset: f64, eps: f64, dy: &[f64]) -> (Vec<Sum>, Vec<Sum>) {
    let n = w.len();
    let (mut dx, mut dw) = (Vec::new(), vec![Sum::default(); n]);
    for (x, dy) in x.chunks_exact(n).zip(dy.chunks_exact(n)) {
        let r = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / n as f64 + eps).sqrt();
        let projection = Sum::of((0..n).map(|i| dy[i] * (offset + w[i]) * x[i] / n as f64));
        for i in 0..n {
            let mut slope = projection.times(-r * r * r * x[i]);
            slope.add(r * dy[i] * (offset + w[i]));
            dx.push(slope);
            dw[i].add(dy[i] * x[i] * r);
        }
    }
    (dx, dw)
}

fn rms_norm<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |(rows in 0..150_usize, groups in 1..4_usize, n in 1..200_usize, gemma: bool,
                               scale in prop::sample::select(&[1e-3, 1.0, 1e4][..]), seed: u64)| {
            let mut random = Random(seed);
            let (offset, eps, len) = (f32::from(u8::from(gemma)), 1e-5, rows * groups * n);
            let (x, w) = (random.values(len, scale), random.values(n, 1.0));
            let (dy, dw_before) = (random.values(len, 1.0), random.values(n, 1.0));
            let (tx, tw) = (tensor(device, rows, groups * n, &x), tensor(device, 1, n, &w));
            let mut y = tx.empty_like(device).unwrap();
            device.rms_norm(&tx, &tw, offset, eps, &mut y).unwrap();
            let (x, w) = (widen(&x), widen(&w));
            let (offset64, eps64) = (f64::from(offset), f64::from(eps));
            close(device, &y, &rms_norm_f64(&x, &w, offset64, eps64), "rms_norm");

            let mut dx = tx.empty_like(device).unwrap();
            let mut dw = tensor(device, 1, n, &dw_before);
            let tdy = tensor(device, rows, groups * n, &dy);
            device.rms_norm_backward(&tx, &tw, offset, eps, &tdy, &mut dx, Some(&mut dw)).unwrap();
            let (want_dx, mut want_dw) = rms_norm_backward_f64(&x, &w, offset64, eps64, &widen(&dy));
            want_dw.iter_mut().zip(&dw_before).for_each(|(g, b)| g.add(f64::from(*b)));
            close_sums(device, &dx, &want_dx, "rms_norm dx");
            close_sums(device, &dw, &want_dw, "rms_norm dweight");
        });
    }
    let mut random = Random(1);
    let (x, w, dy) = (widen(&random.values(12, 1.0)), widen(&random.values(6, 1.0)), widen(&random.values(12, 1.0)));
    let (dx, dw) = rms_norm_backward_f64(&x, &w, 1.0, 1e-2, &dy);
    let [dx, dw] = [dx, dw].map(|sums| sums.iter().map(|sum| sum.value).collect::<Vec<_>>());
    close_to_differences(&dx, &differences(&x, &dy, |x| rms_norm_f64(x, &w, 1.0, 1e-2)), "dx");
    close_to_differences(&dw, &differences(&w, &dy, |w| rms_norm_f64(&x, w, 1.0, 1e-2)), "dweight");
}

/// The addition to the residual stream and the norm behind it, in one pass; backward, the gradient of the normed rows joins
/// the stream's.
fn add_rms_norm<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |(rows in 0..150_usize, n in 1..600_usize, gemma: bool,
                               scale in prop::sample::select(&[1e-3, 1.0, 1e4][..]), seed: u64)| {
            let mut random = Random(seed);
            let (offset, eps, len) = (f32::from(u8::from(gemma)), 1e-5, rows * n);
            let [x, branch] = [(); 2].map(|()| random.values(len, scale));
            let w = random.values(n, 1.0);
            let (tx, tw, mut sum) = (tensor(device, rows, n, &x), tensor(device, 1, n, &w), tensor(device, rows, n, &branch));
            let (mut y, mut alone) = (tx.empty_like(device).unwrap(), tx.empty_like(device).unwrap());
            device.add_rms_norm(&tx, &tw, offset, eps, &mut sum, &mut y).unwrap();
            let want: Vec<f32> = x.iter().zip(&branch).map(|(x, b)| x + b).collect();
            prop_assert_eq!(bits(&sum.to_vec(device).unwrap()), bits(&want), "the stream");
            device.rms_norm(&sum, &tw, offset, eps, &mut alone).unwrap();
            prop_assert_eq!(bits(&y.to_vec(device).unwrap()), bits(&alone.to_vec(device).unwrap()), "its norm");
            let (offset64, eps64, stream, w) = (f64::from(offset), f64::from(eps), widen(&want), widen(&w));
            close(device, &y, &rms_norm_f64(&stream, &w, offset64, eps64), "add_rms_norm");

            let [dy, before] = [(); 2].map(|()| random.values(len, 1.0));
            let dw_before = random.values(n, 1.0);
            let [tdy, mut dx] = [&dy, &before].map(|values| tensor(device, rows, n, values));
            let mut dw = tensor(device, 1, n, &dw_before);
            let mut rounded = Tensor::empty(device, DType::BF16, rows, n).unwrap();
            let copy = Some(&mut rounded);
            device.add_rms_norm_backward(&sum, &tw, offset, eps, &tdy, &mut dx, copy, Some(&mut dw)).unwrap();
            let (mut want_dx, mut want_dw) = rms_norm_backward_f64(&stream, &w, offset64, eps64, &widen(&dy));
            want_dx.iter_mut().zip(&before).for_each(|(g, b)| g.add(f64::from(*b)));
            want_dw.iter_mut().zip(&dw_before).for_each(|(g, b)| g.add(f64::from(*b)));
            close_sums(device, &dx, &want_dx, "add_rms_norm dx");
            close_sums(device, &dw, &want_dw, "add_rms_norm dweight");
            let got = dx.to_vec(device).unwrap();
            let want: Vec<f32> = got.iter().map(|&d| half::bf16::from_f32(d).to_f32()).collect();
            prop_assert_eq!(bits(&rounded.to_vec(device).unwrap()), bits(&want), "rounded once");
            let mut plain = tensor(device, rows, n, &before);
            device.add_rms_norm_backward(&sum, &tw, offset, eps, &tdy, &mut plain, None, None).unwrap();
            prop_assert_eq!(bits(&plain.to_vec(device).unwrap()), bits(&got), "not rounded");
        });
    }
}

/// What [`rope`] makes of `x`, all heads of all rows.
fn rope_f64(x: &[f32], positions: &[u32], inv_freq: &[f32], heads: usize) -> Vec<f64> {
    let half = inv_freq.len();
    let mut want = Vec::new();
    for (row, x) in x.chunks_exact(heads * 2 * half).enumerate() {
        for head in x.chunks_exact(2 * half) {
            // The angle itself is an f32 product, as transformers has it.
            let angle = |i: usize| f64::from(positions[row] as f32 * inv_freq[i]);
            let pair = |i: usize| (f64::from(head[i]), f64::from(head[i + half]));
            want.extend((0..half).map(|i| pair(i).0 * angle(i).cos() - pair(i).1 * angle(i).sin()));
            want.extend((0..half).map(|i| pair(i).1 * angle(i).cos() + pair(i).0 * angle(i).sin()));
        }
    }
    want
}

/// Frequencies of heads of `2 * half` dimensions.
pub(super) fn inv_freq(half: usize) -> Vec<f32> {
    (0..half).map(|i| 10000_f32.powf(-(i as f32) / half as f32)).collect()
}

/// Heads of queries and of keys, in any ratio.
fn rope<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |(rows in 1..20_usize, heads in prop::array::uniform2(1..20_usize), half in 1..100_usize,
                                     seed: u64)| {
            let mut random = Random(seed);
            let [q, k] = heads.map(|heads| random.values(rows * heads * 2 * half, 1.0));
            let positions: Vec<u32> = (0..rows).map(|_| random.below(8192) as u32).collect();
            let inv_freq = inv_freq(half);
            let mut cos = Tensor::empty(device, DType::F32, rows, half).unwrap();
            let mut sin = cos.empty_like(device).unwrap();
            device.rope_table(&device.indices(&positions).unwrap(), &inv_freq, &mut cos, &mut sin).unwrap();
            let mut turned_q = tensor(device, rows, heads[0] * 2 * half, &q);
            let mut turned_k = tensor(device, rows, heads[1] * 2 * half, &k);
            device.rope(&mut turned_q, &mut turned_k, &cos, &sin, false).unwrap();
            close(device, &turned_q, &rope_f64(&q, &positions, &inv_freq, heads[0]), "rope of q");
            close(device, &turned_k, &rope_f64(&k, &positions, &inv_freq, heads[1]), "rope of k");
            // The inverse undoes it.
            device.rope(&mut turned_q, &mut turned_k, &cos, &sin, true).unwrap();
            close(device, &turned_q, &widen(&q), "inverse rope of q");
            close(device, &turned_k, &widen(&k), "inverse rope of k");
        });
    }
}

/// New rows of some sequences: queries and caches have the bits of a rotation and two writes, and no other slot changes.
pub(super) fn check_rope_to_cache<D: TestDevice>(
    device: &D,
    dtype: DType,
    lengths: &[(usize, usize)],
    [shared, group, half]: [usize; 3],
    seed: u64,
) -> Result<(), TestCaseError> {
    let mut random = Random(seed);
    let (heads, depth, count) = (shared * group, 2 * half, lengths.len());
    let params = AttentionParams {
        num_heads: heads,
        num_key_value_heads: shared,
        head_dim: depth,
        scale: 1.0,
        softcap: None,
        window: None,
    };
    let max_pages = lengths.iter().map(|(before, new)| (before + new).div_ceil(PAGE)).max().unwrap_or(0).max(1);
    // Every sequence has pages of its own, in any order, and one page is nobody's.
    let mut pages: Vec<u32> = (0..(count * max_pages) as u32 + 1).collect();
    for i in (1..pages.len()).rev() {
        pages.swap(i, random.below(i + 1));
    }
    let num_pages = pages.len();
    pages.truncate(count * max_pages);
    let (mut offsets, mut positions) = (vec![0], Vec::new());
    for &(before, new) in lengths {
        positions.extend((before..before + new).map(|position| position as u32));
        offsets.push(positions.len() as u32);
    }
    let rows = positions.len();
    let list = |values: &[u32]| device.indices(values).unwrap();
    let starts: Vec<u32> = lengths.iter().map(|&(before, _)| before as u32).collect();
    let batch = Paged { offsets: list(&offsets), starts: list(&starts), pages: list(&pages), max_pages, count };
    let angles = || Tensor::empty(device, DType::F32, rows, half).unwrap();
    let (mut cos, mut sin) = (angles(), angles());
    device.rope_table(&list(&positions), &inv_freq(half), &mut cos, &mut sin).unwrap();

    let mut twice = |rows: usize, cols: usize| {
        let values = random.values(rows * cols, 1.0);
        [(); 2].map(|()| Tensor::from_slice(device, dtype, rows, cols, &values).unwrap())
    };
    let [[mut q, mut want_q], [mut k, mut rotated_k]] = [heads, shared].map(|heads| twice(rows, heads * depth));
    let [v, _] = twice(rows, shared * depth);
    let [[mut keys, mut want_keys], [mut values, mut want_values]] =
        [(); 2].map(|()| twice(num_pages, shared * PAGE * depth));
    device.rope_to_cache(&params, &batch, &mut q, &mut k, &v, &cos, &sin, &mut keys, &mut values).unwrap();
    device.rope(&mut want_q, &mut rotated_k, &cos, &sin, false).unwrap();
    device.cache_write(&params, &batch, &rotated_k, &mut want_keys).unwrap();
    device.cache_write(&params, &batch, &v, &mut want_values).unwrap();
    for (got, want, what) in [(q, want_q, "q"), (keys, want_keys, "keys"), (values, want_values, "values")] {
        prop_assert_eq!(bits(&got.to_vec(device).unwrap()), bits(&want.to_vec(device).unwrap()), "{}", what);
    }
    Ok(())
}

/// Positions before the new rows, and new rows, of some sequences.
pub(super) fn sequences() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0..40_usize, 0..20_usize), 1..5)
}

fn rope_to_cache<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        proptest!(trial.config(32), |(lengths in sequences(), shape in [1..4_usize, 1..4, 1..100], seed: u64)| {
            check_rope_to_cache(device, DType::F32, &lengths, shape, seed)?;
        });
    }
}

pub(super) fn activation_f64(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

/// The activation's derivative, by a central difference.
pub(super) fn slope_f64(activation: Activation, x: f64) -> f64 {
    let h = 1e-4;
    (activation_f64(activation, x + h) - activation_f64(activation, x - h)) / (2.0 * h)
}

fn glu<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |(rows in 0..30_usize, cols in 1..300_usize, gelu: bool,
                               scale in prop::sample::select(&[0.1, 1.0, 30.0][..]), seed: u64)| {
            let activation = if gelu { Activation::GeluTanh } else { Activation::Silu };
            let mut random = Random(seed);
            let len = rows * cols;
            let (gate, up) = (random.values(len, scale), random.values(len, 1.0));
            let dy = random.values(len, 1.0);
            let [tgate, tup, tdy] = [&gate, &up, &dy].map(|values| tensor(device, rows, cols, values));
            let mut y = tgate.empty_like(device).unwrap();
            device.glu(activation, &tgate, &tup, &mut y).unwrap();
            let [gate, up, dy] = [&gate, &up, &dy].map(|values| widen(values));
            let value: Vec<f64> = gate.iter().map(|&x| activation_f64(activation, x)).collect();
            let want: Vec<f64> = value.iter().zip(&up).map(|(v, u)| v * u).collect();
            close(device, &y, &want, "glu");
            let (mut dgate, mut dup) = (tgate.empty_like(device).unwrap(), tup.empty_like(device).unwrap());
            device.glu_backward(activation, &tgate, &tup, &tdy, &mut dgate, &mut dup).unwrap();
            let want: Vec<f64> = value.iter().zip(&dy).map(|(v, d)| v * d).collect();
            close(device, &dup, &want, "glu dup");
            // The slope is a sum that passes through 0.
            let want: Vec<_> = gate
                .iter()
                .zip(&up)
                .zip(&dy)
                .map(|((&x, u), d)| Sum { value: d * u * slope_f64(activation, x), absolute: (d * u).abs() })
                .collect();
            close_sums(device, &dgate, &want, "glu dgate");
        });
    }
}

fn embedding_and_rows<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |(vocab in 1..50_usize, cols in 1..150_usize, tokens in 0..80_usize, half: bool,
                               scale in prop::sample::select(&[1.0_f32, 5.5][..]), seed: u64)| {
            let mut random = Random(seed);
            let dtype = if half { DType::BF16 } else { DType::F32 };
            let table = Tensor::from_slice(device, dtype, vocab, cols, &random.values(vocab * cols, 1.0)).unwrap();
            let stored = table.to_vec(device).unwrap();
            let ids: Vec<u32> = (0..tokens).map(|_| random.below(vocab) as u32).collect();
            let indices = device.indices(&ids).unwrap();
            let mut y = Tensor::empty(device, DType::F32, tokens, cols).unwrap();
            device.embedding(&indices, &table, scale, &mut y).unwrap();
            let row = |id: u32| &stored[id as usize * cols..(id as usize + 1) * cols];
            let want: Vec<f32> = ids.iter().flat_map(|&id| row(id).iter().map(|v| v * scale)).collect();
            prop_assert_eq!(bits(&y.to_vec(device).unwrap()), bits(&want));

            let dy = random.values(tokens * cols, 1.0);
            let before = random.values(vocab * cols, 1.0);
            let mut dtable = tensor(device, vocab, cols, &before);
            device.embedding_backward(&indices, &tensor(device, tokens, cols, &dy), scale, &mut dtable).unwrap();
            let mut want: Vec<_> = before.iter().map(|&b| Sum::of([f64::from(b)])).collect();
            for (t, &id) in ids.iter().enumerate() {
                for c in 0..cols {
                    want[id as usize * cols + c].add(f64::from(scale) * f64::from(dy[t * cols + c]));
                }
            }
            close_sums(device, &dtable, &want, "embedding dtable");

            // Distinct rows, in any order.
            let mut rows: Vec<u32> = (0..vocab as u32).collect();
            for i in (1..vocab).rev() {
                rows.swap(i, random.below(i + 1));
            }
            rows.truncate(vocab.div_ceil(2));
            let x = tensor(device, vocab, cols, &before);
            let indices = device.indices(&rows).unwrap();
            let mut picked = Tensor::empty(device, DType::F32, rows.len(), cols).unwrap();
            device.gather_rows(&x, &indices, &mut picked).unwrap();
            let want: Vec<f32> =
                rows.iter().flat_map(|&r| before[r as usize * cols..(r as usize + 1) * cols].to_vec()).collect();
            prop_assert_eq!(bits(&picked.to_vec(device).unwrap()), bits(&want));
            let mut scattered = x.empty_like(device).unwrap();
            device.scatter_rows(&picked, &indices, &mut scattered).unwrap();
            let want: Vec<f32> = (0..vocab * cols)
                .map(|i| if rows.contains(&((i / cols) as u32)) { before[i] } else { 0.0 })
                .collect();
            prop_assert_eq!(bits(&scattered.to_vec(device).unwrap()), bits(&want));
        });
    }
}

fn linear_layers<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |(t in 1..40_usize, n in 1..60_usize, k in 1..70_usize, bias: bool, accumulate: bool,
                               seed: u64)| {
            let mut random = Random(seed);
            let (x, w) = (random.values(t * k, 1.0), random.values(n * k, 1.0));
            let (b, dy) = (random.values(n, 1.0), random.values(t * n, 1.0));
            let (dx_before, dw_before) = (random.values(t * k, 1.0), random.values(n * k, 1.0));
            let (tx, tw) = (tensor(device, t, k, &x), tensor(device, n, k, &w));
            let (tb, tdy) = (tensor(device, 1, n, &b), tensor(device, t, n, &dy));
            let mut y = Tensor::empty(device, DType::F32, t, n).unwrap();
            device.linear(&tx, &tw, bias.then_some(&tb), &mut y).unwrap();
            let (mut dx, mut dw) = (tensor(device, t, k, &dx_before), tensor(device, n, k, &dw_before));
            let mut db = Tensor::zeros(device, DType::F32, 1, n).unwrap();
            let [x, w, b, dy] = [&x, &w, &b, &dy].map(|values| widen(values));
            let [dx_before, dw_before] = [&dx_before, &dw_before].map(|values| widen(values));
            let at = |cols: usize| (0..).map(move |i| (i / cols, i % cols));
            let want: Vec<_> = at(n)
                .take(t * n)
                .map(|(i, j)| Sum::of((0..k).map(|p| x[i * k + p] * w[j * k + p]).chain(bias.then_some(b[j]))))
                .collect();
            close_sums(device, &y, &want, "linear");

            device.linear_backward_input(&tdy, &tw, &mut dx, accumulate).unwrap();
            let want: Vec<_> = at(k)
                .take(t * k)
                .map(|(i, p)| {
                    let before = accumulate.then_some(dx_before[i * k + p]);
                    Sum::of((0..n).map(|j| dy[i * n + j] * w[j * k + p]).chain(before))
                })
                .collect();
            close_sums(device, &dx, &want, "linear dx");

            let mut overwritten = [[n, k], [1, n]].map(|[r, c]| tensor(device, r, c, &vec![f32::NAN; r * c]));
            let [dw_only, db_only] = &mut overwritten;
            device.linear_backward_weight(&tdy, &tx, dw_only, Some(db_only), false).unwrap();
            let want: Vec<_> =
                at(k).take(n * k).map(|(j, p)| Sum::of((0..t).map(|i| dy[i * n + j] * x[i * k + p]))).collect();
            close_sums(device, dw_only, &want, "linear dw, overwritten");
            let want: Vec<_> = (0..n).map(|j| Sum::of((0..t).map(|i| dy[i * n + j]))).collect();
            close_sums(device, db_only, &want, "linear dbias, overwritten");
            device.linear_backward_weight(&tdy, &tx, &mut dw, Some(&mut db), true).unwrap();
            let want: Vec<_> = at(k)
                .take(n * k)
                .map(|(j, p)| Sum::of((0..t).map(|i| dy[i * n + j] * x[i * k + p]).chain([dw_before[j * k + p]])))
                .collect();
            close_sums(device, &dw, &want, "linear dw");
            let want: Vec<_> = (0..n).map(|j| Sum::of((0..t).map(|i| dy[i * n + j]))).collect();
            close_sums(device, &db, &want, "linear dbias");
        });
    }
}

fn adamw<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |(len in 1..50_000_usize, step in 1..2000_u32, decay in prop::sample::select(&[0.0_f32, 0.1][..]),
                               grad_scale in 0.1_f32..1.0, seed: u64)| {
            let mut random = Random(seed);
            let (grad, param) = (random.values(len, 1.0), random.values(len, 1.0));
            let m = random.values(len, 0.1);
            let v: Vec<f32> = random.values(len, 0.1).iter().map(|v| v * v).collect();
            let hyper = AdamWStep { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: decay, step, grad_scale, stream: 1 };
            let tgrad = tensor(device, 1, len, &grad);
            let [mut tparam, mut tm, mut tv] = [&param, &m, &v].map(|values| tensor(device, 1, len, values));
            device.adamw(&hyper, &tgrad, &mut tparam, &mut tm, &mut tv).unwrap();
            let (lr, b1, b2) = (f64::from(hyper.lr), f64::from(hyper.beta1), f64::from(hyper.beta2));
            let (c1, c2) = (1.0 - b1.powi(step as i32), 1.0 - b2.powi(step as i32));
            let (mut want_p, mut want_m, mut want_v) = (Vec::new(), Vec::new(), Vec::new());
            for i in 0..len {
                let g = f64::from(grad_scale) * f64::from(grad[i]);
                want_m.push(Sum::of([b1 * f64::from(m[i]), (1.0 - b1) * g]));
                want_v.push(b2 * f64::from(v[i]) + (1.0 - b2) * g * g);
                let decayed = f64::from(param[i]) * (1.0 - lr * f64::from(decay));
                want_p.push(decayed - lr * (want_m[i].value / c1) / ((want_v[i] / c2).sqrt() + f64::from(hyper.eps)));
            }
            close_sums(device, &tm, &want_m, "adamw m");
            close(device, &tv, &want_v, "adamw v");
            close(device, &tparam, &want_p, "adamw param");
            let sum = device.sum_squares(&tgrad).unwrap();
            let want: f64 = grad.iter().map(|&g| f64::from(g).powi(2)).sum();
            prop_assert!((sum - want).abs() <= 1e-12 * want, "sum of squares {} {}", sum, want);
        });
    }
}

fn elementwise<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        proptest!(trial.config(32), |(len in 0..40_000_usize, seed: u64)| {
            let mut random = Random(seed);
            let (x, y) = (random.values(len, 10.0), random.values(len, 10.0));
            let mut sum = tensor(device, 1, len, &y);
            device.add(&tensor(device, 1, len, &x), &mut sum).unwrap();
            let want: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
            prop_assert_eq!(bits(&sum.to_vec(device).unwrap()), bits(&want));
            let mut scaled = tensor(device, 1, len, &y);
            device.scale(0.3, &mut scaled).unwrap();
            let want: Vec<f32> = y.iter().map(|y| y * 0.3).collect();
            prop_assert_eq!(bits(&scaled.to_vec(device).unwrap()), bits(&want));
            let mut capped = tensor(device, 1, len, &y);
            device.softcap(7.0, &mut capped).unwrap();
            let want: Vec<f64> = y.iter().map(|&y| 7.0 * (f64::from(y) / 7.0).tanh()).collect();
            close(device, &capped, &want, "softcap");
        });
    }
}

/// What is summed over rows has the same bits at any thread count.
fn thread_counts<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        let mut random = Random(3);
        let (rows, cols) = (333, 96);
        let x = tensor(device, rows, cols, &random.values(rows * cols, 1.0));
        let dy = tensor(device, rows, cols, &random.values(rows * cols, 1.0));
        let w = tensor(device, 1, cols, &random.values(cols, 1.0));
        let ids: Vec<u32> = (0..rows).map(|_| random.below(7) as u32).collect();
        let run = || {
            let indices = device.indices(&ids).unwrap();
            let mut dx = x.empty_like(device).unwrap();
            let mut dw = Tensor::zeros(device, DType::F32, 1, cols).unwrap();
            device.rms_norm_backward(&x, &w, 0.0, 1e-5, &dy, &mut dx, Some(&mut dw)).unwrap();
            let mut dtable = Tensor::zeros(device, DType::F32, 7, cols).unwrap();
            device.embedding_backward(&indices, &dy, 1.0, &mut dtable).unwrap();
            let (mut weight, mut bias) = (
                Tensor::zeros(device, DType::F32, cols, cols).unwrap(),
                Tensor::zeros(device, DType::F32, 1, cols).unwrap(),
            );
            device.linear_backward_weight(&dy, &x, &mut weight, Some(&mut bias), true).unwrap();
            let tensors = [&dw, &dtable, &weight, &bias];
            let all: Vec<u32> = tensors.iter().flat_map(|t| bits(&t.to_vec(device).unwrap())).collect();
            (all, device.sum_squares(&x).unwrap().to_bits())
        };
        let one = pool(1).install(run);
        assert!(pool(2).install(run) == one && pool(3).install(run) == one, "{}", device.describe());
    }
}

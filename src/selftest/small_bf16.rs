//! RMSNorm, RoPE, GLU and linear layers with activations in bf16, which the CPU does not have, against f64 loops.
//!
//! Bounds: every kernel computes in f32, so a result is off by [`F32_BOUND`] of the terms it is made of; one that is kept in
//! bf16 is then rounded once, by at most half a unit in the last of its 8 bits.

use super::measure::{Sum, bits};
use super::small::{activation_f64, check_rope_to_cache, inv_freq, rms_norm_backward_f64, sequences, slope_f64};
use super::values::{Random, widen};
use super::{Law, Trial};
use crate::device::{Backend, Cuda, DType, Tensor};
use crate::ops::glu::{Activation, Glu};
use crate::ops::linear::Linear;
use crate::ops::rmsnorm::RmsNorm;
use crate::ops::rope::Rope;
use half::bf16;
use proptest::prelude::*;

pub fn laws() -> Vec<Law<Cuda>> {
    law_table!("small_bf16": rms_norm, add_rms_norm, rms_norm_backward, rope, rope_to_cache, glu, linear, linear_backward)
}

/// As in the laws of f32.
const F32_BOUND: f64 = 1e-5;
/// Half a unit in the last place, relatively, and a trace for values next to a power of two.
const BF16_ROUNDING: f64 = 1.001 / 256.0;

/// Normal values that bf16 holds.
fn values(random: &mut Random, len: usize, scale: f64) -> Vec<f32> {
    random.values(len, scale).into_iter().map(|v| bf16::from_f32(v).to_f32()).collect()
}

fn tensor(device: &Cuda, dtype: DType, rows: usize, cols: usize, values: &[f32]) -> Tensor<Cuda> {
    Tensor::from_slice(device, dtype, rows, cols, values).unwrap()
}

/// An output; what is not written shows as NaN.
fn garbage(device: &Cuda, dtype: DType, rows: usize, cols: usize) -> Tensor<Cuda> {
    tensor(device, dtype, rows, cols, &vec![f32::NAN; rows * cols])
}

fn close(device: &Cuda, got: &Tensor<Cuda>, want: &[Sum], what: &str) -> Result<(), TestCaseError> {
    let rounding = if got.dtype() == DType::BF16 { BF16_ROUNDING } else { 0.0 };
    let got = got.to_vec(device).unwrap();
    prop_assert_eq!(got.len(), want.len());
    for (i, (&got, &Sum { value, absolute })) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - value).abs();
        let bound = F32_BOUND * absolute + rounding * value.abs();
        prop_assert!(error <= bound, "{} [{}]: {} for {}, terms {}", what, i, got, value, absolute);
    }
    Ok(())
}

/// f32 or bf16.
fn activations() -> impl Strategy<Value = DType> {
    prop::sample::select(&[DType::F32, DType::BF16][..])
}

/// Rows, groups a row, elements a group, Gemma's offset, and the scale of x.
fn groups() -> impl Strategy<Value = (usize, usize, usize, f32, f64)> {
    let offset = prop::sample::select(&[0.0_f32, 1.0][..]);
    let scale = prop::sample::select(&[1e-3, 1.0, 1e4][..]);
    (0..150_usize, 1..4_usize, 1..200_usize, offset, scale)
}

/// From the f32 residual stream to bf16, and from bf16 to bf16 (the norms of q and k).
fn rms_norm(trial: &Trial<Cuda>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |((rows, groups, n, offset, scale) in groups(), from in activations(), seed: u64)| {
            let mut random = Random(seed);
            let (x, w) = (values(&mut random, rows * groups * n, scale), random.values(n, 1.0));
            let mut y = garbage(device, DType::BF16, rows, groups * n);
            let (tx, tw) = (tensor(device, from, rows, groups * n, &x), tensor(device, DType::F32, 1, n, &w));
            device.rms_norm(&tx, &tw, offset, 1e-5, &mut y).unwrap();
            let mut want = Vec::new();
            for x in widen(&x).chunks_exact(n) {
                let r = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / n as f64 + f64::from(1e-5_f32)).sqrt();
                want.extend(x.iter().zip(&w).map(|(x, &w)| {
                    Sum::of([x * r * f64::from(offset), x * r * f64::from(w)])
                }));
            }
            close(device, &y, &want, "y")?;
        });
    }
}

/// From the f32 stream to bf16 rows: the stream has the bits of an addition, the rows those of a norm of it.
fn add_rms_norm(trial: &Trial<Cuda>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |((rows, groups, n, offset, scale) in groups(), seed: u64)| {
            let mut random = Random(seed);
            let n = groups * n;
            let [x, branch] = [(); 2].map(|()| random.values(rows * n, scale));
            let [tx, mut sum] = [&x, &branch].map(|values| tensor(device, DType::F32, rows, n, values));
            let tw = tensor(device, DType::F32, 1, n, &random.values(n, 1.0));
            let [mut y, mut alone] = [(); 2].map(|()| garbage(device, DType::BF16, rows, n));
            device.add_rms_norm(&tx, &tw, offset, 1e-5, &mut sum, &mut y).unwrap();
            let want: Vec<f32> = x.iter().zip(&branch).map(|(x, b)| x + b).collect();
            prop_assert_eq!(bits(&sum.to_vec(device).unwrap()), bits(&want), "the stream");
            device.rms_norm(&sum, &tw, offset, 1e-5, &mut alone).unwrap();
            prop_assert_eq!(bits(&y.to_vec(device).unwrap()), bits(&alone.to_vec(device).unwrap()), "its norm");
        });
    }
}

/// From bf16 to bf16 (the norms of q and k), and from the f32 stream to bf16 (Gemma 2's post-norms).
fn rms_norm_backward(trial: &Trial<Cuda>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |((rows, groups, n, offset, scale) in groups(), from in activations(), seed: u64)| {
            // The emulator remembers one reader a word: groups that share one, as only odd ones do, look like a race.
            let n = n.next_multiple_of(2);
            let mut random = Random(seed);
            let len = rows * groups * n;
            let (x, w) = (values(&mut random, len, scale), random.values(n, 1.0));
            let (dy, dw_before) = (values(&mut random, len, 1.0), random.values(n, 1.0));
            let [tx, tdy] = [&x, &dy].map(|v| tensor(device, from, rows, groups * n, v));
            let mut dx = garbage(device, DType::BF16, rows, groups * n);
            let [tw, mut dw] = [&w, &dw_before].map(|v| tensor(device, DType::F32, 1, n, v));
            device.rms_norm_backward(&tx, &tw, offset, 1e-5, &tdy, &mut dx, Some(&mut dw)).unwrap();
            let (offset, eps) = (f64::from(offset), f64::from(1e-5_f32));
            let (want_dx, mut want_dw) = rms_norm_backward_f64(&widen(&x), &widen(&w), offset, eps, &widen(&dy));
            want_dw.iter_mut().zip(&dw_before).for_each(|(sum, &before)| sum.add(f64::from(before)));
            close(device, &dx, &want_dx, "dx")?;
            close(device, &dw, &want_dw, "dweight")?;
        });
    }
}

fn rope(trial: &Trial<Cuda>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |(rows in 1..40_usize, heads in prop::array::uniform2(1..5_usize), half in 1..40_usize,
                                     inverse: bool, seed: u64)| {
            // Even, as above: no word has elements of two threads.
            let half = half.next_multiple_of(2);
            let mut random = Random(seed);
            let [q, k] = heads.map(|heads| values(&mut random, rows * heads * 2 * half, 1.0));
            let positions: Vec<u32> = (0..rows).map(|_| random.below(8192) as u32).collect();
            let inv_freq = inv_freq(half);
            let [mut cos, mut sin] = [(); 2].map(|()| garbage(device, DType::F32, rows, half));
            device.rope_table(&device.indices(&positions).unwrap(), &inv_freq, &mut cos, &mut sin).unwrap();
            let mut turned_q = tensor(device, DType::BF16, rows, heads[0] * 2 * half, &q);
            let mut turned_k = tensor(device, DType::BF16, rows, heads[1] * 2 * half, &k);
            device.rope(&mut turned_q, &mut turned_k, &cos, &sin, inverse).unwrap();
            for (x, turned, heads) in [(q, turned_q, heads[0]), (k, turned_k, heads[1])] {
                let mut want = Vec::new();
                for (row, x) in widen(&x).chunks_exact(heads * 2 * half).enumerate() {
                    for head in x.chunks_exact(2 * half) {
                        let (a, b) = head.split_at(half);
                        let turn = |i: usize| {
                            let (sin, cos) = f64::from(positions[row] as f32 * inv_freq[i]).sin_cos();
                            (cos, if inverse { -sin } else { sin })
                        };
                        let pairs = || (0..half).map(|i| (a[i], b[i], turn(i)));
                        want.extend(pairs().map(|(a, b, (cos, sin))| Sum::of([a * cos, -b * sin])));
                        want.extend(pairs().map(|(a, b, (cos, sin))| Sum::of([b * cos, a * sin])));
                    }
                }
                // An angle's cosine may be near 0: its error is relative to 1.
                let size = widen(&x).into_iter().fold(0.0, |most: f64, x| most.max(x.abs()));
                want.iter_mut().for_each(|sum| sum.absolute += size);
                close(device, &turned, &want, "rope")?;
            }
        });
    }
}

fn rope_to_cache(trial: &Trial<Cuda>) {
    for device in &trial.devices {
        proptest!(trial.config(32), |(lengths in sequences(), [shared, group, half] in [1..4_usize, 1..4, 1..100],
                                     seed: u64)| {
            let half = half.next_multiple_of(2);
            check_rope_to_cache(device, DType::BF16, &lengths, [shared, group, half], seed)?;
        });
    }
}

fn glu(trial: &Trial<Cuda>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |(rows in 0..30_usize, cols in 1..300_usize, gelu: bool,
                                     scale in prop::sample::select(&[0.1, 1.0, 30.0][..]), seed: u64)| {
            let activation = if gelu { Activation::GeluTanh } else { Activation::Silu };
            let mut random = Random(seed);
            let gate = values(&mut random, rows * cols, scale);
            let [up, dy] = [(); 2].map(|()| values(&mut random, rows * cols, 1.0));
            let [tgate, tup, tdy] = [&gate, &up, &dy].map(|values| tensor(device, DType::BF16, rows, cols, values));
            let [mut y, mut dgate, mut dup] = [(); 3].map(|()| garbage(device, DType::BF16, rows, cols));
            device.glu(activation, &tgate, &tup, &mut y).unwrap();
            device.glu_backward(activation, &tgate, &tup, &tdy, &mut dgate, &mut dup).unwrap();
            let [gate, up, dy] = [&gate, &up, &dy].map(|values| widen(values));
            // act(x) = x s(x): an error of s counts relative to x.
            let gated = |by: &[f64]| -> Vec<Sum> {
                let pairs = gate.iter().zip(by);
                pairs.map(|(&x, f)| Sum { value: activation_f64(activation, x) * f, absolute: (x * f).abs() }).collect()
            };
            close(device, &y, &gated(&up), "y")?;
            close(device, &dup, &gated(&dy), "dup")?;
            let factors = gate.iter().zip(&up).zip(&dy);
            let want: Vec<Sum> = factors
                .map(|((&x, u), d)| Sum { value: d * u * slope_f64(activation, x), absolute: (d * u).abs() })
                .collect();
            close(device, &dgate, &want, "dgate")?;
        });
    }
}

/// `[rows, cols]` sums `of(row, col)`.
fn sums(rows: usize, cols: usize, of: impl Fn(usize, usize) -> Sum) -> Vec<Sum> {
    (0..rows * cols).map(|i| of(i / cols, i % cols)).collect()
}

/// bf16 weights; x in f32 is rounded first. A bias is added to what the product left, exactly but for one rounding.
fn linear(trial: &Trial<Cuda>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |(t in 1..40_usize, n in 1..60_usize, k in 1..70_usize, from in activations(),
                                     to in activations(), seed: u64)| {
            let mut random = Random(seed);
            let (x, w) = (random.values(t * k, 1.0), values(&mut random, n * k, 1.0));
            let b = random.values(n, 1.0);
            let (tx, tw) = (tensor(device, from, t, k, &x), tensor(device, DType::BF16, n, k, &w));
            let [mut plain, mut biased] = [(); 2].map(|()| garbage(device, to, t, n));
            device.linear(&tx, &tw, None, &mut plain).unwrap();
            device.linear(&tx, &tw, Some(&tensor(device, DType::F32, 1, n, &b)), &mut biased).unwrap();
            let x: Vec<f64> = x.iter().map(|&x| bf16::from_f32(x).to_f64()).collect();
            let wide = widen(&w);
            let want = sums(t, n, |i, j| Sum::of((0..k).map(|p| x[i * k + p] * wide[j * k + p])));
            close(device, &plain, &want, "y")?;
            let rounded = |sum: f32| if to == DType::BF16 { bf16::from_f32(sum).to_f32() } else { sum };
            let plain = plain.to_vec(device).unwrap();
            let want: Vec<f32> = plain.iter().enumerate().map(|(i, y)| rounded(y + b[i % n])).collect();
            prop_assert_eq!(bits(&biased.to_vec(device).unwrap()), bits(&want), "bias");
        });
    }
}

/// The gradients of bf16 activations: of the input in either type, of weight and bias in f32, over one part of the rows
/// and over several.
fn linear_backward(trial: &Trial<Cuda>) {
    for device in &trial.devices {
        proptest!(trial.config(48), |(t in 1..200_usize, n in 1..30_usize, k in 1..40_usize, to in activations(),
                                     accumulate: bool, seed: u64)| {
            let mut random = Random(seed);
            let [x, dx_before] = [(); 2].map(|()| values(&mut random, t * k, 1.0));
            let [w, dy] = [n * k, t * n].map(|len| values(&mut random, len, 1.0));
            let (dw_before, db_before) = (random.values(n * k, 1.0), random.values(n, 1.0));
            let (tx, tw) = (tensor(device, DType::BF16, t, k, &x), tensor(device, DType::BF16, n, k, &w));
            let tdy = tensor(device, DType::BF16, t, n, &dy);
            let mut dx = tensor(device, to, t, k, &dx_before);
            let mut dw = tensor(device, DType::F32, n, k, &dw_before);
            let mut db = tensor(device, DType::F32, 1, n, &db_before);
            device.linear_backward_input(&tdy, &tw, &mut dx, accumulate).unwrap();
            device.linear_backward_weight(&tdy, &tx, &mut dw, Some(&mut db), true).unwrap();
            let [x, w, dy, dx_before] = [&x, &w, &dy, &dx_before].map(|values| widen(values));
            let [dw_before, db_before] = [&dw_before, &db_before].map(|values| widen(values));
            let want = sums(t, k, |i, p| {
                let before = accumulate.then_some(dx_before[i * k + p]);
                Sum::of((0..n).map(|j| dy[i * n + j] * w[j * k + p]).chain(before))
            });
            close(device, &dx, &want, "dx")?;
            let want = sums(n, k, |j, p| {
                Sum::of((0..t).map(|i| dy[i * n + j] * x[i * k + p]).chain([dw_before[j * k + p]]))
            });
            close(device, &dw, &want, "dweight")?;
            let want = sums(1, n, |_, j| Sum::of((0..t).map(|i| dy[i * n + j]).chain([db_before[j]])));
            close(device, &db, &want, "dbias")?;
        });
    }
}

//! AdamW of bf16 parameters and moments, rounded stochastically, on every device.

use super::measure::bits;
use super::values::Random;
use super::{Law, TestDevice, Trial};
use crate::device::{DType, Tensor};
use crate::ops::adamw::{AdamWStep, round_stochastically};
use crate::rng::philox4x32_10;
use proptest::prelude::*;

pub fn laws<D: TestDevice>() -> Vec<Law<D>> {
    law_table!("adamw_bf16": either_neighbour, right_on_average, the_draws_are_philox, what_is_not_finite_stays_so)
}

/// Relative to the terms' absolute values: what f32 arithmetic may be off by before it is rounded.
const BOUND: f64 = 1e-5;

fn tensor<D: TestDevice>(device: &D, dtype: DType, values: &[f32]) -> Tensor<D> {
    Tensor::from_slice(device, dtype, 1, values.len(), values).unwrap()
}

/// Parameter, m and v after a step from those given, all as bf16 holds them.
fn step<D: TestDevice>(device: &D, hyper: &AdamWStep, grad: &[f32], state: [&[f32]; 3]) -> [Vec<f32>; 3] {
    let grad = tensor(device, DType::F32, grad);
    let [mut param, mut m, mut v] = state.map(|values| tensor(device, DType::BF16, values));
    device.adamw(hyper, &grad, &mut param, &mut m, &mut v).unwrap();
    [param, m, v].map(|tensor| tensor.to_vec(device).unwrap())
}

/// The step in f64, each result with the sum of its terms' absolute values.
fn step_f64(hyper: &AdamWStep, grad: f32, [param, m, v]: [f32; 3]) -> [(f64, f64); 3] {
    let [lr, b1, b2] = [hyper.lr, hyper.beta1, hyper.beta2].map(f64::from);
    let (c1, c2) = (1.0 - b1.powi(hyper.step as i32), 1.0 - b2.powi(hyper.step as i32));
    let g = f64::from(hyper.grad_scale) * f64::from(grad);
    let (m_terms, v_terms) = ([b1 * f64::from(m), (1.0 - b1) * g], [b2 * f64::from(v), (1.0 - b2) * g * g]);
    let sum = |terms: [f64; 2]| (terms[0] + terms[1], terms[0].abs() + terms[1].abs());
    let (m, v) = (sum(m_terms), sum(v_terms));
    let scale = lr / c1 / ((v.0 / c2).sqrt() + f64::from(hyper.eps));
    let kept = f64::from(param) * (1.0 - lr * f64::from(hyper.weight_decay));
    [(kept - scale * m.0, kept.abs() + scale * m.1), m, v]
}

/// The distance between bf16 numbers near `x`.
fn spacing(x: f64) -> f64 {
    2_f64.powi(x.abs().max(1e-30).log2().floor() as i32 - 7)
}

fn hyper(step: u32, stream: u64) -> AdamWStep {
    AdamWStep { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, step, grad_scale: 0.5, stream }
}

/// Values as bf16 holds them.
fn values(random: &mut Random, len: usize, scale: f64) -> Vec<f32> {
    random.values(len, scale).into_iter().map(|v| half::bf16::from_f32(v).to_f32()).collect()
}

fn either_neighbour<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        proptest!(trial.config(32), |(len in 1..20_000_usize, at in 1..2000_u32, stream: u64, seed: u64)| {
            let mut random = Random(seed);
            let hyper = hyper(at, stream);
            let (grad, param, m) = (random.values(len, 1.0), values(&mut random, len, 1.0), values(&mut random, len, 0.1));
            let v: Vec<f32> = values(&mut random, len, 0.1).iter().map(|v| half::bf16::from_f32(v * v).to_f32()).collect();
            let new = step(device, &hyper, &grad, [&param, &m, &v]);
            for i in 0..len {
                let want = step_f64(&hyper, grad[i], [param[i], m[i], v[i]]);
                for ((got, (want, terms)), what) in new.iter().zip(want).zip(["param", "m", "v"]) {
                    // One more spacing where the exact result lies just below a power of two.
                    let error = (f64::from(got[i]) - want).abs();
                    let most = spacing(want).max(spacing(f64::from(got[i]))) + BOUND * terms;
                    prop_assert!(error <= most, "{} of {}: {} for {}", what, device.describe(), got[i], want);
                }
            }
            prop_assert!(new == step(device, &hyper, &grad, [&param, &m, &v]), "the same draws each time");
        });
    }
}

/// Many elements with one exact result: their mean is that result within five standard errors (a rounded value's standard
/// deviation is at most half the spacing).
fn right_on_average<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        proptest!(trial.config(16), |(param in -2.0_f32..2.0, m in -0.5_f32..0.5, v in 0.01_f32..1.0, grad in -1.0_f32..1.0,
                               at in 1..100_u32, stream: u64)| {
            let len = 8192;
            let state = [param, m, v].map(|x| half::bf16::from_f32(x).to_f32());
            let hyper = hyper(at, stream);
            let arrays = state.map(|x| vec![x; len]);
            let new = step(device, &hyper, &vec![grad; len], arrays.each_ref().map(Vec::as_slice));
            for ((got, (want, terms)), what) in new.iter().zip(step_f64(&hyper, grad, state)).zip(["param", "m", "v"]) {
                let mean = got.iter().map(|&x| f64::from(x)).sum::<f64>() / len as f64;
                let most = 5.0 * 0.5 * spacing(want) / (len as f64).sqrt() + BOUND * terms;
                prop_assert!((mean - want).abs() <= most, "{} of {}: {} for {}", what, device.describe(), mean, want);
            }
        });
    }
}

/// Exact arithmetic leaves the rounding alone: m = 1 + 2^-10 is 1 or 1 + 2^-7 by the draw of its element and step.
fn the_draws_are_philox<D: TestDevice>(trial: &Trial<D>) {
    let len = 3000;
    let hyper =
        AdamWStep { beta1: 0.5, lr: 0.0, grad_scale: 1.0, weight_decay: 0.0, ..hyper(7, 0x0123_4567_89ab_cdef) };
    for device in &trial.devices {
        let grad = vec![1.0 + 2_f32.powi(-9); len];
        let [param, m, _] = step(device, &hyper, &grad, [&vec![0.75; len], &vec![1.0; len], &vec![1.0; len]]);
        assert!(param.iter().all(|&p| p == 0.75), "what bf16 holds is not rounded");
        let want: Vec<f32> = (0..len as u32)
            .map(|i| {
                let words = philox4x32_10([i, 0, 7, 0], [0x89ab_cdef, 0x0123_4567]);
                round_stochastically(1.0 + 2_f32.powi(-10), (words[1] >> 16) as u16).to_f32()
            })
            .collect();
        assert_eq!(bits(&m), bits(&want), "{}", device.describe());
        let up = want.iter().filter(|&&m| m > 1.0).count();
        assert!((250..500).contains(&up), "an eighth is rounded up: {up} of {len}");
    }
}

fn what_is_not_finite_stays_so<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        let grad = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let [param, m, v] = step(device, &hyper(1, 0), &grad, [&[1.0; 3], &[0.0; 3], &[0.0; 3]]);
        assert!(m[0] == f32::INFINITY && m[1] == f32::NEG_INFINITY && m[2].is_nan(), "{m:?}");
        assert!(v[0] == f32::INFINITY && v[2].is_nan(), "{v:?}");
        assert!(param.iter().all(|p| p.is_nan()), "{param:?}");
    }
}

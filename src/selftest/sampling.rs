//! Sampling against the distributions that the filters leave in f64, and its laws. That the filters are transformers' own
//! is held by `tests/generation.rs`.

use super::device::pool;
use super::reference::sampling::{Distribution, penalise};
use super::values::Random;
use super::{Law, TestDevice, Trial};
use crate::device::{Cpu, DType, Tensor};
use crate::ops::sampling::{SamplingParams, SamplingRow, apply_filters};
use proptest::prelude::*;

pub fn laws<D: TestDevice>() -> Vec<Law<D>> {
    law_table!("sampling": draws_follow_the_distribution, rows_stand_alone, frequencies_are_probabilities, greedy_takes_the_first_of_equals)
}

/// What needs no device.
pub fn laws_of_the_filters() -> Vec<Law<Cpu>> {
    law_table!("sampling": filters_leave_the_reference_set)
}

/// How far f32 may be off in a filter's decision or in the distribution function: sums of up to 1500 terms.
const ROUNDING: f64 = 1e-5;

/// One row to sample.
#[derive(Clone, Debug)]
struct Row {
    logits: Vec<f32>,
    history: Vec<u32>,
    params: SamplingParams,
    uniform: f32,
}

fn sample<D: TestDevice>(device: &D, rows: &[Row]) -> Vec<u32> {
    let vocab = rows[0].logits.len();
    let logits: Vec<f32> = rows.iter().flat_map(|row| row.logits.iter().copied()).collect();
    let mut logits = Tensor::from_slice(device, DType::F32, rows.len(), vocab, &logits).unwrap();
    let row = |i: usize| {
        let Row { params, history, uniform, .. } = &rows[i];
        SamplingRow { params: *params, history, uniform: *uniform }
    };
    let mut tokens = vec![7; 3];
    device.sample(&mut logits, row, &mut tokens).unwrap();
    tokens
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![3 => Just(1.0_f32), 1 => Just(0.0), 3 => 0.05_f32..3.0];
    let top_k = prop_oneof![2 => Just(0_usize), 1 => Just(1), 2 => 2..60_usize, 1 => Just(100_000)];
    let top_p = prop_oneof![2 => Just(1.0_f32), 3 => 0.01_f32..1.0];
    let penalty = prop_oneof![2 => Just(1.0_f32), 1 => 0.8_f32..1.5];
    (temperature, top_k, top_p, penalty).prop_map(|(temperature, top_k, top_p, repetition_penalty)| SamplingParams {
        temperature,
        top_k,
        top_p,
        repetition_penalty,
    })
}

/// Rows over one vocabulary; some with ties, some with one logit far above the others.
#[derive(Clone, Debug)]
struct Case {
    vocab: usize,
    /// Parameters, kind of logits and seed of each row.
    rows: Vec<(SamplingParams, u8, u64)>,
}

impl Case {
    fn rows(&self) -> Vec<Row> {
        let vocab = self.vocab;
        let row = |&(params, kind, seed): &(SamplingParams, u8, u64)| {
            let mut random = Random(seed);
            let logits = match kind {
                0 => random.values(vocab, 3.0),
                // Steps of a half: ties at every filter's edge.
                1 => (0..vocab).map(|_| (random.normal() * 4.0).round() as f32 / 2.0).collect(),
                _ => {
                    let mut logits = random.values(vocab, 1.0);
                    logits[random.below(vocab)] = 1e4;
                    logits
                }
            };
            // Some ids are none of the vocabulary's: they are passed over.
            let history = (0..random.below(30)).map(|_| random.below(vocab + vocab / 8 + 1) as u32).collect();
            Row { logits, history, params, uniform: (random.next() >> 40) as f32 / (1 << 24) as f32 }
        };
        self.rows.iter().map(row).collect()
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let vocab = prop_oneof![Just(1_usize), 2..50_usize, 900..1500_usize];
    let row = (params(), 0..3_u8, any::<u64>());
    (vocab, prop::collection::vec(row, 1..6)).prop_map(|(vocab, rows)| Case { vocab, rows })
}

/// The token is the one whose stretch of the distribution function holds the random number.
fn draws_follow_the_distribution<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(256), |(case in cases())| {
        let rows = case.rows();
        for device in devices {
            for (row, token) in rows.iter().zip(sample(device, &rows)) {
                let token = token as usize;
                if row.params.temperature == 0.0 {
                    let mut z: Vec<f64> = row.logits.iter().map(|&z| f64::from(z)).collect();
                    penalise(&mut z, &row.history, &row.params);
                    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    prop_assert!(z[token] >= max - 1e-6 * max.abs(), "token {} is not the most likely", token);
                    continue;
                }
                let distribution = Distribution::new(&row.logits, &row.history, &row.params);
                if distribution.margin < ROUNDING {
                    continue;
                }
                let before: f64 = distribution.probability[..token].iter().sum();
                let probability = distribution.probability[token];
                prop_assert!(probability > 0.0, "token {} was filtered out", token);
                let stretch = before - ROUNDING..before + probability + ROUNDING;
                prop_assert!(stretch.contains(&f64::from(row.uniform)), "{} not in {:?}", row.uniform, stretch);
            }
        }
    });
}

/// What the filters leave: the k most likely and their ties, and the smallest set that reaches p.
fn filters_leave_the_reference_set(trial: &Trial<Cpu>) {
    proptest!(trial.config(256), |(case in cases())| {
        let rows = case.rows();
        for row in rows.iter().filter(|row| row.params.temperature > 0.0) {
            let distribution = Distribution::new(&row.logits, &row.history, &row.params);
            if distribution.margin < ROUNDING {
                continue;
            }
            let mut logits = row.logits.clone();
            apply_filters(&mut logits, &row.history, &row.params);
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (token, (&z, &probability)) in logits.iter().zip(&distribution.probability).enumerate() {
                // A kept token may still be too unlikely for f64.
                let kept = z > f32::NEG_INFINITY;
                prop_assert!(kept == (probability > 0.0) || z < max - 700.0, "token {}: {}, {}", token, z, probability);
            }
        }
    });
}

/// A row's token depends on its own row only, on any number of threads; greedy ignores the random number.
fn rows_stand_alone<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    let pools = [1, 2, 3].map(pool);
    proptest!(trial.config(64), |(case in cases(), uniform in 0.0_f32..1.0)| {
        let rows = case.rows();
        for device in devices {
            let [one, two, three] = pools.each_ref().map(|pool| pool.install(|| sample(device, &rows)));
            prop_assert!(one == two && one == three);
            prop_assert_eq!(one.len(), rows.len());
            for (row, token) in rows.iter().zip(one) {
                prop_assert_eq!(sample(device, std::slice::from_ref(row)), vec![token]);
                if row.params.temperature == 0.0 {
                    let other = Row { uniform, ..row.clone() };
                    prop_assert_eq!(sample(device, &[other]), vec![token]);
                }
            }
        }
    });
}

/// Every token comes as often as its probability says, and the ends of the random number's range reach the ends of the
/// vocabulary.
fn frequencies_are_probabilities<D: TestDevice>(trial: &Trial<D>) {
    let probabilities = [0.4_f32, 0.0, 0.1, 0.25, 0.05, 0.2];
    let logits: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
    for device in &trial.devices {
        let draw = |count: usize| {
            let rows: Vec<Row> = (0..count)
                .map(|i| Row {
                    logits: logits.clone(),
                    history: Vec::new(),
                    params: SamplingParams::default(),
                    uniform: i as f32 / count as f32,
                })
                .collect();
            sample(device, &rows)
        };
        let tokens = draw(2000);
        assert_eq!((tokens[0], tokens[1999]), (0, 5));
        assert!(tokens.is_sorted(), "the inverse transform runs in the order of tokens");
        for (token, p) in probabilities.iter().enumerate() {
            let count = tokens.iter().filter(|&&t| t as usize == token).count();
            assert!((count as f32 - 2000.0 * p).abs() <= 1.0, "token {token}: {count} of 2000 at probability {p}");
        }
        let last = Row {
            uniform: 1.0 - f32::EPSILON / 2.0,
            logits: logits.clone(),
            history: Vec::new(),
            params: SamplingParams::default(),
        };
        assert_eq!(sample(device, &[last]), [5]);
    }
}

/// The first of equal logits, from either side of zero; a repetition penalty may decide it.
fn greedy_takes_the_first_of_equals<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        let row = |logits: &[f32], history: &[u32], repetition_penalty| Row {
            logits: logits.to_vec(),
            history: history.to_vec(),
            params: SamplingParams { repetition_penalty, ..SamplingParams::GREEDY },
            uniform: 0.99,
        };
        assert_eq!(sample(device, &[row(&[1.0, 3.0, 3.0, 2.0], &[], 1.0)]), [1]);
        assert_eq!(sample(device, &[row(&[-0.0, 0.0, 0.0], &[], 1.0)]), [0]);
        assert_eq!(sample(device, &[row(&[1.0, 3.0, 3.0, 2.0], &[1, 1, 1], 1.1)]), [2]);
        // Once a distinct token: 3 / 1.4 > 2, but 3 / 1.4 / 1.4 < 2.
        assert_eq!(sample(device, &[row(&[1.0, 3.0, -3.0, 2.0], &[1, 1, 2], 1.4)]), [1]);
        assert_eq!(sample(device, &[row(&[-2.0, -1.5], &[1], 2.0)]), [0]);
    }
}

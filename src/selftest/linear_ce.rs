//! Cross-entropy over a linear unembedding against f64 loops, and its laws.

use super::device::pool;
use super::measure::{bits, distance, norm};
use super::reference::linear_ce::{self as reference, Logits};
use super::values::{Random, widen};
use super::{Law, TestDevice, Trial};
use crate::device::{Cpu, DType, Tensor};
use crate::ops::linear_ce::{CeGradient, CeOutput, IGNORE};
use proptest::prelude::*;

pub fn laws<D: TestDevice>() -> Vec<Law<D>> {
    law_table!("linear_ce": forward_equals_f64, forward_of_many_stages, backward_equals_f64, a_constant_on_all_logits_changes_nothing, tokens_stand_alone, ignored_labels_give_zero, ranks_are_exact, one_hot, logits_far_below_zero, threads_do_not_matter)
}

/// What needs no device.
pub fn laws_of_the_reference() -> Vec<Law<Cpu>> {
    law_table!("linear_ce": gradients_are_derivatives)
}

/// Relative error of a whole output, and absolute error of a log-probability: sums of n products in f32 are off by about
/// sqrt(n) eps/2 relative to their norm, 1e-6 at n = 256, and the exponentials and the logarithm by 2 ulp.
const BOUND: f64 = 1e-5;

#[derive(Clone, Debug)]
struct Case {
    tokens: usize,
    size: usize,
    vocab: usize,
    dtype: DType,
    softcap: Option<f32>,
    /// Standard deviation of the logits.
    spread: f64,
    seed: u64,
}

/// Inputs as a device holds them: `w` is rounded to its dtype.
struct Inputs {
    hidden: Vec<f32>,
    w: Vec<f32>,
    labels: Vec<u32>,
    coefficient: Vec<f32>,
    /// What `dw` holds before the backward pass adds to it.
    dw: Vec<f32>,
}

impl Inputs {
    fn new<D: TestDevice>(device: &D, case: &Case) -> Self {
        let mut random = Random(case.seed);
        let hidden = random.values(case.tokens * case.size, case.spread / (case.size as f64).sqrt());
        let w = random.values(case.vocab * case.size, 1.0);
        let labels = (0..case.tokens)
            .map(|_| if random.below(5) == 0 { IGNORE } else { random.below(case.vocab) as u32 })
            .collect();
        let coefficient =
            (0..case.tokens).map(|_| if random.below(6) == 0 { 0.0 } else { (random.normal() * 0.3) as f32 }).collect();
        let dw = random.values(case.vocab * case.size, 0.01);
        Self { hidden, w: rounded(device, case.dtype, &w), labels, coefficient, dw }
    }
}

/// What values become when they are stored.
fn rounded<D: TestDevice>(device: &D, dtype: DType, values: &[f32]) -> Vec<f32> {
    Tensor::from_slice(device, dtype, 1, values.len(), values).unwrap().to_vec(device).unwrap()
}

struct Forward {
    lse: Vec<f32>,
    logprob: Vec<f32>,
    entropy: Vec<f32>,
    rank: Vec<f32>,
}

impl Forward {
    fn bits(&self) -> [Vec<u32>; 4] {
        [&self.lse, &self.logprob, &self.entropy, &self.rank].map(|values| bits(values))
    }

    /// The results of one token.
    fn token(&self, t: usize) -> [u32; 4] {
        [&self.lse, &self.logprob, &self.entropy, &self.rank].map(|values| values[t].to_bits())
    }
}

/// The tensors of a case on a device.
struct Loaded<D: TestDevice> {
    hidden: Tensor<D>,
    w: Tensor<D>,
    labels: D::Indices,
}

fn load<D: TestDevice>(device: &D, case: &Case, inputs: &Inputs) -> Loaded<D> {
    Loaded {
        hidden: Tensor::from_slice(device, DType::F32, inputs.labels.len(), case.size, &inputs.hidden).unwrap(),
        w: Tensor::from_slice(device, case.dtype, inputs.w.len() / case.size, case.size, &inputs.w).unwrap(),
        labels: device.indices(&inputs.labels).unwrap(),
    }
}

/// A `[1, len]` output; what is not written shows as NaN.
fn garbage<D: TestDevice>(device: &D, rows: usize, cols: usize) -> Tensor<D> {
    Tensor::from_slice(device, DType::F32, rows, cols, &vec![f32::NAN; rows * cols]).unwrap()
}

fn forward<D: TestDevice>(device: &D, case: &Case, inputs: &Inputs) -> Forward {
    let Loaded { hidden, w, labels } = load(device, case, inputs);
    let [mut lse, mut logprob, mut entropy, mut rank] = [(); 4].map(|()| garbage(device, 1, inputs.labels.len()));
    let (entropy_to, rank_to) = (Some(&mut entropy), Some(&mut rank));
    let output = CeOutput { lse: &mut lse, logprob: &mut logprob, entropy: entropy_to, rank: rank_to, kept: None };
    device.linear_ce(&hidden, &w, case.softcap, &labels, output).unwrap();
    let [lse, logprob, entropy, rank] = [lse, logprob, entropy, rank].map(|x| x.to_vec(device).unwrap());
    Forward { lse, logprob, entropy, rank }
}

/// dhidden and dw.
fn backward<D: TestDevice>(device: &D, case: &Case, inputs: &Inputs) -> [Vec<f32>; 2] {
    let Loaded { hidden, w, labels } = load(device, case, inputs);
    let tokens = inputs.labels.len();
    let (mut lse, mut logprob) = (garbage(device, 1, tokens), garbage(device, 1, tokens));
    // Some of the logits are kept: none, those of one tile, or all.
    let mut kept = garbage(device, tokens, case.vocab.min(case.seed as usize % 3 * 1024));
    let (lse_to, logprob_to) = (&mut lse, &mut logprob);
    let output = CeOutput { lse: lse_to, logprob: logprob_to, entropy: None, rank: None, kept: Some(&mut kept) };
    device.linear_ce(&hidden, &w, case.softcap, &labels, output).unwrap();
    let coefficient = Tensor::from_slice(device, DType::F32, 1, tokens, &inputs.coefficient).unwrap();
    let mut dhidden = garbage(device, tokens, case.size);
    let mut dw = Tensor::from_slice(device, DType::F32, w.rows(), case.size, &inputs.dw).unwrap();
    let go = |kept: Option<&mut Tensor<D>>, gradient: CeGradient<'_, D>| {
        device.linear_ce_backward(&hidden, &w, case.softcap, &labels, &lse, &coefficient, kept, gradient).unwrap();
    };
    go(None, CeGradient { hidden: &mut dhidden, w: Some(&mut dw), accumulate: true });
    let dhidden = dhidden.to_vec(device).unwrap();
    // The same without dw, and with what was kept and a dw that is overwritten.
    let mut alone = garbage(device, tokens, case.size);
    go(None, CeGradient { hidden: &mut alone, w: None, accumulate: true });
    assert_eq!(bits(&alone.to_vec(device).unwrap()), bits(&dhidden), "dhidden depends on whether dw is wanted");
    let mut alone = garbage(device, tokens, case.size);
    let mut added = Tensor::zeros(device, DType::F32, w.rows(), case.size).unwrap();
    go(None, CeGradient { hidden: &mut alone, w: Some(&mut added), accumulate: true });
    let mut overwritten = garbage(device, w.rows(), case.size);
    go(Some(&mut kept), CeGradient { hidden: &mut alone, w: Some(&mut overwritten), accumulate: false });
    assert_eq!(bits(&alone.to_vec(device).unwrap()), bits(&dhidden), "dhidden depends on what was kept");
    assert_eq!(overwritten.to_vec(device).unwrap(), added.to_vec(device).unwrap(), "dw depends on what was kept");
    [dhidden, dw.to_vec(device).unwrap()]
}

/// Hidden sizes; half of them multiples of 8, which tensor cores take in bf16.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1..40_usize, (1..9_usize).prop_map(|vectors| 8 * vectors)]
}

fn cases() -> impl Strategy<Value = Case> {
    // Around the vocabulary's tile of 1024, and the chunk of 512 tokens.
    let shape = prop_oneof![
        6 => (0..20_usize, size(), prop_oneof![Just(1), 2..40_usize, 1000..1100_usize]),
        2 => (1..5_usize, 1..70_usize, prop::sample::select(&[1023, 1024, 1025, 2048, 2055, 3100][..])),
        1 => (510..530_usize, 1..5_usize, prop::sample::select(&[3, 40, 1030][..])),
        1 => (1..4_usize, 200..300_usize, 1..50_usize),
    ];
    let dtype = prop_oneof![2 => Just(DType::F32), 2 => Just(DType::BF16), 1 => Just(DType::F16)];
    let softcap = prop_oneof![2 => Just(None), 1 => (1.0_f32..50.0).prop_map(Some)];
    // 0: every logit ties. 3000: one token has all the probability.
    let spread = prop::sample::select(&[0.0, 0.1, 1.0, 1.0, 1.0, 10.0, 100.0, 3000.0][..]);
    (shape, dtype, softcap, spread, any::<u64>()).prop_map(|((tokens, size, vocab), dtype, softcap, spread, seed)| {
        Case { tokens, size, vocab, dtype, softcap, spread, seed }
    })
}

/// A logit is off by a few units in the last place of the terms it is summed from.
fn logit_error<D: TestDevice>(device: &D, case: &Case, magnitude: f64) -> f64 {
    4.0 * device.roundoff(case.dtype) * magnitude
}

/// The forward pass of a case against f64.
fn check_forward<D: TestDevice>(
    device: &D,
    case: &Case,
    inputs: &Inputs,
    logits: &Logits,
) -> Result<(), TestCaseError> {
    let got = forward(device, case, inputs);
    for (t, &label) in inputs.labels.iter().enumerate() {
        let error = logit_error(device, case, logits.magnitude[t]);
        let close = |got: f32, want: f64| (f64::from(got) - want).abs() <= BOUND * (1.0 + want.abs()) + error;
        let lse = logits.lse(t);
        prop_assert!(close(got.lse[t], lse), "lse {} instead of {}", got.lse[t], lse);
        let entropy = logits.entropy(t);
        // A mean of z_v - lse: both are rounded, and weighted by probabilities that are off by `error` each.
        let slack = (1.0 + entropy) * error;
        let off = (f64::from(got.entropy[t]) - entropy).abs();
        prop_assert!(off <= BOUND * (1.0 + entropy) + slack, "entropy {} instead of {}", got.entropy[t], entropy);
        if label == IGNORE {
            prop_assert_eq!((got.logprob[t], got.rank[t]), (0.0, 0.0));
            continue;
        }
        let logprob = logits.row(t)[label as usize] - lse;
        prop_assert!(close(got.logprob[t], logprob), "logprob {} instead of {}", got.logprob[t], logprob);
        let ranks = logits.rank(t, label, 2.0 * error)..=logits.rank(t, label, -2.0 * error);
        prop_assert!(ranks.contains(&(got.rank[t] as usize)), "rank {} not in {:?}", got.rank[t], ranks);
    }
    Ok(())
}

fn forward_equals_f64<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(96), |(case in cases())| {
        let inputs = Inputs::new(&devices[0], &case);
        let logits = Logits::new(case.size, &widen(&inputs.hidden), &widen(&inputs.w), case.softcap);
        for device in devices {
            check_forward(device, &case, &inputs, &logits)?;
        }
    });
}

/// Deeper than the stages of a kernel's pipeline, and wider than its tile: stages are filled again, and tiles follow tiles.
fn forward_of_many_stages<D: TestDevice>(trial: &Trial<D>) {
    let case = Case { tokens: 3, size: 520, vocab: 600, dtype: DType::BF16, softcap: None, spread: 1.0, seed: 1 };
    for device in &trial.devices {
        let inputs = Inputs::new(device, &case);
        let logits = Logits::new(case.size, &widen(&inputs.hidden), &widen(&inputs.w), case.softcap);
        check_forward(device, &case, &inputs, &logits).unwrap();
    }
}

fn backward_equals_f64<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(96), |(case in cases())| {
        let inputs = Inputs::new(&devices[0], &case);
        let (hidden, w) = (widen(&inputs.hidden), widen(&inputs.w));
        let coefficient = widen(&inputs.coefficient);
        let magnitude = Logits::new(case.size, &hidden, &w, case.softcap).magnitude.into_iter().fold(0.0, f64::max);
        let [dx, mut dw] = reference::backward(case.size, &hidden, &w, case.softcap, &inputs.labels, &coefficient);
        for (value, &before) in dw.value.iter_mut().zip(&inputs.dw) {
            *value += f64::from(before);
        }
        for device in devices {
            // Where terms cancel, the error is relative to the terms; a logit's error is a probability's relative one.
            let terms = device.roundoff(case.dtype) * (1.0 + magnitude);
            let got = backward(device, &case, &inputs);
            for (name, (got, want)) in ["dhidden", "dw"].iter().zip(got.iter().zip([&dx, &dw])) {
                let bound = BOUND * norm(&want.value) + terms * norm(&want.absolute);
                let error = distance(got, &want.value);
                prop_assert!(error <= bound, "{}: error {} of {}, bound {}", name, error, norm(&want.value), bound);
            }
        }
    });
}

/// The formulas of the reference's gradients: against central differences of its own log-probabilities, in f64.
fn gradients_are_derivatives(trial: &Trial<Cpu>) {
    proptest!(trial.config(48), |(tokens in 1..4_usize, size in 1..6_usize, vocab in 1..9_usize, spread in 0.1..3.0,
                            softcap in prop_oneof![Just(None), (1.0_f32..5.0).prop_map(Some)], seed in any::<u64>())| {
        let mut random = Random(seed);
        let mut normal = |len: usize, scale: f64| -> Vec<f64> { (0..len).map(|_| random.normal() * scale).collect() };
        let inputs = [normal(tokens * size, spread), normal(vocab * size, 1.0)];
        let coefficient = normal(tokens, 1.0);
        let directions = [normal(tokens * size, 1.0), normal(vocab * size, 1.0)];
        let labels: Vec<u32> =
            (0..tokens).map(|t| if t == 2 { IGNORE } else { random.below(vocab) as u32 }).collect();
        let loss = |[hidden, w]: &[Vec<f64>; 2]| -> f64 {
            let logits = Logits::new(size, hidden, w, softcap);
            let labelled = labels.iter().enumerate().filter(|&(_, &label)| label != IGNORE);
            labelled.map(|(t, &label)| -coefficient[t] * logits.log_probabilities(t)[label as usize]).sum()
        };
        let gradients = reference::backward(size, &inputs[0], &inputs[1], softcap, &labels, &coefficient);
        for (which, (gradient, direction)) in gradients.iter().zip(&directions).enumerate() {
            let moved = |h: f64| {
                let mut inputs = inputs.clone();
                inputs[which].iter_mut().zip(direction).for_each(|(x, d)| *x += h * d);
                loss(&inputs)
            };
            // The difference is off by about h^2 third derivatives + 1e-16 / h.
            let h = 1e-5;
            let slope = (moved(h) - moved(-h)) / (2.0 * h);
            let product: f64 = gradient.value.iter().zip(direction).map(|(g, d)| g * d).sum();
            let scale = norm(&gradient.absolute) * norm(direction);
            prop_assert!((slope - product).abs() <= 1e-7 * (1.0 + scale), "{} instead of {}", product, slope);
        }
    });
}

/// Adding a constant to all logits (as a constant feature) changes no log-probability, entropy or rank.
fn a_constant_on_all_logits_changes_nothing<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    // Powers of two: exact in every dtype.
    let shift = prop::sample::select(&[-64.0_f32, -1.0, 0.5, 8.0, 256.0][..]);
    proptest!(trial.config(48), |(case in cases(), shift in shift)| {
        let case = Case { softcap: None, ..case };
        for device in devices {
            let inputs = Inputs::new(device, &case);
            let append = |values: &[f32], feature: f32| -> Vec<f32> {
                values.chunks_exact(case.size).flat_map(|row| row.iter().copied().chain([feature])).collect()
            };
            let shifted = Inputs {
                hidden: append(&inputs.hidden, 1.0),
                w: append(&inputs.w, shift),
                labels: inputs.labels.clone(),
                coefficient: inputs.coefficient.clone(),
                dw: append(&inputs.dw, 0.0),
            };
            let wider = Case { size: case.size + 1, ..case.clone() };
            let logits = Logits::new(wider.size, &widen(&shifted.hidden), &widen(&shifted.w), None);
            let (before, after) = (forward(device, &case, &inputs), forward(device, &wider, &shifted));
            for t in 0..case.tokens {
                let error = logit_error(device, &case, logits.magnitude[t]);
                let close = |a: f32, b: f32, slack: f64| {
                    f64::from((a - b).abs()) <= BOUND * (1.0 + f64::from(a.abs())) + slack
                };
                prop_assert!(close(before.lse[t] + shift, after.lse[t], 2.0 * error));
                prop_assert!(close(before.logprob[t], after.logprob[t], 2.0 * error));
                let slack = 2.0 * (1.0 + f64::from(before.entropy[t])) * error;
                prop_assert!(close(before.entropy[t], after.entropy[t], slack));
            }
            // The gradients of the features that were there stay; the constant's is the sum over the vocabulary of
            // dlogit: 0.
            let ([dx, dw], [wide_dx, wide_dw]) = (backward(device, &case, &inputs), backward(device, &wider, &shifted));
            let magnitude = logits.magnitude.iter().copied().fold(0.0, f64::max);
            let terms = device.roundoff(case.dtype) * (1.0 + magnitude);
            let split = |values: &[f32]| -> [Vec<f32>; 2] {
                let rows = values.chunks_exact(wider.size);
                let first = rows.clone().flat_map(|row| row[..case.size].to_vec()).collect();
                [first, rows.map(|row| row[case.size]).collect()]
            };
            let coefficient = widen(&inputs.coefficient);
            let [dx_terms, dw_terms] =
                reference::backward(wider.size, &widen(&shifted.hidden), &widen(&shifted.w), None, &inputs.labels, &coefficient)
                    .map(|gradient| norm(&gradient.absolute));
            let ([wide_dx, dx_constant], [wide_dw, dw_constant]) = (split(&wide_dx), split(&wide_dw));
            for (name, got, want, absolute) in [("dhidden", &wide_dx, &dx, dx_terms), ("dw", &wide_dw, &dw, dw_terms)] {
                let error = distance(got, &widen(want));
                prop_assert!(error <= BOUND * norm(&widen(want)) + 2.0 * terms * absolute, "{}: {}", name, error);
            }
            // sum_v dz_tv shift, for each token.
            prop_assert!(norm(&widen(&dx_constant)) <= (BOUND + 2.0 * terms) * dx_terms);
            // dw_constant[v] = sum_t dz_tv: its sum over v is 0 too.
            let sum: f64 = dw_constant.iter().map(|&g| f64::from(g)).sum();
            let total: f64 = dw_constant.iter().map(|&g| f64::from(g.abs())).sum();
            prop_assert!(sum.abs() <= BOUND * (1.0 + total) + 2.0 * terms * coefficient.iter().map(|c| 2.0 * c.abs()).sum::<f64>());
        }
    });
}

/// A token's results have the same bits whatever the other tokens are.
fn tokens_stand_alone<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(48), |(case in cases())| {
        for device in devices {
            let inputs = Inputs::new(device, &case);
            let (together, [dx, _]) = (forward(device, &case, &inputs), backward(device, &case, &inputs));
            for t in (0..case.tokens).step_by(case.tokens / 12 + 1) {
                let alone = Inputs {
                    hidden: inputs.hidden[t * case.size..(t + 1) * case.size].to_vec(),
                    w: inputs.w.clone(),
                    labels: vec![inputs.labels[t]],
                    coefficient: vec![inputs.coefficient[t]],
                    dw: inputs.dw.clone(),
                };
                prop_assert_eq!(forward(device, &case, &alone).token(0), together.token(t));
                let [dx_alone, _] = backward(device, &case, &alone);
                prop_assert_eq!(bits(&dx_alone), bits(&dx[t * case.size..(t + 1) * case.size]));
            }
        }
    });
}

/// Labels of no consequence give exactly nothing.
fn ignored_labels_give_zero<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(32), |(case in cases(), zero_coefficients in any::<bool>())| {
        for device in devices {
            let mut inputs = Inputs::new(device, &case);
            if zero_coefficients {
                inputs.coefficient.fill(0.0);
            } else {
                inputs.labels.fill(IGNORE);
                let forward = forward(device, &case, &inputs);
                prop_assert!(forward.logprob.iter().chain(&forward.rank).all(|&value| value == 0.0));
            }
            let [dx, dw] = backward(device, &case, &inputs);
            prop_assert!(dx.iter().all(|&g| g == 0.0));
            prop_assert_eq!(bits(&dw), bits(&inputs.dw));
        }
    });
}

/// Small whole numbers have exact logits: ranks and their ties are exact, and rows of equal logits uniform.
fn ranks_are_exact<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(48), |(tokens in 1..6_usize, size in 1..5_usize, vocab in 1..2100_usize, seed in any::<u64>())| {
        let case = Case { tokens, size, vocab, dtype: DType::BF16, softcap: None, spread: 1.0, seed };
        let mut random = Random(seed);
        let mut whole = |len: usize| -> Vec<f32> { (0..len).map(|_| random.below(5) as f32 - 2.0).collect() };
        let (hidden, w, dw) = (whole(tokens * size), whole(vocab * size), whole(vocab * size));
        let labels = (0..tokens).map(|_| random.below(vocab) as u32).collect();
        let inputs = Inputs { hidden, w, labels, coefficient: vec![1.0; tokens], dw };
        let logits = Logits::new(size, &widen(&inputs.hidden), &widen(&inputs.w), None);
        for device in devices {
            let got = forward(device, &case, &inputs);
            for (t, &label) in inputs.labels.iter().enumerate() {
                prop_assert_eq!(got.rank[t] as usize, logits.rank(t, label, 0.0), "token {}", t);
            }
        }
    });
}

/// One logit far above all others: probability 1, loss 0, entropy 0, gradient 0; its absence costs its full distance.
fn one_hot<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        for vocab in [2, 1024, 1025, 2600] {
            for hot in [0, vocab / 2, vocab - 1] {
                let case = Case { tokens: 2, size: 1, vocab, dtype: DType::F32, softcap: None, spread: 1.0, seed: 0 };
                let mut w = vec![0.0; vocab];
                w[hot] = 1e6;
                let labels = vec![hot as u32, ((hot + 1) % vocab) as u32];
                let inputs =
                    Inputs { hidden: vec![1.0; 2], w, labels, coefficient: vec![1.0; 2], dw: vec![0.0; vocab] };
                let got = forward(device, &case, &inputs);
                assert_eq!((got.lse[0], got.logprob[0], got.entropy[0], got.rank[0]), (1e6, 0.0, 0.0, 0.0));
                assert_eq!((got.lse[1], got.logprob[1], got.entropy[1], got.rank[1]), (1e6, -1e6, 0.0, 1.0));
                let [dx, dw] = backward(device, &case, &inputs);
                // p - 1 = 0 at the hot label; p = 1 at the hot token and -1 at the other label.
                assert_eq!(dx, [0.0, 1e6]);
                for (v, &g) in dw.iter().enumerate() {
                    let want = if v == hot {
                        1.0
                    } else if v == (hot + 1) % vocab {
                        -1.0
                    } else {
                        0.0
                    };
                    assert_eq!(g, want, "dw of token {v}");
                }
            }
        }
    }
}

/// Every logit of every row of a kernel's tile far below 0: a running maximum that starts at 0 would lose all of them.
fn logits_far_below_zero<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        for dtype in [DType::F32, DType::BF16] {
            let case = Case { tokens: 150, size: 8, vocab: 3, dtype, softcap: None, spread: 1.0, seed: 0 };
            // Exact in bf16.
            let inputs = Inputs {
                hidden: (0..case.tokens * case.size).map(|i| -16.0 - (i / case.size % 5) as f32).collect(),
                w: (0..case.vocab * case.size).map(|i| 1.0 + (i / case.size) as f32).collect(),
                labels: (0..case.tokens).map(|t| (t % case.vocab) as u32).collect(),
                coefficient: vec![1.0; case.tokens],
                dw: vec![0.0; case.vocab * case.size],
            };
            let got = forward(device, &case, &inputs);
            for t in 0..case.tokens {
                // Logits are -8 (16 + t % 5) times 1, 2 and 3: the first has all the probability.
                let first = -8.0 * (16 + t % 5) as f32;
                let label = t % case.vocab;
                let want = (first, first * label as f32, 0.0, label as f32);
                assert_eq!((got.lse[t], got.logprob[t], got.entropy[t], got.rank[t]), want, "token {t} in {dtype:?}");
            }
            let [dx, _] = backward(device, &case, &inputs);
            for (t, row) in dx.chunks_exact(case.size).enumerate() {
                // W's first row less the label's.
                assert!(row.iter().all(|&g| g == -((t % case.vocab) as f32)), "token {t} in {dtype:?}: {row:?}");
            }
        }
    }
}

/// The same bits on any number of threads, dw included.
fn threads_do_not_matter<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    let pools = [1, 2, 3].map(pool);
    proptest!(trial.config(24), |(case in cases())| {
        for device in devices {
            let inputs = Inputs::new(device, &case);
            let [one, two, three] = pools.each_ref().map(|pool| pool.install(|| {
                let gradients = backward(device, &case, &inputs).map(|values| bits(&values));
                (forward(device, &case, &inputs).bits(), gradients)
            }));
            prop_assert!(one == two && one == three);
        }
    });
}

//! KL divergence of two models' distributions against f64 loops, and its laws.

use super::device::pool;
use super::measure::{bits, distance, norm};
use super::reference::linear_ce::Logits;
use super::reference::linear_kl as reference;
use super::values::{Random, widen};
use super::{Law, TestDevice, Trial};
use crate::device::{Cpu, DType, Tensor};
use crate::ops::linear_kl::{KlGradient, KlSide};
use proptest::prelude::*;

pub fn laws<D: TestDevice>() -> Vec<Law<D>> {
    law_table!("linear_kl": equals_f64, equal_sides_have_no_divergence, a_constant_on_all_logits_changes_nothing, argmax_is_the_first_of_equals, one_hot, logits_far_below_zero, tokens_stand_alone, backward_equals_f64, nothing_to_learn_gives_zero, gradients_of_logits_sum_to_zero, gradients_stand_alone)
}

/// What needs no device.
pub fn laws_of_the_reference() -> Vec<Law<Cpu>> {
    law_table!("linear_kl": reference_gradients_equal_central_differences)
}

/// Absolute error of a divergence or an entropy of logits near 0: the exponentials, the logarithms and the sums over the
/// vocabulary are off by a few eps each.
const BOUND: f64 = 1e-5;

/// One side: a model's hidden states and unembedding, rounded to its dtype.
#[derive(Clone)]
struct Side {
    size: usize,
    dtype: DType,
    softcap: Option<f32>,
    hidden: Vec<f32>,
    w: Vec<f32>,
}

impl Side {
    fn new<D: TestDevice>(device: &D, spec: &Spec, tokens: usize, vocab: usize, random: &mut Random) -> Self {
        let Spec { size, dtype, softcap, spread } = *spec;
        let hidden = random.values(tokens * size, spread / (size as f64).sqrt());
        let w = Tensor::from_slice(device, dtype, vocab, size, &random.values(vocab * size, 1.0)).unwrap();
        Self { size, dtype, softcap, hidden, w: w.to_vec(device).unwrap() }
    }

    fn logits(&self) -> Logits {
        self.reference().logits
    }

    fn reference(&self) -> reference::Side {
        reference::Side::new(self.size, widen(&self.hidden), widen(&self.w), self.softcap)
    }

    /// How far a logit of this token may be off: a few units in the last place of the terms it is summed from.
    fn error<D: TestDevice>(&self, device: &D, logits: &Logits, token: usize) -> f64 {
        4.0 * device.roundoff(self.dtype) * logits.magnitude[token]
    }

    /// Token `t` alone.
    fn token(&self, t: usize) -> Self {
        Self { hidden: self.hidden[t * self.size..(t + 1) * self.size].to_vec(), ..self.clone() }
    }

    /// With `shift` added to every logit, as a constant feature.
    fn shifted(&self, shift: f32) -> Self {
        let append = |values: &[f32], feature: f32| {
            values.chunks_exact(self.size).flat_map(|row| row.iter().copied().chain([feature])).collect()
        };
        Self { size: self.size + 1, hidden: append(&self.hidden, 1.0), w: append(&self.w, shift), ..self.clone() }
    }
}

#[derive(Clone, Debug)]
struct Spec {
    size: usize,
    dtype: DType,
    softcap: Option<f32>,
    /// Standard deviation of the logits.
    spread: f64,
}

#[derive(Clone, Debug)]
struct Case {
    tokens: usize,
    vocab: usize,
    sides: [Spec; 2],
    seed: u64,
}

impl Case {
    fn sides<D: TestDevice>(&self, device: &D) -> [Side; 2] {
        let mut random = Random(self.seed);
        self.sides.each_ref().map(|spec| Side::new(device, spec, self.tokens, self.vocab, &mut random))
    }
}

fn spec() -> impl Strategy<Value = Spec> {
    let dtype = prop_oneof![2 => Just(DType::F32), 3 => Just(DType::BF16), 1 => Just(DType::F16)];
    // Half of the sizes are multiples of 8, which tensor cores take in bf16.
    let size = prop_oneof![1..40_usize, (1..9_usize).prop_map(|vectors| 8 * vectors)];
    let softcap = prop_oneof![2 => Just(None), 1 => (1.0_f32..50.0).prop_map(Some)];
    let spread = prop::sample::select(&[0.0, 0.1, 1.0, 1.0, 1.0, 10.0, 100.0, 3000.0][..]);
    (size, dtype, softcap, spread).prop_map(|(size, dtype, softcap, spread)| Spec { size, dtype, softcap, spread })
}

fn cases() -> impl Strategy<Value = Case> {
    // Around the vocabulary's tile of 1024, and the chunk of 512 tokens.
    let shape = prop_oneof![
        6 => (0..20_usize, prop_oneof![Just(1), 2..40_usize, 1000..1100_usize]),
        2 => (1..5_usize, prop::sample::select(&[1023, 1024, 1025, 2048, 2055, 3100][..])),
        1 => (510..530_usize, prop::sample::select(&[3, 40][..])),
    ];
    (shape, [spec(), spec()], any::<u64>()).prop_map(|((tokens, vocab), sides, seed)| Case {
        tokens,
        vocab,
        sides,
        seed,
    })
}

/// kl, entropies and argmaxes of every token.
#[derive(Debug)]
struct Output {
    kl: Vec<f32>,
    entropy: [Vec<f32>; 2],
    argmax: [Vec<f32>; 2],
}

impl Output {
    fn bits(&self) -> [Vec<u32>; 5] {
        let Self { kl, entropy: [hp, hq], argmax: [ap, aq] } = self;
        [kl, hp, hq, ap, aq].map(|values| bits(values))
    }
}

fn run<D: TestDevice>(device: &D, sides: [&Side; 2]) -> Output {
    let matrix = |dtype, size: usize, values: &[f32]| {
        Tensor::from_slice(device, dtype, values.len() / size, size, values).unwrap()
    };
    let tensors =
        sides.map(|side| (matrix(DType::F32, side.size, &side.hidden), matrix(side.dtype, side.size, &side.w)));
    let side = |i: usize| KlSide { hidden: &tensors[i].0, w: &tensors[i].1, softcap: sides[i].softcap };
    let output = device.linear_kl(side(0), side(1)).unwrap();
    let host = |tensor: &Tensor<D>| tensor.to_vec(device).unwrap();
    Output {
        kl: host(&output.kl),
        entropy: [host(&output.entropy_p), host(&output.entropy_q)],
        argmax: [host(&output.argmax_p), host(&output.argmax_q)],
    }
}

fn equals_f64<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(96), |(case in cases())| {
        let sides = case.sides(&devices[0]);
        let logits = sides.each_ref().map(Side::logits);
        for device in devices {
            let got = run(device, [&sides[0], &sides[1]]);
            for t in 0..case.tokens {
                let errors = [0, 1].map(|i| sides[i].error(device, &logits[i], t));
                // The mean under p of log p_v - log q_v: the logits are off by `errors`, p's weights relatively by the
                // first, and a far q makes the terms large.
                let want = reference::kl(&logits[0], &logits[1], t);
                let error = errors[0] + errors[1] + errors[0] * (want.abs() + logits[1].magnitude[t] + logits[0].magnitude[t]);
                let off = (f64::from(got.kl[t]) - want).abs();
                prop_assert!(off <= BOUND * (1.0 + want) + error, "kl {} instead of {}, bound {}", got.kl[t], want, error);
                // Never negative beyond rounding.
                prop_assert!(f64::from(got.kl[t]) >= -BOUND - errors[0] - errors[1], "kl {}", got.kl[t]);
                for i in 0..2 {
                    let want = logits[i].entropy(t);
                    let off = (f64::from(got.entropy[i][t]) - want).abs();
                    prop_assert!(off <= (BOUND + errors[i]) * (1.0 + want), "entropy {} instead of {}", got.entropy[i][t], want);
                    let argmax = got.argmax[i][t] as usize;
                    let row = logits[i].row(t);
                    prop_assert!(row[argmax] >= row[logits[i].argmax(t)] - 2.0 * errors[i], "argmax {}", argmax);
                }
            }
        }
    });
}

/// Exactly 0 for equal sides.
fn equal_sides_have_no_divergence<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(64), |(case in cases())| {
        for device in devices {
            let [side, _] = case.sides(device);
            let output = run(device, [&side, &side]);
            prop_assert!(output.kl.iter().all(|&kl| kl == 0.0), "{:?}", output.kl);
            prop_assert_eq!(bits(&output.entropy[0]), bits(&output.entropy[1]));
            prop_assert_eq!(bits(&output.argmax[0]), bits(&output.argmax[1]));
        }
    });
}

/// A constant added to all logits of one side changes nothing.
fn a_constant_on_all_logits_changes_nothing<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    // Powers of two: exact in every dtype.
    let shift = prop::sample::select(&[-64.0_f32, -1.0, 0.5, 8.0, 256.0][..]);
    proptest!(trial.config(48), |(case in cases(), shift in shift, which in 0..2_usize)| {
        for device in devices {
            let mut sides = case.sides(device);
            sides[which].softcap = None;
            let before = run(device, [&sides[0], &sides[1]]);
            sides[which] = sides[which].shifted(shift);
            let logits = sides.each_ref().map(Side::logits);
            let after = run(device, [&sides[0], &sides[1]]);
            for t in 0..case.tokens {
                let errors = [0, 1].map(|i| sides[i].error(device, &logits[i], t));
                let kl = f64::from(before.kl[t]);
                let slack = errors[0] + errors[1] + errors[0] * (kl.abs() + logits[0].magnitude[t] + logits[1].magnitude[t]);
                prop_assert!((f64::from(after.kl[t]) - kl).abs() <= BOUND * (1.0 + kl) + 2.0 * slack);
                let entropy = f64::from(before.entropy[which][t]);
                let slack = 2.0 * (1.0 + entropy) * (BOUND + errors[which]);
                prop_assert!((f64::from(after.entropy[which][t]) - entropy).abs() <= slack);
            }
        }
    });
}

/// Small whole numbers have exact logits: the argmax is the first of equals, across tiles too.
fn argmax_is_the_first_of_equals<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(48), |(tokens in 1..6_usize, size in 1..4_usize, vocab in 1..3100_usize, seed in any::<u64>())| {
        let mut random = Random(seed);
        let mut whole = |len: usize| -> Vec<f32> { (0..len).map(|_| random.below(5) as f32 - 2.0).collect() };
        let sides = [(); 2].map(|()| Side {
            size,
            dtype: DType::BF16,
            softcap: None,
            hidden: whole(tokens * size),
            w: whole(vocab * size),
        });
        let logits = sides.each_ref().map(Side::logits);
        for device in devices {
            let got = run(device, [&sides[0], &sides[1]]);
            for t in 0..tokens {
                for (argmax, logits) in got.argmax.iter().zip(&logits) {
                    prop_assert_eq!(argmax[t] as usize, logits.argmax(t));
                }
            }
        }
    });
}

/// Two certain models: no divergence where they agree, their logits' full distance where they do not.
fn one_hot<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        for vocab in [2, 1024, 1025, 2600] {
            let side = |hot: usize, height: f32| {
                let mut w = vec![0.0; vocab];
                w[hot] = height;
                Side { size: 1, dtype: DType::F32, softcap: None, hidden: vec![1.0], w }
            };
            let (first, last) = (side(0, 1e4), side(vocab - 1, 3e4));
            let same = run(device, [&first, &side(0, 2e4)]);
            assert_eq!((same.kl[0], same.entropy[0][0], same.entropy[1][0]), (0.0, 0.0, 0.0));
            let apart = run(device, [&first, &last]);
            assert_eq!((apart.kl[0], apart.argmax[0][0], apart.argmax[1][0]), (3e4, 0.0, vocab as f32 - 1.0));
            let apart = run(device, [&last, &first]);
            assert_eq!((apart.kl[0], apart.argmax[0][0], apart.argmax[1][0]), (1e4, vocab as f32 - 1.0, 0.0));
        }
    }
}

/// Every logit of every row of a kernel's tile far below 0: a running maximum that starts at 0 would lose all of them.
fn logits_far_below_zero<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        for dtype in [DType::F32, DType::BF16] {
            let (tokens, size) = (150, 8);
            // Exact in bf16; logits are -128 (1, 2, 3) and -128 (3, 2, 1): each model is certain of its own entry.
            let side = |factors: [f32; 3]| Side {
                size,
                dtype,
                softcap: None,
                hidden: vec![-16.0; tokens * size],
                w: factors.iter().flat_map(|&factor| vec![factor; size]).collect(),
            };
            let got = run(device, [&side([1.0, 2.0, 3.0]), &side([3.0, 2.0, 1.0])]);
            for t in 0..tokens {
                assert_eq!(
                    (got.kl[t], got.argmax[0][t], got.argmax[1][t]),
                    (256.0, 0.0, 2.0),
                    "token {t} in {dtype:?}"
                );
                assert_eq!((got.entropy[0][t], got.entropy[1][t]), (0.0, 0.0), "token {t} in {dtype:?}");
            }
        }
    }
}

/// A token's results have the same bits whatever the other tokens are, and on any number of threads.
fn tokens_stand_alone<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    let pools = [1, 2, 3].map(pool);
    proptest!(trial.config(32), |(case in cases())| {
        for device in devices {
            let sides = case.sides(device);
            let [one, two, three] =
                pools.each_ref().map(|pool| pool.install(|| run(device, [&sides[0], &sides[1]]).bits()));
            prop_assert!(one == two && one == three, "threads matter");
            for t in (0..case.tokens).step_by(case.tokens / 12 + 1) {
                let [p, q] = sides.each_ref().map(|side| side.token(t));
                let alone = run(device, [&p, &q]).bits().map(|values| values[0]);
                prop_assert_eq!(alone, one.each_ref().map(|values| values[t]), "token {}", t);
            }
        }
    });
}

/// What `dw` holds before the backward pass adds to it.
fn before(side: &Side) -> Vec<f32> {
    Random(side.w.len() as u64).values(side.w.len(), 0.01)
}

/// Gradients of p's hidden states and unembedding, then of q's; the unembeddings' are added to [`before`].
fn backward<D: TestDevice>(device: &D, sides: [&Side; 2], coefficient: &[f32]) -> [[Vec<f32>; 2]; 2] {
    let matrix = |dtype, size: usize, values: &[f32]| {
        Tensor::from_slice(device, dtype, values.len() / size, size, values).unwrap()
    };
    let tensors =
        sides.map(|side| (matrix(DType::F32, side.size, &side.hidden), matrix(side.dtype, side.size, &side.w)));
    let side = |i: usize| KlSide { hidden: &tensors[i].0, w: &tensors[i].1, softcap: sides[i].softcap };
    let (output, normalizers) = device.linear_kl_forward(side(0), side(1)).unwrap();
    let coefficient = Tensor::from_slice(device, DType::F32, 1, coefficient.len(), coefficient).unwrap();
    // What is not written shows as NaN.
    let outputs = || {
        let garbage = sides.map(|side| matrix(DType::F32, side.size, &vec![f32::NAN; side.hidden.len()]));
        (garbage, sides.map(|side| matrix(DType::F32, side.size, &before(side))))
    };
    let ([mut dhidden_p, mut dhidden_q], [mut dw_p, mut dw_q]) = outputs();
    let (dp, dq) = (
        KlGradient { hidden: &mut dhidden_p, w: Some(&mut dw_p) },
        KlGradient { hidden: &mut dhidden_q, w: Some(&mut dw_q) },
    );
    let run = |dp, dq| {
        device.linear_kl_backward(side(0), side(1), &output.kl, &normalizers, &coefficient, dp, dq).unwrap();
    };
    run(Some(dp), Some(dq));
    // The same for one side alone, and without its unembedding.
    let ([mut alone_p, mut alone_q], [mut alone_dw, _]) = outputs();
    run(Some(KlGradient { hidden: &mut alone_p, w: Some(&mut alone_dw) }), None);
    run(None, Some(KlGradient { hidden: &mut alone_q, w: None }));
    let host = |tensor: &Tensor<D>| tensor.to_vec(device).unwrap();
    let gradients = [[host(&dhidden_p), host(&dw_p)], [host(&dhidden_q), host(&dw_q)]];
    assert_eq!(bits(&host(&alone_p)), bits(&gradients[0][0]), "p's gradient depends on what else is wanted");
    assert_eq!(bits(&host(&alone_dw)), bits(&gradients[0][1]), "p's gradient depends on what else is wanted");
    assert_eq!(bits(&host(&alone_q)), bits(&gradients[1][0]), "q's gradient depends on what else is wanted");
    gradients
}

/// Factors on the tokens' divergences, some of them 0.
fn coefficients(tokens: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(!seed);
    (0..tokens).map(|_| if random.below(6) == 0 { 0.0 } else { (random.normal() * 0.3) as f32 }).collect()
}

/// How far a logit's gradient may be off, relative to its terms: its logarithms are off by what the logits and their
/// normalizers are off, its probabilities relatively by the same.
fn terms_error<D: TestDevice>(device: &D, sides: [&Side; 2], references: [&reference::Side; 2]) -> f64 {
    let error = |i: usize| {
        let logits = &references[i].logits;
        (0..logits.tokens()).map(|t| sides[i].error(device, logits, t)).fold(0.0, f64::max)
    };
    // A gradient is itself a factor of a product.
    let factor = sides.iter().map(|side| device.roundoff(side.dtype)).fold(0.0, f64::max);
    // Finite even for logits of thousands in bf16: infinitely many times terms of 0 would be no number.
    (BOUND + factor + (4.0 * (error(0) + error(1))).exp_m1()).min(f64::MAX)
}

fn backward_equals_f64<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(96), |(case in cases())| {
        let [p, q] = case.sides(&devices[0]);
        let coefficient = coefficients(case.tokens, case.seed);
        let references = [p.reference(), q.reference()];
        let mut want = reference::backward(&references[0], &references[1], &widen(&coefficient));
        for (side, [_, dw]) in [&p, &q].into_iter().zip(&mut want) {
            dw.value.iter_mut().zip(before(side)).for_each(|(value, before)| *value += f64::from(before));
        }
        for device in devices {
            let terms = terms_error(device, [&p, &q], references.each_ref());
            let got = backward(device, [&p, &q], &coefficient);
            for (side, (got, want)) in ["p", "q"].into_iter().zip(got.iter().zip(&want)) {
                for (name, (got, want)) in ["dhidden", "dw"].into_iter().zip(got.iter().zip(want)) {
                    let bound = BOUND * norm(&want.value) + terms * norm(&want.absolute);
                    let error = distance(got, &want.value);
                    prop_assert!(error <= bound, "{} of {}: error {} of {}, bound {}", name, side, error, norm(&want.value), bound);
                }
            }
        }
    });
}

/// The reference's gradients are the slopes of its divergence along random directions.
fn reference_gradients_equal_central_differences(trial: &Trial<Cpu>) {
    let shape = (1..4_usize, 1..5_usize, 1..5_usize, 2..12_usize);
    let softcap = || prop::option::of(1.0_f32..10.0);
    proptest!(trial.config(64), |((tokens, size_p, size_q, vocab) in shape, cap_p in softcap(), cap_q in softcap(), seed in any::<u64>())| {
        let mut random = Random(seed);
        let mut normal = |len: usize| -> Vec<f64> { (0..len).map(|_| random.normal()).collect() };
        let lengths = [tokens * size_p, vocab * size_p, tokens * size_q, vocab * size_q];
        let (inputs, directions) = (lengths.map(&mut normal), lengths.map(&mut normal));
        let coefficient = normal(tokens);
        let sides = |[hidden_p, w_p, hidden_q, w_q]: [Vec<f64>; 4]| {
            [reference::Side::new(size_p, hidden_p, w_p, cap_p), reference::Side::new(size_q, hidden_q, w_q, cap_q)]
        };
        let loss = |inputs: [Vec<f64>; 4]| -> f64 {
            let [p, q] = sides(inputs);
            (0..tokens).map(|t| coefficient[t] * reference::kl(&p.logits, &q.logits, t)).sum()
        };
        let [p, q] = sides(inputs.clone());
        let gradients = reference::backward(&p, &q, &coefficient);
        for (which, (gradient, direction)) in gradients.as_flattened().iter().zip(&directions).enumerate() {
            let moved = |h: f64| {
                let mut inputs = inputs.clone();
                inputs[which].iter_mut().zip(direction).for_each(|(x, d)| *x += h * d);
                loss(inputs)
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

/// Exactly 0 for equal sides, and for tokens of no weight.
fn nothing_to_learn_gives_zero<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(32), |(case in cases())| {
        for device in devices {
            let [p, q] = case.sides(device);
            let coefficient = coefficients(case.tokens, case.seed);
            let equal = backward(device, [&p, &p], &coefficient);
            let weightless = backward(device, [&p, &q], &vec![0.0; case.tokens]);
            for (gradients, sides) in [(equal, [&p, &p]), (weightless, [&p, &q])] {
                for ([dhidden, dw], side) in gradients.iter().zip(sides) {
                    prop_assert!(dhidden.iter().all(|&g| g == 0.0));
                    prop_assert_eq!(bits(dw), bits(&before(side)));
                }
            }
        }
    });
}

/// The gradient of a constant feature is the sum of the logits' gradients: 0 for each token and side.
fn gradients_of_logits_sum_to_zero<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(48), |(case in cases())| {
        for device in devices {
            let sides = case.sides(device).map(|side| Side { softcap: None, ..side }.shifted(1.0));
            let [p, q] = sides.each_ref();
            let coefficient = coefficients(case.tokens, case.seed);
            let references = [p.reference(), q.reference()];
            let terms = terms_error(device, [p, q], references.each_ref());
            let want = reference::backward(&references[0], &references[1], &widen(&coefficient));
            let got = backward(device, [p, q], &coefficient);
            for (side, ([got, _], [want, _])) in [p, q].into_iter().zip(got.iter().zip(&want)) {
                for (i, &got) in got.iter().enumerate().skip(side.size - 1).step_by(side.size) {
                    prop_assert!(f64::from(got.abs()) <= terms * want.absolute[i], "{} of {}", got, want.absolute[i]);
                }
            }
        }
    });
}

/// A token's gradient has the same bits whatever the other tokens are, and all bytes are equal on any number of threads.
fn gradients_stand_alone<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    let pools = [1, 2, 3].map(pool);
    proptest!(trial.config(24), |(case in cases())| {
        for device in devices {
            let [p, q] = case.sides(device);
            let coefficient = coefficients(case.tokens, case.seed);
            let all_bits = |gradients: [[Vec<f32>; 2]; 2]| gradients.map(|side| side.map(|values| bits(&values)));
            let [one, two, three] = pools
                .each_ref()
                .map(|pool| pool.install(|| all_bits(backward(device, [&p, &q], &coefficient))));
            prop_assert!(one == two && one == three, "threads matter");
            for t in (0..case.tokens).step_by(case.tokens / 8 + 1) {
                let alone = all_bits(backward(device, [&p.token(t), &q.token(t)], &coefficient[t..t + 1]));
                for (side, (alone, together)) in [&p, &q].into_iter().zip(alone.iter().zip(&one)) {
                    prop_assert_eq!(&alone[0], &together[0][t * side.size..(t + 1) * side.size], "token {}", t);
                }
            }
        }
    });
}

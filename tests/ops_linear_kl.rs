//! KL divergence of two models' distributions against f64 loops, and its laws.

mod support;

use proptest::prelude::*;
use safedepth::device::{DType, Tensor};
use safedepth::ops::linear_kl::KlSide;
use support::device::TestDevice;
use support::reference_linear_ce::Logits;
use support::reference_linear_kl as reference;
use support::{Random, bits, config, pool, widen};

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
        Logits::new(self.size, &widen(&self.hidden), &widen(&self.w), self.softcap)
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
    let dtype = prop_oneof![2 => Just(DType::F32), 1 => Just(DType::BF16), 1 => Just(DType::F16)];
    let softcap = prop_oneof![2 => Just(None), 1 => (1.0_f32..50.0).prop_map(Some)];
    let spread = prop::sample::select(&[0.0, 0.1, 1.0, 1.0, 1.0, 10.0, 100.0, 3000.0][..]);
    (1..40_usize, dtype, softcap, spread).prop_map(|(size, dtype, softcap, spread)| Spec {
        size,
        dtype,
        softcap,
        spread,
    })
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

fn equals_f64<D: TestDevice>() {
    let devices = D::all();
    proptest!(config(96), |(case in cases())| {
        let sides = case.sides(&devices[0]);
        let logits = sides.each_ref().map(Side::logits);
        for device in &devices {
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
fn equal_sides_have_no_divergence<D: TestDevice>() {
    let devices = D::all();
    proptest!(config(64), |(case in cases())| {
        for device in &devices {
            let [side, _] = case.sides(device);
            let output = run(device, [&side, &side]);
            prop_assert!(output.kl.iter().all(|&kl| kl == 0.0), "{:?}", output.kl);
            prop_assert_eq!(bits(&output.entropy[0]), bits(&output.entropy[1]));
            prop_assert_eq!(bits(&output.argmax[0]), bits(&output.argmax[1]));
        }
    });
}

/// A constant added to all logits of one side changes nothing.
fn a_constant_on_all_logits_changes_nothing<D: TestDevice>() {
    let devices = D::all();
    // Powers of two: exact in every dtype.
    let shift = prop::sample::select(&[-64.0_f32, -1.0, 0.5, 8.0, 256.0][..]);
    proptest!(config(48), |(case in cases(), shift in shift, which in 0..2_usize)| {
        for device in &devices {
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
fn argmax_is_the_first_of_equals<D: TestDevice>() {
    let devices = D::all();
    proptest!(config(48), |(tokens in 1..6_usize, size in 1..4_usize, vocab in 1..3100_usize, seed in any::<u64>())| {
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
        for device in &devices {
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
fn one_hot<D: TestDevice>() {
    for device in D::all() {
        for vocab in [2, 1024, 1025, 2600] {
            let side = |hot: usize, height: f32| {
                let mut w = vec![0.0; vocab];
                w[hot] = height;
                Side { size: 1, dtype: DType::F32, softcap: None, hidden: vec![1.0], w }
            };
            let (first, last) = (side(0, 1e4), side(vocab - 1, 3e4));
            let same = run(&device, [&first, &side(0, 2e4)]);
            assert_eq!((same.kl[0], same.entropy[0][0], same.entropy[1][0]), (0.0, 0.0, 0.0));
            let apart = run(&device, [&first, &last]);
            assert_eq!((apart.kl[0], apart.argmax[0][0], apart.argmax[1][0]), (3e4, 0.0, vocab as f32 - 1.0));
            let apart = run(&device, [&last, &first]);
            assert_eq!((apart.kl[0], apart.argmax[0][0], apart.argmax[1][0]), (1e4, vocab as f32 - 1.0, 0.0));
        }
    }
}

/// A token's results have the same bits whatever the other tokens are, and on any number of threads.
fn tokens_stand_alone<D: TestDevice>() {
    let devices = D::all();
    let pools = [1, 2, 3].map(pool);
    proptest!(config(32), |(case in cases())| {
        for device in &devices {
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

on_every_device!(
    equals_f64,
    equal_sides_have_no_divergence,
    a_constant_on_all_logits_changes_nothing,
    argmax_is_the_first_of_equals,
    one_hot,
    tokens_stand_alone,
);

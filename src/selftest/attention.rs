//! Attention against f64 loops, the gradients' formulas against differences, and its laws.

use super::attention_cached::paged;
use super::device::pool;
use super::measure::{bits, distance, norm};
use super::reference::attention::{self as reference, Gradient};
use super::values::{Random, widen};
use super::{Law, TestDevice, Trial};
use crate::device::{Cpu, DType, Tensor};
use crate::ops::attention::{AttentionParams, PAGE, Paged, Ragged};
use proptest::prelude::*;

pub fn laws<D: TestDevice>() -> Vec<Law<D>> {
    law_table!("attention": equals_f64, outputs_are_means_of_values, rows_stand_alone, paged_equals_ragged, shared_pages_are_read_alike, pages_are_copied_whole, threads_do_not_matter, equal_keys_give_plain_means, a_key_alone_is_the_answer)
}

/// What needs no device.
pub fn laws_of_the_reference() -> Vec<Law<Cpu>> {
    law_table!("attention": gradients_are_derivatives)
}

/// Relative error of a whole output. Sums of n products in f32 are off by about sqrt(n) eps/2 in norm: 1e-6 at n = 256,
/// the largest head, and each row passes through an exponential of 2 ulp and a division.
const BOUND: f64 = 1e-5;

/// A score that is off by d changes its probability by the factor 1 + d, and f32 rounds a score to a few units in the
/// last place of the terms it is summed from.
fn score_error(magnitude: f64) -> f64 {
    4.0 * f64::from(f32::EPSILON) * magnitude
}

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub params: AttentionParams,
    pub lengths: Vec<usize>,
    /// Standard deviation of the scaled scores.
    pub spread: f64,
    pub seed: u64,
}

impl Case {
    pub fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }
}

/// q, k, v and the gradient of the output.
#[derive(Clone)]
pub(super) struct Inputs {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub dout: Vec<f32>,
}

impl Inputs {
    pub fn new(case: &Case) -> Self {
        let mut random = Random(case.seed);
        let q = case.rows() * case.params.num_heads * case.params.head_dim;
        let kv = case.rows() * case.params.num_key_value_heads * case.params.head_dim;
        let deviation = (case.spread / (f64::from(case.params.scale) * (case.params.head_dim as f64).sqrt())).sqrt();
        Self {
            q: random.values(q, deviation),
            k: random.values(kv, deviation),
            v: random.values(kv, 1.0),
            dout: random.values(q, 1.0),
        }
    }

    /// The rows of one sequence.
    fn sequence(&self, case: &Case, sequence: usize) -> Self {
        let first: usize = case.lengths[..sequence].iter().sum();
        let cut = |values: &[f32]| {
            let cols = values.len() / case.rows();
            values[first * cols..(first + case.lengths[sequence]) * cols].to_vec()
        };
        Self { q: cut(&self.q), k: cut(&self.k), v: cut(&self.v), dout: cut(&self.dout) }
    }
}

pub(super) fn offsets(lengths: &[usize]) -> Vec<u32> {
    let mut offsets = vec![0];
    for &length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length as u32);
    }
    offsets
}

fn ragged<D: TestDevice>(device: &D, lengths: &[usize]) -> Ragged<D> {
    Ragged {
        offsets: device.indices(&offsets(lengths)).unwrap(),
        count: lengths.len(),
        max_length: lengths.iter().copied().max().unwrap_or(0),
    }
}

struct Run<D: TestDevice> {
    q: Tensor<D>,
    k: Tensor<D>,
    v: Tensor<D>,
    out: Tensor<D>,
    lse: Tensor<D>,
}

/// Outputs start as NaN: what is not written shows.
pub(super) fn garbage<D: TestDevice>(device: &D, rows: usize, cols: usize) -> Tensor<D> {
    Tensor::from_slice(device, DType::F32, rows, cols, &vec![f32::NAN; rows * cols]).unwrap()
}

fn run<D: TestDevice>(device: &D, params: &AttentionParams, lengths: &[usize], inputs: &Inputs) -> Run<D> {
    let rows = lengths.iter().sum();
    let (q_cols, kv_cols) = (params.num_heads * params.head_dim, params.num_key_value_heads * params.head_dim);
    let input = |values: &[f32], cols| Tensor::from_slice(device, DType::F32, rows, cols, values).unwrap();
    let mut run = Run {
        q: input(&inputs.q, q_cols),
        k: input(&inputs.k, kv_cols),
        v: input(&inputs.v, kv_cols),
        out: garbage(device, rows, q_cols),
        lse: garbage(device, rows, params.num_heads),
    };
    let batch = ragged(device, lengths);
    device.attention(params, &batch, &run.q, &run.k, &run.v, &mut run.out, &mut run.lse).unwrap();
    run
}

pub(super) fn forward<D: TestDevice>(
    device: &D,
    params: &AttentionParams,
    lengths: &[usize],
    inputs: &Inputs,
) -> [Vec<f32>; 2] {
    let run = run(device, params, lengths, inputs);
    [run.out.to_vec(device).unwrap(), run.lse.to_vec(device).unwrap()]
}

fn backward<D: TestDevice>(device: &D, params: &AttentionParams, lengths: &[usize], inputs: &Inputs) -> [Vec<f32>; 3] {
    let Run { q, k, v, out, lse } = run(device, params, lengths, inputs);
    let dout = Tensor::from_slice(device, DType::F32, q.rows(), q.cols(), &inputs.dout).unwrap();
    let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|x| garbage(device, x.rows(), x.cols()));
    let batch = ragged(device, lengths);
    device.attention_backward(params, &batch, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv).unwrap();
    [dq, dk, dv].map(|gradient| gradient.to_vec(device).unwrap())
}

/// Lengths around the tiles' and blocks' edges.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        2 => 0..3_usize,
        6 => 1..40_usize,
        2 => prop::sample::select(&[31, 32, 33, 63, 64, 65, 127, 128, 129][..]),
        1 => 1..220_usize,
    ]
}

fn params() -> impl Strategy<Value = AttentionParams> {
    let heads =
        prop::sample::select(&[(1, 1), (2, 1), (3, 1), (2, 2), (3, 3), (4, 2), (6, 2), (9, 3), (8, 1), (35, 1)][..]);
    let head_dim = prop::sample::select(&[1, 2, 3, 7, 8, 15, 16, 20, 24, 33, 48, 64, 80, 128, 256][..]);
    let window = prop_oneof![
        4 => Just(None),
        1 => Just(Some(1)),
        2 => (2..40_usize).prop_map(Some),
        2 => prop::sample::select(&[63, 64, 65, 128][..]).prop_map(Some),
        1 => Just(Some(100_000)),
    ];
    let softcap = prop_oneof![2 => Just(None), 1 => (0.5_f32..60.0).prop_map(Some)];
    let scale = prop_oneof![2 => Just(None), 1 => (0.01_f32..2.0).prop_map(Some)];
    (heads, head_dim, window, softcap, scale).prop_map(
        |((num_heads, num_key_value_heads), head_dim, window, softcap, scale)| {
            let scale = scale.unwrap_or(1.0 / (head_dim as f32).sqrt());
            AttentionParams { num_heads, num_key_value_heads, head_dim, scale, softcap, window }
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let lengths = prop::collection::vec(length(), 1..5);
    let spread = prop::sample::select(&[0.0, 0.1, 1.0, 1.0, 1.0, 10.0, 100.0, 3000.0][..]);
    (params(), lengths, spread, any::<u64>()).prop_map(|(params, mut lengths, spread, seed)| {
        // The reference is slow: about 2^27 multiply-adds at most.
        let cost =
            |lengths: &[usize]| lengths.iter().map(|l| l * l).sum::<usize>() * params.num_heads * params.head_dim;
        while cost(&lengths) > 1 << 24 {
            lengths.iter_mut().for_each(|length| *length /= 2);
        }
        Case { params, lengths, spread, seed }
    })
}

/// Where terms cancel (P_ij is near 1, or a window holds one key), the error is relative to the terms.
fn check_gradient(name: &str, got: &[f32], want: &Gradient, magnitude: f64) -> Result<(), TestCaseError> {
    let terms = f64::from(f32::EPSILON) * (1.0 + magnitude) * norm(&want.absolute);
    let bound = BOUND * norm(&want.value) + terms;
    let error = distance(got, &want.value);
    prop_assert!(error <= bound, "{}: error {} of {}, bound {}", name, error, norm(&want.value), bound);
    Ok(())
}

fn equals_f64<D: TestDevice>(trial: &Trial<D>) {
    proptest!(trial.config(96), |(case in cases())| {
        against_f64(&trial.devices, &case)?;
    });
}

/// Outputs and gradients of every device.
pub(super) fn against_f64<D: TestDevice>(devices: &[D], case: &Case) -> Result<(), TestCaseError> {
    let inputs = Inputs::new(case);
    let [q, k, v, dout] = [&inputs.q, &inputs.k, &inputs.v, &inputs.dout].map(|x| widen(x));
    let want = reference::forward(&case.params, &case.lengths, &q, &k, &v);
    let gradients = reference::backward(&case.params, &case.lengths, &q, &k, &v, &dout);
    let error = score_error(want.magnitude);
    for device in devices {
        let [out, lse] = forward(device, &case.params, &case.lengths, &inputs);
        let bound = (BOUND + error) * norm(&want.out);
        prop_assert!(distance(&out, &want.out) <= bound, "out: {} > {}", distance(&out, &want.out), bound);
        for (got, want) in lse.iter().zip(&want.lse) {
            let bound = BOUND * (1.0 + want.abs()) + error;
            prop_assert!((f64::from(*got) - want).abs() <= bound, "lse: {} instead of {}", got, want);
        }
        let got = backward(device, &case.params, &case.lengths, &inputs);
        for (name, (got, gradient)) in ["dq", "dk", "dv"].iter().zip(got.iter().zip(&gradients)) {
            check_gradient(name, got, gradient, want.magnitude)?;
        }
    }
    Ok(())
}

/// The formulas of the reference's gradients: against central differences of its forward pass, in f64.
fn gradients_are_derivatives(trial: &Trial<Cpu>) {
    let small = (params(), prop::collection::vec(0..6_usize, 1..3), 0.1..3.0, any::<u64>());
    proptest!(trial.config(48), |((params, lengths, spread, seed) in small)| {
        let params = AttentionParams { head_dim: params.head_dim.min(5), ..params };
        let case = Case { params, lengths, spread, seed };
        let inputs = Inputs::new(&case);
        let dout = widen(&inputs.dout);
        let inputs = [widen(&inputs.q), widen(&inputs.k), widen(&inputs.v)];
        let loss = |[q, k, v]: &[Vec<f64>; 3]| -> f64 {
            let out = reference::forward(&case.params, &case.lengths, q, k, v).out;
            out.iter().zip(&dout).map(|(o, d)| o * d).sum()
        };
        let [q, k, v] = &inputs;
        let gradients = reference::backward(&case.params, &case.lengths, q, k, v, &dout);
        let mut random = Random(seed);
        for (which, gradient) in gradients.iter().enumerate() {
            // Along a random direction: every element takes part.
            let direction: Vec<f64> = gradient.value.iter().map(|_| random.normal()).collect();
            let moved = |h: f64| {
                let mut inputs = inputs.clone();
                inputs[which].iter_mut().zip(&direction).for_each(|(x, d)| *x += h * d);
                loss(&inputs)
            };
            // The difference is off by about h^2 third derivatives + 1e-16 / h.
            let h = 1e-5;
            let slope = (moved(h) - moved(-h)) / (2.0 * h);
            let product: f64 = gradient.value.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let scale = norm(&gradient.absolute) * norm(&direction);
            prop_assert!((slope - product).abs() <= 1e-7 * (1.0 + scale), "{} instead of {}", product, slope);
        }
    });
}

/// A convex combination: within the range of the values a query sees, and the value itself where all are equal.
fn outputs_are_means_of_values<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(48), |(case in cases(), value in -1e3_f32..1e3)| {
        let AttentionParams { num_heads, num_key_value_heads, head_dim, window, .. } = case.params;
        let inputs = Inputs::new(&case);
        let equal = Inputs { v: vec![value; inputs.v.len()], ..inputs.clone() };
        for device in devices {
            let [out, _] = forward(device, &case.params, &case.lengths, &inputs);
            let mut base = 0;
            for &length in &case.lengths {
                for i in 0..length {
                    let first = window.map_or(0, |window| (i + 1).saturating_sub(window));
                    for head in 0..num_heads {
                        let at = |row: usize| (row * num_key_value_heads + head / (num_heads / num_key_value_heads)) * head_dim;
                        for d in 0..head_dim {
                            let seen = (first..=i).map(|j| inputs.v[at(base + j) + d]);
                            let (low, high) = seen.fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(v), h.max(v)));
                            let out = out[((base + i) * num_heads + head) * head_dim + d];
                            // Rounding of a mean of up to 220 values.
                            let slack = 1e-5 * low.abs().max(high.abs());
                            prop_assert!((low - slack..=high + slack).contains(&out), "{} not in {}..{}", out, low, high);
                            if first == i {
                                prop_assert_eq!(out, low, "one key");
                            }
                        }
                    }
                }
                base += length;
            }
            let [out, _] = forward(device, &case.params, &case.lengths, &equal);
            prop_assert!(out.iter().all(|out| (out - value).abs() <= 1e-5 * value.abs()));
        }
    });
}

/// A row's bits depend neither on other sequences nor on later rows; nor do the gradients' on other sequences.
fn rows_stand_alone<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(64), |(case in cases(), cut in 0.0..1.0)| {
        let inputs = Inputs::new(&case);
        for device in devices {
            let [out, lse] = forward(device, &case.params, &case.lengths, &inputs);
            let gradients = backward(device, &case.params, &case.lengths, &inputs);
            let mut base = 0;
            for (sequence, &length) in case.lengths.iter().enumerate() {
                let same = |whole: &[f32], part: &[f32], rows: usize| {
                    let cols = whole.len() / case.rows();
                    bits(&whole[base * cols..(base + rows) * cols]) == bits(&part[..rows * cols])
                };
                if length > 0 {
                    let alone = inputs.sequence(&case, sequence);
                    let [out_alone, lse_alone] = forward(device, &case.params, &[length], &alone);
                    prop_assert!(same(&out, &out_alone, length) && same(&lse, &lse_alone, length), "other sequences");
                    for (whole, part) in gradients.iter().zip(backward(device, &case.params, &[length], &alone)) {
                        prop_assert!(same(whole, &part, length), "gradients and other sequences");
                    }
                    // Only the first rows; and others, huge, after them.
                    let kept = ((length as f64 * cut) as usize).max(1);
                    let mut changed = alone.clone();
                    for (values, factor) in [(&mut changed.q, 1e3), (&mut changed.k, -1e3), (&mut changed.v, 1e30)] {
                        let start = values.len() / length * kept;
                        values[start..].iter_mut().for_each(|value| *value *= factor);
                    }
                    let [out_changed, lse_changed] = forward(device, &case.params, &[length], &changed);
                    prop_assert!(same(&out, &out_changed, kept) && same(&lse, &lse_changed, kept), "later rows' values");
                    let cut = Case { lengths: vec![length], ..case.clone() };
                    let shorten = |values: &[f32]| values[..values.len() / cut.rows() * kept].to_vec();
                    let first = Inputs {
                        q: shorten(&alone.q),
                        k: shorten(&alone.k),
                        v: shorten(&alone.v),
                        dout: shorten(&alone.dout),
                    };
                    let [out_first, lse_first] = forward(device, &case.params, &[kept], &first);
                    prop_assert!(same(&out, &out_first, kept) && same(&lse, &lse_first, kept), "later rows");
                }
                base += length;
            }
        }
    });
}

/// However sequences are cut into chunks, wherever their pages lie, whatever the unused slots hold.
fn paged_equals_ragged<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(96), |(case in cases(), seed in any::<u64>())| {
        let inputs = Inputs::new(&case);
        let AttentionParams { num_key_value_heads: heads, head_dim, .. } = case.params;
        for device in devices {
            let [want, _] = forward(device, &case.params, &case.lengths, &inputs);
            let cached = paged(device, &case, &inputs, &mut Random(seed));
            prop_assert!(bits(&cached.out) == bits(&want), "outputs differ");
            // The cache holds each row in its slot, within a page head by head, and nothing else was touched.
            for (cache, rows) in cached.caches.iter().zip([&inputs.k, &inputs.v]) {
                let mut expected = vec![f32::NAN; cache.len()];
                let mut row = 0;
                for (table, &length) in cached.tables.iter().zip(&case.lengths) {
                    for position in 0..length {
                        for head in 0..heads {
                            let page = table[position / PAGE] as usize;
                            let slot = ((page * heads + head) * PAGE + position % PAGE) * head_dim;
                            let values = &rows[(row * heads + head) * head_dim..][..head_dim];
                            expected[slot..slot + head_dim].copy_from_slice(values);
                        }
                        row += 1;
                    }
                }
                prop_assert!(bits(cache) == bits(&expected), "the cache holds something else");
            }
        }
    });
}

/// Sequences that share the pages of a common prefix.
fn shared_pages_are_read_alike<D: TestDevice>(trial: &Trial<D>) {
    let params =
        AttentionParams { num_heads: 6, num_key_value_heads: 2, head_dim: 24, scale: 0.2, softcap: None, window: None };
    for device in &trial.devices {
        let case = Case { params, lengths: vec![40], spread: 1.0, seed: 5 };
        let inputs = Inputs::new(&case);
        let [want, _] = forward(device, &params, &[40], &inputs);
        let kv_cols = params.num_key_value_heads * params.head_dim;
        let q_cols = params.num_heads * params.head_dim;
        let mut caches = [garbage(device, 5, kv_cols * PAGE), garbage(device, 5, kv_cols * PAGE)];
        let rows = |values: &[f32], cols: usize, from: usize, to: usize| {
            Tensor::from_slice(device, DType::F32, to - from, cols, &values[from * cols..to * cols]).unwrap()
        };
        let batch = |starts: &[u32], lengths: &[usize], pages: &[u32]| Paged {
            offsets: device.indices(&offsets(lengths)).unwrap(),
            starts: device.indices(starts).unwrap(),
            pages: device.indices(pages).unwrap(),
            max_pages: 3,
            count: starts.len(),
        };
        let prefix = batch(&[0], &[37], &[4, 1, 2]);
        for (cache, values) in caches.iter_mut().zip([&inputs.k, &inputs.v]) {
            device.cache_write(&params, &prefix, &rows(values, kv_cols, 0, 37), cache).unwrap();
            // The page that is not full is copied for the second branch.
            device.cache_copy_page(cache, 2, 3).unwrap();
        }
        let branches = batch(&[37, 37], &[3, 3], &[4, 1, 2, 4, 1, 3]);
        let twice = |values: &[f32], cols: usize| {
            let once = &values[37 * cols..40 * cols];
            Tensor::from_slice(device, DType::F32, 6, cols, &[once, once].concat()).unwrap()
        };
        for (cache, values) in caches.iter_mut().zip([&inputs.k, &inputs.v]) {
            device.cache_write(&params, &branches, &twice(values, kv_cols), cache).unwrap();
        }
        let mut out = garbage(device, 6, q_cols);
        device
            .attention_paged(&params, &branches, &twice(&inputs.q, q_cols), &caches[0], &caches[1], &mut out)
            .unwrap();
        let out = out.to_vec(device).unwrap();
        let want = &want[37 * q_cols..];
        assert_eq!(bits(&out[..3 * q_cols]), bits(want), "the branch that kept the pages");
        assert_eq!(bits(&out[3 * q_cols..]), bits(want), "the branch that copied one");
    }
}

fn pages_are_copied_whole<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        let (pages, cols) = (5, 3 * PAGE * 7);
        let values = Random(1).values(pages * cols, 1.0);
        let mut cache = Tensor::from_slice(device, DType::F32, pages, cols, &values).unwrap();
        device.cache_copy_page(&mut cache, 3, 1).unwrap();
        let mut expected = values.clone();
        expected.copy_within(3 * cols..4 * cols, cols);
        assert_eq!(bits(&cache.to_vec(device).unwrap()), bits(&expected), "only page 1 changes");
        for grown in [5, 6, 40] {
            let grown = device.cache_grow(&cache, grown).unwrap();
            assert_eq!(grown.cols(), cols);
            assert_eq!(bits(&grown.to_vec(device).unwrap()[..pages * cols]), bits(&expected));
        }
    }
}

/// The same bits on any number of threads.
fn threads_do_not_matter<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    let pools = [1, 2, 3].map(pool);
    proptest!(trial.config(32), |(case in cases())| {
        let inputs = Inputs::new(&case);
        for device in devices {
            let [one, two, three] = pools.each_ref().map(|pool| pool.install(|| {
                let [out, lse] = forward(device, &case.params, &case.lengths, &inputs);
                let [dq, dk, dv] = backward(device, &case.params, &case.lengths, &inputs);
                let cached = paged(device, &case, &inputs, &mut Random(case.seed)).out;
                [out, lse, dq, dk, dv, cached].map(|values| bits(&values))
            }));
            prop_assert!(one == two && one == three);
        }
    });
}

/// Equal keys: every visible value counts the same.
fn equal_keys_give_plain_means<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        for window in [None, Some(1), Some(5), Some(64), Some(1000)] {
            let params = AttentionParams {
                num_heads: 2,
                num_key_value_heads: 1,
                head_dim: 20,
                scale: 1.0,
                softcap: None,
                window,
            };
            let case = Case { params, lengths: vec![150], spread: 1.0, seed: 9 };
            let mut inputs = Inputs::new(&case);
            let key = inputs.k[..20].to_vec();
            inputs.k.chunks_exact_mut(20).for_each(|k| k.copy_from_slice(&key));
            let [out, lse] = forward(device, &params, &[150], &inputs);
            for i in 0..150_usize {
                let first = window.map_or(0, |window| (i + 1).saturating_sub(window));
                let count = (i + 1 - first) as f64;
                for head in 0..2 {
                    let at = (i * 2 + head) * 20;
                    let want: Vec<f64> = (0..20)
                        .map(|d| (first..=i).map(|j| f64::from(inputs.v[j * 20 + d])).sum::<f64>() / count)
                        .collect();
                    let error = distance(&out[at..at + 20], &want);
                    assert!(error <= 1e-5 * norm(&want), "row {i}, window {window:?}: off by {error}");
                    let score: f64 = (0..20).map(|d| f64::from(inputs.q[at + d]) * f64::from(key[d])).sum();
                    assert!((f64::from(lse[i * 2 + head]) - score - count.ln()).abs() < 1e-4);
                }
            }
        }
    }
}

/// A query that sees one key alone, however unlikely: that key's value is the answer, and the score has no gradient.
/// Rows past the end of a tile must not be normalised by such a row: the exponential of its score's distance to 0 is inf.
fn a_key_alone_is_the_answer<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        for head_dim in [8, 64, 128, 256] {
            let params = AttentionParams {
                num_heads: 2,
                num_key_value_heads: 1,
                head_dim,
                scale: 1.0,
                softcap: None,
                window: None,
            };
            let lengths = [1, 1, 1];
            let case = Case { params, lengths: lengths.to_vec(), spread: 1.0, seed: 4 };
            let mut inputs = Inputs::new(&case);
            inputs.q.fill(16.0);
            inputs.k.fill(-300.0 / (16 * head_dim) as f32);
            let [out, lse] = forward(device, &params, &lengths, &inputs);
            assert!(lse.iter().all(|lse| (lse + 300.0).abs() < 1e-2), "{lse:?}");
            let [dq, dk, dv] = backward(device, &params, &lengths, &inputs);
            let close = |got: f32, want: f32| (got - want).abs() <= 1e-5 * (1.0 + want.abs());
            for row in 0..3 {
                for d in 0..head_dim {
                    let heads = [0, 1].map(|head| (row * 2 + head) * head_dim + d);
                    let at = row * head_dim + d;
                    assert!(heads.iter().all(|&head| close(out[head], inputs.v[at])), "out of row {row}");
                    let dout: f32 = heads.iter().map(|&head| inputs.dout[head]).sum();
                    assert!(close(dv[at], dout), "dv of row {row}: {} instead of {dout}", dv[at]);
                }
            }
            // Rounding of dout . v, which a key of 300 / (16 head_dim) and a query of 16 are multiplied by.
            let bound = 1e-5 * head_dim as f32;
            assert!(dq.iter().chain(&dk).all(|gradient| gradient.abs() <= 16.0 * bound), "scores have no gradient");
        }
    }
}

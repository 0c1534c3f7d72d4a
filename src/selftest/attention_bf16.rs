//! Attention of tensors of bf16 on tensor cores, which the CPU does not have: against f64 loops, and the laws that
//! `attention.rs` and `attention_long.rs` hold for f32.

use super::attention_long;
use super::measure::{bits, distance, norm};
use super::reference::attention::{self as reference, Gradient};
use super::values::{Random, widen};
use super::{Law, TestDevice, Trial};
use crate::device::{Cuda, DType, Tensor};
use crate::ops::attention::{AttentionParams, PAGE, Paged, Ragged};
use proptest::prelude::*;

pub fn laws() -> Vec<Law<Cuda>> {
    law_table!("attention_bf16": equals_f64, sequences_stand_alone, paged_equals_ragged, long_sequences, rows_beside_do_not_matter, a_key_alone_is_the_answer)
}

/// Relative error of a whole output: probabilities, their gradients and outputs are rounded to bf16, 2^-9 each.
const BOUND: f64 = 1e-2;

/// Of the log of the normalizer, which is made from f32 scores of exact products.
const LSE_BOUND: f64 = 1e-5;

#[derive(Clone, Debug)]
struct Case {
    params: AttentionParams,
    lengths: Vec<usize>,
    seed: u64,
}

/// q, k, v and the gradient of the output, as bf16 holds them.
struct Inputs {
    values: [Vec<f32>; 4],
}

impl Inputs {
    fn new<D: TestDevice>(device: &D, case: &Case) -> Self {
        let mut random = Random(case.seed);
        let AttentionParams { num_heads, num_key_value_heads, head_dim, .. } = case.params;
        let rows: usize = case.lengths.iter().sum();
        let values = [num_heads, num_key_value_heads, num_key_value_heads, num_heads].map(|heads| {
            let values = random.values(rows * heads * head_dim, 1.0);
            tensor(device, rows, heads * head_dim, &values).to_vec(device).unwrap()
        });
        Self { values }
    }

    /// Rows `range` of each.
    fn rows(&self, total: usize, range: std::ops::Range<usize>) -> Self {
        Self {
            values: self.values.each_ref().map(|values| {
                let cols = values.len() / total;
                values[range.start * cols..range.end * cols].to_vec()
            }),
        }
    }
}

fn tensor<D: TestDevice>(device: &D, rows: usize, cols: usize, values: &[f32]) -> Tensor<D> {
    Tensor::from_slice(device, DType::BF16, rows, cols, values).unwrap()
}

fn garbage<D: TestDevice>(device: &D, dtype: DType, rows: usize, cols: usize) -> Tensor<D> {
    Tensor::from_slice(device, dtype, rows, cols, &vec![f32::NAN; rows * cols]).unwrap()
}

fn offsets(lengths: &[usize]) -> Vec<u32> {
    let mut offsets = vec![0];
    for &length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length as u32);
    }
    offsets
}

/// out and lse, then dq, dk and dv.
fn run<D: TestDevice>(device: &D, params: &AttentionParams, lengths: &[usize], inputs: &Inputs) -> [Vec<f32>; 5] {
    let rows: usize = lengths.iter().sum();
    let (q_cols, kv_cols) = (params.num_heads * params.head_dim, params.num_key_value_heads * params.head_dim);
    let [q, k, v, dout] = &inputs.values;
    let [q, dout] = [q, dout].map(|values| tensor(device, rows, q_cols, values));
    let [k, v] = [k, v].map(|values| tensor(device, rows, kv_cols, values));
    let mut out = garbage(device, DType::BF16, rows, q_cols);
    let mut lse = garbage(device, DType::F32, rows, params.num_heads);
    let batch = Ragged {
        offsets: device.indices(&offsets(lengths)).unwrap(),
        count: lengths.len(),
        max_length: lengths.iter().copied().max().unwrap_or(0),
    };
    device.attention(params, &batch, &q, &k, &v, &mut out, &mut lse).unwrap();
    let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|x| garbage(device, DType::BF16, rows, x.cols()));
    device.attention_backward(params, &batch, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv).unwrap();
    [out, lse, dq, dk, dv].map(|result| result.to_vec(device).unwrap())
}

fn cases() -> impl Strategy<Value = Case> {
    let heads = prop::sample::select(&[(1, 1), (2, 1), (3, 3), (4, 2), (8, 1)][..]);
    let head_dim = prop::sample::select(&[8, 24, 64, 72, 128, 256][..]);
    let window = prop_oneof![2 => Just(None), 1 => (1..40_usize).prop_map(Some), 1 => Just(Some(64))];
    let softcap = prop_oneof![2 => Just(None), 1 => (0.5_f32..20.0).prop_map(Some)];
    let length = prop_oneof![1 => 0..2_usize, 4 => 2..50_usize, 2 => prop::sample::select(&[63, 64, 65, 129][..])];
    (heads, head_dim, window, softcap, prop::collection::vec(length, 1..4), any::<u64>()).prop_map(
        |((num_heads, num_key_value_heads), head_dim, window, softcap, lengths, seed)| {
            let scale = 1.0 / (head_dim as f32).sqrt();
            let params = AttentionParams { num_heads, num_key_value_heads, head_dim, scale, softcap, window };
            Case { params, lengths, seed }
        },
    )
}

/// Where terms cancel, the error is relative to the terms.
fn check_gradient(name: &str, got: &[f32], want: &Gradient) -> Result<(), TestCaseError> {
    let bound = BOUND * norm(&want.value) + norm(&want.absolute) / 256.0;
    let error = distance(got, &want.value);
    prop_assert!(error <= bound, "{}: error {} of {}, bound {}", name, error, norm(&want.value), bound);
    Ok(())
}

fn equals_f64<D: TestDevice>(trial: &Trial<D>) {
    proptest!(trial.config(96), |(case in cases())| {
        for device in &trial.devices {
            against_f64(device, &case)?;
        }
    });
}

fn against_f64<D: TestDevice>(device: &D, case: &Case) -> Result<(), TestCaseError> {
    let inputs = Inputs::new(device, case);
    let [q, k, v, dout] = inputs.values.each_ref().map(|x| widen(x));
    let want = reference::forward(&case.params, &case.lengths, &q, &k, &v);
    let gradients = reference::backward(&case.params, &case.lengths, &q, &k, &v, &dout);
    let [out, lse, dq, dk, dv] = run(device, &case.params, &case.lengths, &inputs);
    let error = distance(&out, &want.out);
    prop_assert!(error <= BOUND * norm(&want.out), "out: {} of {}", error, norm(&want.out));
    for (got, want) in lse.iter().zip(&want.lse) {
        let off = (f64::from(*got) - want).abs();
        prop_assert!(off <= LSE_BOUND * (1.0 + want.abs()), "lse: {} instead of {}", got, want);
    }
    for ((name, got), want) in [("dq", dq), ("dk", dk), ("dv", dv)].iter().zip(&gradients) {
        check_gradient(name, got, want)?;
    }
    Ok(())
}

/// A row's bits do not depend on other sequences; nor do the gradients'.
fn sequences_stand_alone<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(64), |(case in cases())| {
        for device in devices {
            let inputs = Inputs::new(device, &case);
            let together = run(device, &case.params, &case.lengths, &inputs);
            let total: usize = case.lengths.iter().sum();
            let mut first = 0;
            for &length in case.lengths.iter().filter(|&&length| length > 0) {
                let range = first..first + length;
                let alone = run(device, &case.params, &[length], &inputs.rows(total, range.clone()));
                for (alone, together) in alone.iter().zip(&together) {
                    let cols = together.len() / total;
                    prop_assert!(bits(alone) == bits(&together[range.start * cols..range.end * cols]));
                }
                first += length;
            }
        }
    });
}

/// A sequence's keys and values in caches whose pages lie backwards, beside garbage.
struct Cached<D: TestDevice> {
    caches: [Tensor<D>; 2],
    pages: Vec<u32>,
}

impl<D: TestDevice> Cached<D> {
    /// Those of rows `range` are written, the others garbage.
    fn new(device: &D, case: &Case, inputs: &Inputs, range: std::ops::Range<usize>) -> Self {
        let count = case.lengths[0].div_ceil(PAGE);
        let pages = (1..=count as u32).rev().collect();
        let kv_cols = case.params.num_key_value_heads * case.params.head_dim;
        let caches = [(); 2].map(|()| garbage(device, DType::BF16, count + 1, kv_cols * PAGE));
        let mut cached = Self { caches, pages };
        cached.write(device, case, inputs, range);
        cached
    }

    fn write(&mut self, device: &D, case: &Case, inputs: &Inputs, range: std::ops::Range<usize>) {
        let batch = self.batch(device, 1, range.len(), range.start);
        let rows = inputs.rows(case.lengths[0], range);
        for (cache, values) in self.caches.iter_mut().zip(&rows.values[1..]) {
            let cols = case.params.num_key_value_heads * case.params.head_dim;
            device
                .cache_write(&case.params, &batch, &tensor(device, values.len() / cols, cols, values), cache)
                .unwrap();
        }
    }

    /// `count` times the `rows` rows from `start` on.
    fn batch(&self, device: &D, count: usize, rows: usize, start: usize) -> Paged<D> {
        Paged {
            offsets: device.indices(&offsets(&vec![rows; count])).unwrap(),
            starts: device.indices(&vec![start as u32; count]).unwrap(),
            pages: device.indices(&self.pages.repeat(count)).unwrap(),
            max_pages: self.pages.len(),
            count,
        }
    }

    /// Attention of rows `range`, `count` times in one batch.
    fn attend(
        &self,
        device: &D,
        case: &Case,
        inputs: &Inputs,
        range: std::ops::Range<usize>,
        count: usize,
    ) -> Vec<f32> {
        let params = &case.params;
        let batch = self.batch(device, count, range.len(), range.start);
        let (rows, cols) = (count * range.len(), params.num_heads * params.head_dim);
        let q = inputs.rows(case.lengths[0], range).values[0].repeat(count);
        let mut out = garbage(device, DType::BF16, rows, cols);
        let q = tensor(device, rows, cols, &q);
        device.attention_paged(params, &batch, &q, &self.caches[0], &self.caches[1], &mut out).unwrap();
        out.to_vec(device).unwrap()
    }
}

/// One sequence through a cache, in two passes.
fn paged_equals_ragged<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(64), |(case in cases(), length in 1..150_usize, cut in 0.0..1.0)| {
        let case = Case { lengths: vec![length], ..case };
        let cut = (length as f64 * cut) as usize;
        for device in devices {
            let inputs = Inputs::new(device, &case);
            let [want, ..] = run(device, &case.params, &case.lengths, &inputs);
            let mut cached = Cached::new(device, &case, &inputs, 0..cut);
            let mut got = cached.attend(device, &case, &inputs, 0..cut, 1);
            cached.write(device, &case, &inputs, cut..length);
            got.extend(cached.attend(device, &case, &inputs, cut..length, 1));
            prop_assert!(bits(&got) == bits(&want), "outputs differ");
        }
    });
}

/// Several splits of keys (`attention_long.rs`): against f64, and a prefill's bits for a chunk in the middle and a decoded row.
fn long_sequences<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    let long = (cases(), attention_long::length(), attention_long::window(), 0.0..1.0);
    proptest!(trial.config(24), |((case, length, window, cut) in long)| {
        let case = Case { lengths: vec![length], params: AttentionParams { window, ..case.params }, ..case };
        for device in devices {
            against_f64(device, &case)?;
            let inputs = Inputs::new(device, &case);
            let [want, ..] = run(device, &case.params, &case.lengths, &inputs);
            let cached = Cached::new(device, &case, &inputs, 0..length);
            let cols = want.len() / length;
            let first = (length as f64 * cut) as usize;
            for range in [first..(first + 80).min(length), length - 1..length] {
                let got = cached.attend(device, &case, &inputs, range.clone(), 1);
                prop_assert!(bits(&got) == bits(&want[range.start * cols..range.end * cols]), "rows {range:?} differ");
            }
        }
    });
}

/// A decoded row alone, for which a GPU splits its keys between blocks, and one of so many that it does not (see
/// `attention_long.rs`).
fn rows_beside_do_not_matter<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        for (window, softcap) in [(None, None), (Some(300), Some(3.0))] {
            let params =
                AttentionParams { num_heads: 2, num_key_value_heads: 1, head_dim: 8, scale: 0.4, softcap, window };
            let case = Case { params, lengths: vec![1090], seed: 12 };
            let inputs = Inputs::new(device, &case);
            let [want, ..] = run(device, &params, &case.lengths, &inputs);
            let want = bits(&want[1089 * 16..]);
            let cached = Cached::new(device, &case, &inputs, 0..1090);
            for count in [1, attention_long::CROWD] {
                let out = cached.attend(device, &case, &inputs, 1089..1090, count);
                assert!(out.chunks_exact(16).all(|row| bits(row) == want), "{count} rows, window {window:?}");
            }
        }
    }
}

/// A query that sees one key alone, however unlikely: that key's value is the answer, and the score has no gradient
/// (see `attention.rs`).
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
            let mut inputs = Inputs::new(device, &Case { params, lengths: lengths.to_vec(), seed: 4 });
            let [q, k, v, dout] = &mut inputs.values;
            // Exact in bf16: scores of -256.
            q.fill(16.0);
            k.fill(-16.0 / head_dim as f32);
            let (v, dout) = (v.clone(), dout.clone());
            let [out, lse, dq, dk, dv] = run(device, &params, &lengths, &inputs);
            assert!(lse.iter().all(|lse| (lse + 256.0).abs() < 1e-2), "{lse:?}");
            let close = |got: f32, want: f32| (got - want).abs() <= BOUND as f32 * (1.0 + want.abs());
            for row in 0..3 {
                for d in 0..head_dim {
                    let heads = [0, 1].map(|head| (row * 2 + head) * head_dim + d);
                    let at = row * head_dim + d;
                    assert!(heads.iter().all(|&head| close(out[head], v[at])), "out of row {row}");
                    let want: f32 = heads.iter().map(|&head| dout[head]).sum();
                    assert!(close(dv[at], want), "dv of row {row}: {} instead of {want}", dv[at]);
                }
            }
            // Rounding of dout . v, whose terms are of size 1, times a query of 16.
            let bound = BOUND as f32 * (head_dim as f32).sqrt();
            assert!(dq.iter().chain(&dk).all(|gradient| gradient.abs() <= 16.0 * bound), "scores have no gradient");
        }
    }
}

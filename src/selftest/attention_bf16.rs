//! Attention of tensors of bf16 on tensor cores, which the CPU does not have: against f64 loops, and the laws that
//! `ops_attention.rs` holds for f32.

use super::measure::{bits, distance, norm};
use super::reference::attention::{self as reference, Gradient};
use super::values::{Random, widen};
use super::{Law, TestDevice, Trial};
use crate::device::{Cuda, DType, Tensor};
use crate::ops::attention::{AttentionParams, PAGE, Paged, Ragged};
use proptest::prelude::*;

pub fn laws() -> Vec<Law<Cuda>> {
    law_table!("attention_bf16": equals_f64, sequences_stand_alone, paged_equals_ragged, a_key_alone_is_the_answer)
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
    let devices = &trial.devices;
    proptest!(trial.config(96), |(case in cases())| {
        for device in devices {
            let inputs = Inputs::new(device, &case);
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
        }
    });
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

/// One sequence through a cache whose pages lie backwards, in two passes, beside garbage.
fn paged_equals_ragged<D: TestDevice>(trial: &Trial<D>) {
    let devices = &trial.devices;
    proptest!(trial.config(64), |(case in cases(), length in 1..150_usize, cut in 0.0..1.0)| {
        let case = Case { lengths: vec![length], ..case };
        let (params, cut) = (&case.params, (length as f64 * cut) as usize);
        let (q_cols, kv_cols) = (params.num_heads * params.head_dim, params.num_key_value_heads * params.head_dim);
        for device in devices {
            let inputs = Inputs::new(device, &case);
            let [want, ..] = run(device, params, &case.lengths, &inputs);
            let count = length.div_ceil(PAGE);
            let pages: Vec<u32> = (1..=count as u32).rev().collect();
            let mut caches = [(); 2].map(|()| garbage(device, DType::BF16, count + 1, kv_cols * PAGE));
            let mut got = Vec::new();
            for range in [0..cut, cut..length] {
                let batch = Paged {
                    offsets: device.indices(&[0, range.len() as u32]).unwrap(),
                    starts: device.indices(&[range.start as u32]).unwrap(),
                    pages: device.indices(&pages).unwrap(),
                    max_pages: count,
                    count: 1,
                };
                let Inputs { values: [q, k, v, _] } = inputs.rows(length, range.clone());
                for (cache, values) in caches.iter_mut().zip([k, v]) {
                    device.cache_write(params, &batch, &tensor(device, range.len(), kv_cols, &values), cache).unwrap();
                }
                let mut out = garbage(device, DType::BF16, range.len(), q_cols);
                let q = tensor(device, range.len(), q_cols, &q);
                device.attention_paged(params, &batch, &q, &caches[0], &caches[1], &mut out).unwrap();
                got.extend(out.to_vec(device).unwrap());
            }
            prop_assert!(bits(&got) == bits(&want), "outputs differ");
        }
    });
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

//! Attention over sequences of several splits (512 keys on a GPU, `kernels/attention.cuh`): the cases of `attention.rs` end
//! before the first.

use super::attention::{Case, Inputs, against_f64, forward, garbage, offsets};
use super::attention_cached::paged;
use super::measure::bits;
use super::values::Random;
use super::{Law, TestDevice, Trial};
use crate::device::{DType, Tensor};
use crate::ops::attention::{AttentionParams, PAGE, Paged};
use proptest::prelude::*;

pub fn laws<D: TestDevice>() -> Vec<Law<D>> {
    law_table!("attention_long": equals_f64, paged_equals_ragged, rows_beside_do_not_matter)
}

/// Lengths around the ends of splits, and windows that begin before, at and after them.
pub(super) fn length() -> impl Strategy<Value = usize> {
    prop::sample::select(&[511, 512, 513, 544, 600, 1023, 1025, 1090][..])
}

pub(super) fn window() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![
        2 => Just(None),
        1 => (1..1100_usize).prop_map(Some),
        1 => prop::sample::select(&[511, 512, 513, 576][..]).prop_map(Some),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let heads = prop::sample::select(&[(1, 1), (2, 1), (3, 1), (2, 2)][..]);
    let head_dim = prop::sample::select(&[4, 8, 20, 68, 132][..]);
    let softcap = prop_oneof![2 => Just(None), 1 => (0.5_f32..60.0).prop_map(Some)];
    let spread = prop::sample::select(&[0.1, 1.0, 10.0, 100.0][..]);
    (heads, head_dim, window(), softcap, length(), 0..3_usize, spread, any::<u64>()).prop_map(
        |((num_heads, num_key_value_heads), head_dim, window, softcap, length, second, spread, seed)| {
            let scale = 1.0 / (head_dim as f32).sqrt();
            // Large heads are slow to try: fewer rows.
            let length = if head_dim > 64 { length.min(600) } else { length };
            Case {
                params: AttentionParams { num_heads, num_key_value_heads, head_dim, scale, softcap, window },
                lengths: vec![second, length],
                spread,
                seed,
            }
        },
    )
}

fn equals_f64<D: TestDevice>(trial: &Trial<D>) {
    proptest!(trial.config(16), |(case in cases())| {
        against_f64(&trial.devices, &case)?;
    });
}

/// However a sequence is cut into chunks: prefill and decode close their sums at the same keys.
fn paged_equals_ragged<D: TestDevice>(trial: &Trial<D>) {
    proptest!(trial.config(16), |(case in cases(), seed in any::<u64>())| {
        let inputs = Inputs::new(&case);
        for device in &trial.devices {
            let [want, _] = forward(device, &case.params, &case.lengths, &inputs);
            let got = paged(device, &case, &inputs, &mut Random(seed));
            prop_assert!(bits(&got.out) == bits(&want), "outputs differ");
        }
    });
}

/// Rows decoded together, more than a GPU has multiprocessors.
pub(super) const CROWD: usize = 140;

/// A decoded row alone, for which a GPU splits its keys between blocks, and one of so many that it does not. The window leaves
/// out the first split.
fn rows_beside_do_not_matter<D: TestDevice>(trial: &Trial<D>) {
    const LENGTH: usize = 1090;
    for device in &trial.devices {
        for (window, softcap) in [(None, None), (Some(300), Some(3.0))] {
            let params =
                AttentionParams { num_heads: 2, num_key_value_heads: 1, head_dim: 8, scale: 0.4, softcap, window };
            let case = Case { params, lengths: vec![LENGTH], spread: 1.0, seed: 12 };
            let inputs = Inputs::new(&case);
            let [want, _] = forward(device, &params, &case.lengths, &inputs);
            let want = bits(&want[(LENGTH - 1) * 16..]);
            let max_pages = LENGTH.div_ceil(PAGE);
            let batch = |lengths: &[usize], start: usize| Paged {
                offsets: device.indices(&offsets(lengths)).unwrap(),
                starts: device.indices(&vec![start as u32; lengths.len()]).unwrap(),
                pages: device.indices(&(0..max_pages as u32).collect::<Vec<_>>().repeat(lengths.len())).unwrap(),
                max_pages,
                count: lengths.len(),
            };
            let caches = [&inputs.k, &inputs.v].map(|values| {
                let mut cache = garbage(device, max_pages, 8 * PAGE);
                let rows = Tensor::from_slice(device, DType::F32, LENGTH, 8, values).unwrap();
                device.cache_write(&params, &batch(&[LENGTH], 0), &rows, &mut cache).unwrap();
                cache
            });
            for count in [1, CROWD] {
                let row = inputs.q[(LENGTH - 1) * 16..].repeat(count);
                let q = Tensor::from_slice(device, DType::F32, count, 16, &row).unwrap();
                let mut out = garbage(device, count, 16);
                let batch = batch(&vec![1; count], LENGTH - 1);
                device.attention_paged(&params, &batch, &q, &caches[0], &caches[1], &mut out).unwrap();
                let out = out.to_vec(device).unwrap();
                assert!(out.chunks_exact(16).all(|row| bits(row) == want), "{count} rows, window {window:?}");
            }
        }
    }
}

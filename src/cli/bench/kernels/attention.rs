//! Attention: a sequence, its gradients, and decoding over the paged cache.

use super::operands::random;
use super::shapes::Shapes;
use super::timer::{Case, Timer};
use crate::Result;
use crate::device::{DType, Tensor};
use crate::ops::Ops;
use crate::ops::attention::{AttentionParams, PAGE, Paged, Ragged};

/// Rows of a decode step.
pub(super) const DECODED: usize = 16;

pub(super) fn params(shapes: &Shapes) -> AttentionParams {
    AttentionParams {
        num_heads: shapes.heads,
        num_key_value_heads: shapes.kv_heads,
        head_dim: shapes.head_dim,
        scale: (shapes.head_dim as f32).powf(-0.5),
        softcap: None,
        window: None,
    }
}

pub(super) fn time<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    let (device, t, branch) = (timer.device, timer.tokens, timer.branch(shapes));
    let params = params(shapes);
    let (q_cols, kv_cols) = (shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim);
    let ragged = Ragged { offsets: device.indices(&[0, t as u32])?, count: 1, max_length: t };
    let matrix = |cols: usize, seed| random(device, branch, t, cols, seed);
    let sequence = |seed: u64| -> Result<[Tensor<D>; 5]> {
        let (q, kv) = (matrix(q_cols, seed)?, [matrix(kv_cols, seed + 1)?, matrix(kv_cols, seed + 2)?]);
        let (out, lse) = (q.empty_like(device)?, Tensor::empty(device, DType::F32, t, shapes.heads)?);
        let [k, v] = kv;
        Ok([q, k, v, out, lse])
    };
    let case = |op, factor: f64| Case {
        op,
        shapes,
        shape: format!("1x{t} {}q {}kv d{}", shapes.heads, shapes.kv_heads, shapes.head_dim),
        // Causal: half of the t x t scores, two products of head_dim each.
        flop: factor * 4.0 * (t * (t + 1) / 2 * q_cols) as f64,
        bytes: 0.0,
    };
    // q, k, v and out; lse.
    let (tensors, lse_bytes) = (branch.size() * t * (2 * q_cols + 2 * kv_cols), size_of::<f32>() * t * shapes.heads);
    timer.time(
        Case { bytes: (tensors + lse_bytes) as f64, ..case("attention", 1.0) },
        sequence,
        |[q, k, v, out, lse]| device.attention(&params, &ragged, q, k, v, out, lse),
    )?;
    timer.time(
        // The same and dout; dq, dk, dv.
        Case { bytes: (2 * tensors + lse_bytes) as f64, ..case("attention_backward", 2.5) },
        |seed| {
            let [q, k, v, mut out, mut lse] = sequence(seed)?;
            device.attention(&params, &ragged, &q, &k, &v, &mut out, &mut lse)?;
            let gradients = [q.empty_like(device)?, k.empty_like(device)?, v.empty_like(device)?];
            Ok(([q, k, v, out, lse], matrix(q_cols, seed + 3)?, gradients))
        },
        |([q, k, v, out, lse], dout, [dq, dk, dv])| {
            device.attention_backward(&params, &ragged, q, k, v, out, lse, dout, dq, dk, dv)
        },
    )?;

    // Decoding: rows each at the end of t cached positions.
    let pages = t.div_ceil(PAGE);
    let cache_cols = shapes.kv_heads * PAGE * shapes.head_dim;
    let paged = Paged {
        offsets: device.indices(&(0..=DECODED as u32).collect::<Vec<_>>())?,
        starts: device.indices(&[t as u32 - 1; DECODED])?,
        pages: device.indices(&(0..(DECODED * pages) as u32).collect::<Vec<_>>())?,
        max_pages: pages,
        count: DECODED,
    };
    timer.time(
        Case {
            op: "attention_paged",
            shapes,
            shape: format!("{DECODED} rows at {t} keys"),
            flop: 4.0 * (DECODED * t * q_cols) as f64,
            bytes: (2 * branch.size() * DECODED * (t * kv_cols + q_cols)) as f64,
        },
        |seed| {
            let cache = |seed| random(device, branch, DECODED * pages, cache_cols, seed);
            let q = random(device, branch, DECODED, q_cols, seed)?;
            let out = q.empty_like(device)?;
            Ok((q, cache(seed + 1)?, cache(seed + 2)?, out))
        },
        |(q, cache_k, cache_v, out)| device.attention_paged(&params, &paged, q, cache_k, cache_v, out),
    )
}

//! What works on the whole vocabulary: embedding, cross-entropy, KL, sampling.

use super::operands::random;
use super::shapes::Shapes;
use super::timer::{Case, Timer};
use crate::Result;
use crate::device::{DType, Tensor};
use crate::ops::Ops;
use crate::ops::linear_ce::{CeGradient, CeOutput};
use crate::ops::linear_kl::KlSide;
use crate::ops::sampling::{SamplingParams, SamplingRow};
use std::cell::OnceCell;

/// Rows that are sampled.
const SAMPLED: usize = 16;

pub(super) fn time<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    unembedding(timer, shapes)?;
    sampling(timer, shapes)
}

fn unembedding<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    let (device, t, dtype) = (timer.device, timer.tokens, timer.dtype);
    let (size, vocab) = (shapes.hidden, shapes.vocab);
    let ids: Vec<u32> = (0..t as u32).map(|i| i * 7919 % vocab as u32).collect();
    let labels = device.indices(&ids)?;
    let hidden = |seed| random(device, DType::F32, t, size, seed);
    let unembedding = |seed| random(device, dtype, vocab, size, seed);
    let case = |op, flop: f64, bytes: usize| Case {
        op,
        shapes,
        shape: format!("{t}x{vocab}x{size}"),
        flop: flop * 2.0 * (t * vocab * size) as f64,
        bytes: bytes as f64,
    };
    // One table for all sets: each takes other rows of it.
    let table = OnceCell::new();
    timer.time(
        case("embedding", 0.0, (dtype.size() + 4) * t * size),
        |seed| {
            if table.get().is_none() {
                let _ = table.set(unembedding(1)?);
            }
            let moved: Vec<u32> = ids.iter().map(|id| (id + 97 * seed as u32) % vocab as u32).collect();
            Ok((device.indices(&moved)?, Tensor::empty(device, DType::F32, t, size)?))
        },
        |(ids, y)| device.embedding(ids, table.get().expect("made with the first set"), 1.0, y),
    )?;
    drop(table);
    let vector = || Tensor::empty(device, DType::F32, 1, t);
    let bytes = vocab * size * dtype.size() + 4 * t * size;
    timer.time(
        case("linear_ce", 1.0, bytes),
        |seed| Ok((hidden(seed)?, unembedding(seed + 1)?, [vector()?, vector()?])),
        |(hidden, w, [lse, logprob])| {
            let output = CeOutput { lse, logprob, entropy: None, rank: None, kept: None };
            device.linear_ce(hidden, w, None, &labels, output)
        },
    )?;
    timer.time(
        case("linear_kl", 2.0, 2 * bytes),
        |seed| Ok([(hidden(seed)?, unembedding(seed + 1)?), (hidden(seed + 2)?, unembedding(seed + 3)?)]),
        |[p, q]| {
            device.linear_kl(
                KlSide { hidden: &p.0, w: &p.1, softcap: None },
                KlSide { hidden: &q.0, w: &q.1, softcap: None },
            )?;
            Ok(())
        },
    )?;
    let coefficient = Tensor::from_slice(device, DType::F32, 1, t, &vec![1.0 / t as f32; t])?;
    timer.time(
        // dhidden is written, dw read and written, in f32.
        case("linear_ce_backward", 3.0, bytes + 4 * t * size + 8 * vocab * size),
        |seed| {
            let (hidden, w, mut lse, mut logprob) = (hidden(seed)?, unembedding(seed + 1)?, vector()?, vector()?);
            let output = CeOutput { lse: &mut lse, logprob: &mut logprob, entropy: None, rank: None, kept: None };
            device.linear_ce(&hidden, &w, None, &labels, output)?;
            let gradients = [hidden.empty_like(device)?, Tensor::zeros(device, DType::F32, vocab, size)?];
            Ok((hidden, w, lse, gradients))
        },
        |(hidden, w, lse, [dhidden, dw])| {
            let gradient = CeGradient { hidden: dhidden, w: Some(dw), accumulate: true };
            device.linear_ce_backward(hidden, w, None, &labels, lse, &coefficient, None, gradient)
        },
    )
}

fn sampling<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    let (device, vocab) = (timer.device, shapes.vocab);
    let params = SamplingParams { temperature: 0.9, top_k: 50, top_p: 0.6, repetition_penalty: 1.0 };
    let mut tokens = Vec::new();
    timer.time(
        Case {
            op: "sample",
            shapes,
            shape: format!("{SAMPLED}x{vocab}"),
            flop: 0.0,
            // Restored by a copy, then read once.
            bytes: (3 * 4 * SAMPLED * vocab) as f64,
        },
        |seed| {
            let original = random(device, DType::F32, SAMPLED, vocab, seed)?;
            let logits = original.empty_like(device)?;
            Ok((original, logits))
        },
        |(original, logits)| {
            device.copy(&original.buffer, &mut logits.buffer)?;
            device.sample(logits, |_| SamplingRow { params, history: &[], uniform: 0.5 }, &mut tokens)
        },
    )
}

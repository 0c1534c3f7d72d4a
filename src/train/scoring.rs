//! What a model thinks of given labels: for `score`, for the reference of the constrained objective, and for
//! experiments that weigh alternatives against each other.

use super::batch::{Example, TrainBatch};
use crate::Result;
use crate::device::{DType, Tensor};
use crate::model::Transformer;
use crate::model::passes::token_batches;
use crate::model::transformer::{Batch, Keep};
use crate::ops::Ops;
use crate::ops::linear_ce::CeOutput;

/// Tokens in one forward pass, about.
const BATCH_TOKENS: usize = 2048;

/// One number a label of one example, each in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelScores {
    /// Natural log of the label's probability.
    pub logprob: Vec<f32>,
    /// Entropy of the whole distribution, nats; empty unless asked for.
    pub entropy: Vec<f32>,
    /// Tokens more likely than the label; empty unless asked for.
    pub rank: Vec<u32>,
}

/// Scores the labels of every example; entropy and rank (a second pass over the vocabulary) only if `detailed`.
/// `progress(examples done)` is called after each batch.
pub fn score<D: Ops>(
    model: &Transformer<D>,
    examples: &[Example],
    detailed: bool,
    mut progress: impl FnMut(usize),
) -> Result<Vec<LabelScores>> {
    let device = &model.device;
    let mut scores = Vec::with_capacity(examples.len());
    for range in token_batches(examples.iter().map(|example| example.tokens.len()), BATCH_TOKENS) {
        let batch: Vec<&Example> = examples[range].iter().collect();
        let batch = TrainBatch::new(device, &batch)?;
        let count = batch.labels_len();
        let (logprob, entropy, rank) = label_scores(model, &batch.batch, &batch.rows, &batch.labels, count, detailed)?;
        let mut start = 0;
        for &count in &batch.counts {
            let range = start..start + count;
            scores.push(LabelScores {
                logprob: logprob[range.clone()].to_vec(),
                entropy: entropy.get(range.clone()).unwrap_or_default().to_vec(),
                rank: rank.get(range).unwrap_or_default().iter().map(|&rank| rank as u32).collect(),
            });
            start += count;
        }
        progress(scores.len());
    }
    Ok(scores)
}

/// Tokens that a model may go on with, at places of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alternatives {
    /// The sequence; not empty.
    pub tokens: Vec<u32>,
    /// Tokens of the sequence that are read first, at least 1, and the token whose probability after them is asked for.
    pub asked: Vec<(usize, u32)>,
}

/// Natural log of the probability of every token asked for, sequence by sequence, in order; a sequence is read once.
/// `progress(sequences done)` is called after each batch.
pub fn alternatives<D: Ops>(
    model: &Transformer<D>,
    sequences: &[Alternatives],
    mut progress: impl FnMut(usize),
) -> Result<Vec<Vec<f32>>> {
    let device = &model.device;
    let mut scores = Vec::with_capacity(sequences.len());
    for range in token_batches(sequences.iter().map(|sequence| sequence.tokens.len()), BATCH_TOKENS) {
        let sequences = &sequences[range];
        let (mut rows, mut labels, mut start) = (Vec::new(), Vec::new(), 0);
        for Alternatives { tokens, asked } in sequences {
            rows.extend(asked.iter().map(|(read, _)| (start + read - 1) as u32));
            labels.extend(asked.iter().map(|(_, token)| *token));
            start += tokens.len();
        }
        let mut logprob = Vec::new();
        if !rows.is_empty() {
            let tokens: Vec<&[u32]> = sequences.iter().map(|sequence| &sequence.tokens[..]).collect();
            let (batch, count) = (Batch::new(device, &tokens)?, rows.len());
            let (rows, labels) = (device.indices(&rows)?, device.indices(&labels)?);
            logprob = label_scores(model, &batch, &rows, &labels, count, false)?.0;
        }
        let mut logprob = logprob.into_iter();
        scores.extend(sequences.iter().map(|sequence| logprob.by_ref().take(sequence.asked.len()).collect()));
        progress(scores.len());
    }
    Ok(scores)
}

/// Log-probability, entropy and rank of a label after each of `count` rows of a batch; entropy and rank are empty unless
/// `detailed`.
fn label_scores<D: Ops>(
    model: &Transformer<D>,
    batch: &Batch<D>,
    rows: &D::Indices,
    labels: &D::Indices,
    count: usize,
    detailed: bool,
) -> Result<(Vec<f32>, Vec<f32>, Vec<f32>)> {
    let device = &model.device;
    let (hidden, _) = model.forward(batch, Keep::Nothing)?;
    let normed = model.final_norm(&hidden, rows, count)?;
    let vector = || Tensor::empty(device, DType::F32, 1, count);
    let (mut lse, mut logprob, mut entropy, mut rank) = (vector()?, vector()?, vector()?, vector()?);
    let output = CeOutput {
        lse: &mut lse,
        logprob: &mut logprob,
        entropy: detailed.then_some(&mut entropy),
        rank: detailed.then_some(&mut rank),
        kept: None,
    };
    let softcap = model.config.final_logit_softcapping;
    device.linear_ce(&normed, model.parameters.unembedding(), softcap, labels, output)?;
    let logprob = logprob.to_vec(device)?;
    let (entropy, rank) = if detailed { (entropy.to_vec(device)?, rank.to_vec(device)?) } else { Default::default() };
    Ok((logprob, entropy, rank))
}

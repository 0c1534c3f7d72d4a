//! What a model thinks of given labels: for `score`, and for the reference of the constrained objective.

use super::batch::{Example, TrainBatch};
use crate::Result;
use crate::device::{DType, Tensor};
use crate::model::Transformer;
use crate::model::passes::token_batches;
use crate::model::transformer::Keep;
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
        let (hidden, _) = model.forward(&batch.batch, Keep::Nothing)?;
        let normed = model.final_norm(&hidden, &batch.rows, count)?;
        let vector = || Tensor::empty(device, DType::F32, 1, count);
        let (mut lse, mut logprob, mut entropy, mut rank) = (vector()?, vector()?, vector()?, vector()?);
        let output = CeOutput {
            lse: &mut lse,
            logprob: &mut logprob,
            entropy: detailed.then_some(&mut entropy),
            rank: detailed.then_some(&mut rank),
        };
        let softcap = model.config.final_logit_softcapping;
        device.linear_ce(&normed, model.parameters.unembedding(), softcap, &batch.labels, output)?;
        let logprob = logprob.to_vec(device)?;
        let (entropy, rank) =
            if detailed { (entropy.to_vec(device)?, rank.to_vec(device)?) } else { Default::default() };
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

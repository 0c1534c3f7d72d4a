//! The gradient of the target's loss with respect to the suffix's one-hot tokens.

use super::Behaviour;
use crate::Result;
use crate::device::{DType, Tensor};
use crate::model::Transformer;
use crate::model::transformer::Keep;
use crate::ops::Ops;
use crate::ops::linear_ce::{CeGradient, CeOutput, room_for_kept};
use crate::train::Example;
use crate::train::batch::TrainBatch;

/// `dL/dx_i` for every suffix token i, `[suffix, hidden_size]`: L is the mean over behaviours of the mean loss of their
/// target's tokens, x_i the row looked up in the embedding table (before the scaling that Gemma gives it, and as an input
/// only: where the unembedding is the same table its part in L is no part of this).
///
/// Behaviours go through the model one by one: activations of one sequence are all that is kept.
pub fn of_rows<D: Ops>(model: &Transformer<D>, behaviours: &[Behaviour], suffix: &[u32]) -> Result<Vec<f32>> {
    let device = &model.device;
    let size = model.config.hidden_size;
    let mut sum = vec![0.0; suffix.len() * size];
    for behaviour in behaviours {
        let example = Example::new(&behaviour.prompt(suffix), &behaviour.target);
        let batch = TrainBatch::new(device, &[&example])?;
        let count = batch.labels_len();
        let (hidden, activations) = model.forward(&batch.batch, Keep::Everything)?;
        let normed = model.final_norm(&hidden, &batch.rows, count)?;
        let vector = || Tensor::empty(device, DType::F32, 1, count);
        let (mut lse, mut logprob) = (vector()?, vector()?);
        let mut kept = room_for_kept(device, count, model.config.vocab_size)?;
        let (lse_to, logprob_to) = (&mut lse, &mut logprob);
        let output = CeOutput { lse: lse_to, logprob: logprob_to, entropy: None, rank: None, kept: kept.as_mut() };
        let (unembedding, softcap) = (model.parameters.unembedding(), model.config.final_logit_softcapping);
        device.linear_ce(&normed, unembedding, softcap, &batch.labels, output)?;
        let mut coefficient = vector()?;
        device.fill(&mut coefficient.buffer, 1.0 / (count * behaviours.len()) as f32)?;
        let mut dnormed = normed.empty_like(device)?;
        let gradient = CeGradient { hidden: &mut dnormed, w: None, accumulate: false };
        let labels = &batch.labels;
        let kept = kept.as_mut();
        device.linear_ce_backward(&normed, unembedding, softcap, labels, &lse, &coefficient, kept, gradient)?;
        let dhidden = model.final_norm_backward(&hidden, &batch.rows, &dnormed, None)?;
        let drows = model.backward(&batch.batch, activations, dhidden, None)?.to_vec(device)?;
        let start = behaviour.suffix_start() * size;
        for (sum, d) in sum.iter_mut().zip(&drows[start..]) {
            *sum += d;
        }
    }
    Ok(sum)
}

/// `dL/d onehot_i[v] = <dL/dx_i, embedding_v>`, `[suffix, vocab_size]`, from [`of_rows`].
pub fn of_tokens<D: Ops>(model: &Transformer<D>, rows: &[f32]) -> Result<Vec<f32>> {
    let device = &model.device;
    let size = model.config.hidden_size;
    let rows = Tensor::from_slice(device, DType::F32, rows.len() / size, size, rows)?;
    let mut gradient = Tensor::empty(device, DType::F32, rows.rows(), model.config.vocab_size)?;
    device.linear(&rows, &model.parameters.embed_tokens, None, &mut gradient)?;
    gradient.to_vec(device)
}

//! Refusal-direction ablation (beyond the paper; Arditi et al. 2024, arXiv 2406.11717): one direction of the residual
//! stream, the mean over harmful prompts minus the mean over harmless ones at the prompt's last token, taken out of
//! every matrix that writes to the stream. No gradient step, no change of the prompt.
//!
//! Theirs picks layer and token by how seldom the ablated model refuses, among those that change harmless answers
//! little. Here the token is the prompt's last, and the layer the one whose ablation leaves the openings of harmful and
//! of harmless answers most likely, on prompts that the direction was not taken from.

use crate::Result;
use crate::device::{DType, Tensor};
use crate::model::passes::token_batches;
use crate::model::transformer::{Batch, Keep};
use crate::model::{Transformer, flops};
use crate::ops::Ops;
use crate::run::Cost;
use crate::train::{Example, scoring};
use rayon::prelude::*;

/// Tokens in one forward pass, about.
const BATCH_TOKENS: usize = 2048;

/// A direction of the residual stream, and where it is from.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// Layers before it: from 0, the embeddings, to the number of layers.
    pub layer: usize,
    /// Of length 1: `[hidden_size]`.
    pub unit: Vec<f64>,
}

/// An ablated model: from which layer, and on the development examples the mean log-probability of a token of each.
pub struct Candidate {
    pub layer: usize,
    pub harmful: Vec<f64>,
    pub harmless: Vec<f64>,
}

impl Candidate {
    /// What the layer is chosen by: the mean over harmful answers plus the mean over harmless ones.
    pub fn score(&self) -> f64 {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        mean(&self.harmful) + mean(&self.harmless)
    }
}

/// Means over prompts of the residual stream at their last token, before each layer and after the last:
/// `[layers + 1][hidden_size]`.
pub fn mean_residuals<D: Ops>(model: &Transformer<D>, prompts: &[&[u32]]) -> Result<Vec<Vec<f64>>> {
    let (device, hidden_size) = (&model.device, model.config.hidden_size);
    let mut sums = vec![vec![0.0; hidden_size]; model.config.num_hidden_layers + 1];
    for range in token_batches(prompts.iter().map(|prompt| prompt.len()), BATCH_TOKENS) {
        let prompts = &prompts[range];
        let batch = Batch::new(device, prompts)?;
        let mut end = 0;
        let last = prompts.iter().map(|prompt| {
            end += prompt.len() as u32;
            end - 1
        });
        let rows = device.indices(&last.collect::<Vec<u32>>())?;
        let (output, activations) = model.forward(&batch, Keep::LayerInputs)?;
        for (sum, stream) in sums.iter_mut().zip(activations.layer_inputs().chain([&output])) {
            let mut picked = Tensor::empty(device, DType::F32, prompts.len(), hidden_size)?;
            device.gather_rows(stream, &rows, &mut picked)?;
            for row in picked.to_vec(device)?.chunks_exact(hidden_size) {
                sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
    }
    sums.iter_mut().flatten().for_each(|sum| *sum /= prompts.len() as f64);
    Ok(sums)
}

/// The direction from harmless to harmful at each layer; none where the two do not differ, as where all prompts end
/// with the same token and no layer has been yet.
pub fn directions<D: Ops>(model: &Transformer<D>, harmful: &[&[u32]], harmless: &[&[u32]]) -> Result<Vec<Direction>> {
    let means = mean_residuals(model, harmful)?.into_iter().zip(mean_residuals(model, harmless)?);
    let directions = means.enumerate().filter_map(|(layer, (harmful, harmless))| {
        let difference: Vec<f64> = harmful.iter().zip(harmless).map(|(harmful, harmless)| harmful - harmless).collect();
        Some(Direction { layer, unit: unit(difference)? })
    });
    Ok(directions.collect())
}

/// The vector at length 1; none if it has none.
fn unit(mut vector: Vec<f64>) -> Option<Vec<f64>> {
    let norm = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    vector.iter_mut().for_each(|value| *value /= norm);
    (norm > 0.0 && norm.is_finite()).then_some(vector)
}

/// A copy of the model that cannot write `direction` (of length 1) to the residual stream: W' = W - r r^T W for the
/// embedding, the attention's output and the MLP's. A tied unembedding stays as it was, apart from the embedding.
pub fn ablate<D: Ops>(model: &Transformer<D>, direction: &[f64]) -> Result<Transformer<D>> {
    let mut model = model.try_clone()?;
    let Transformer { device, config, parameters } = &mut model;
    if config.tie_word_embeddings {
        let table = &parameters.embed_tokens;
        let mut copy = table.empty_like(device)?;
        device.copy(&table.buffer, &mut copy.buffer)?;
        parameters.lm_head = Some(copy);
        config.tie_word_embeddings = false;
    }
    project_rows(device, &mut parameters.embed_tokens, direction)?;
    for layer in &mut parameters.layers {
        // Gemma 2 scales what a branch writes, (w + offset) x / rms(x): there x must be free of r (w + offset).
        let before = |norm: Option<&Tensor<D>>| -> Result<Vec<f64>> {
            let Some(norm) = norm else { return Ok(direction.to_vec()) };
            let weight = norm.to_vec(device)?.into_iter().map(|weight| f64::from(weight + config.norm_offset));
            Ok(unit(weight.zip(direction).map(|(weight, r)| weight * r).collect()).unwrap_or_default())
        };
        let attention = before(config.post_norms.then_some(&layer.post_attention_layernorm))?;
        project_columns(device, &mut layer.o_proj.weight, &attention)?;
        if let Some(bias) = &mut layer.o_proj.bias {
            project_rows(device, bias, &attention)?;
        }
        let mlp = before(layer.post_feedforward_layernorm.as_ref())?;
        project_columns(device, &mut layer.down_proj, &mlp)?;
    }
    Ok(model)
}

/// Takes `direction` out of every row of `[rows, hidden_size]`.
fn project_rows<D: Ops>(device: &D, matrix: &mut Tensor<D>, direction: &[f64]) -> Result<()> {
    let mut values = matrix.to_vec(device)?;
    values.par_chunks_exact_mut(matrix.cols()).for_each(|row| {
        let along: f64 = row.iter().zip(direction).map(|(&value, r)| f64::from(value) * r).sum();
        row.iter_mut().zip(direction).for_each(|(value, r)| *value = (f64::from(*value) - along * r) as f32);
    });
    device.write(&mut matrix.buffer, &values)
}

/// Takes `direction` out of every column of `[hidden_size, cols]`; an empty one is in none.
fn project_columns<D: Ops>(device: &D, matrix: &mut Tensor<D>, direction: &[f64]) -> Result<()> {
    let mut values = matrix.to_vec(device)?;
    let cols = matrix.cols();
    let mut along = vec![0.0; cols];
    for (row, r) in values.chunks_exact(cols).zip(direction) {
        along.iter_mut().zip(row).for_each(|(along, &value)| *along += f64::from(value) * r);
    }
    for (row, r) in values.chunks_exact_mut(cols).zip(direction) {
        row.iter_mut().zip(&along).for_each(|(value, along)| *value = (f64::from(*value) - along * r) as f32);
    }
    device.write(&mut matrix.buffer, &values)
}

/// The model ablated along each direction in turn, scored on the development examples; with what that cost.
pub fn candidates<D: Ops>(
    model: &Transformer<D>,
    directions: &[Direction],
    harmful: &[Example],
    harmless: &[Example],
    mut progress: impl FnMut(usize),
) -> Result<(Vec<Candidate>, Cost)> {
    let mut candidates = Vec::new();
    let mut cost = Cost::default();
    for Direction { layer, unit } in directions {
        let ablated = ablate(model, unit)?;
        let mut means = |examples: &[Example]| -> Result<Vec<f64>> {
            cost += super::finetune::forward_cost(&model.config, examples);
            let mean = |scores: scoring::LabelScores| {
                scores.logprob.iter().map(|&logprob| f64::from(logprob)).sum::<f64>() / scores.logprob.len() as f64
            };
            Ok(scoring::score(&ablated, examples, false, |_| ())?.into_iter().map(mean).collect())
        };
        candidates.push(Candidate { layer: *layer, harmful: means(harmful)?, harmless: means(harmless)? });
        progress(candidates.len());
    }
    Ok((candidates, cost))
}

/// Cost of [`mean_residuals`].
pub fn residuals_cost<D: Ops>(model: &Transformer<D>, prompts: &[&[u32]]) -> Cost {
    let tokens: usize = prompts.iter().map(|prompt| prompt.len()).sum();
    let flops = flops::forward(&model.config, tokens, 0);
    Cost { forward_tokens: tokens as u64, unshared_tokens: tokens as u64, flops, ..Cost::default() }
}

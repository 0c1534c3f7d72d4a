//! The optimizer loop's one step: forward, loss, backward, clip, AdamW.

use super::batch::{Example, TrainBatch};
use super::objective::Objective;
use crate::Result;
use crate::device::cuda::nvtx;
use crate::device::{DType, Tensor};
use crate::model::transformer::{Activations, Keep};
use crate::model::{Parameters, Transformer};
use crate::ops::Ops;
use crate::ops::adamw::AdamWStep;
use crate::ops::linear_ce::{CeGradient, CeOutput, room_for_kept};

/// Optimizer settings; the defaults are the Hugging Face Trainer's.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Hyper {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// On matrices only: never on norms and biases.
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm; 0 turns clipping off.
    pub max_grad_norm: f32,
    /// Recompute activations in the backward pass instead of keeping them.
    pub recompute: bool,
    /// Matrices and their moments are bf16, rounded stochastically, without f32 masters: 10 bytes a parameter instead of
    /// 18 (or 16 in f32).
    pub bf16_optimizer: bool,
}

impl Default for Hyper {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            recompute: false,
            bf16_optimizer: false,
        }
    }
}

/// A share of the loss: examples whose labels are averaged together.
pub struct Group<'a> {
    pub examples: Vec<&'a Example>,
    /// log pi_aligned of every label, in order; empty where the objective needs none.
    pub reference: Vec<f32>,
    /// Factor on this group's mean (alpha and 1 - alpha of the recovery objective); 1 for plain training.
    pub weight: f32,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Weighted sum of the groups' mean losses.
    pub loss: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Tokens that went through the model.
    pub tokens: usize,
}

/// A model with its gradients and AdamW state.
pub struct Trainer<D: Ops> {
    pub model: Transformer<D>,
    pub hyper: Hyper,
    /// f32 copies of parameters that the model holds in a narrower type; `None` where the model's own are f32, or where
    /// [`Hyper::bf16_optimizer`] has none.
    pub masters: Parameters<Option<Tensor<D>>>,
    gradients: Parameters<Tensor<D>>,
    /// Whether the next backward pass overwrites the gradients of matrices: clearing them first would cost as much as
    /// reading them.
    fresh: bool,
    /// First moments.
    pub m: Parameters<Tensor<D>>,
    /// Second moments.
    pub v: Parameters<Tensor<D>>,
    /// Optimizer steps done.
    pub step: u32,
    workspace: Workspace<D>,
}

/// What a step fills anew, kept between steps so that a warm one allocates nothing.
struct Workspace<D: Ops> {
    batch: TrainBatch<D>,
    activations: Activations<D>,
    /// Log-probability of each label, and its factor on the gradient.
    logprobs: Vec<f32>,
    factors: Vec<f32>,
}

impl<D: Ops> Trainer<D> {
    /// Takes over a model whose parameters are owned (not mapped from a file): see [`Transformer::into_owned`]. With
    /// [`Hyper::bf16_optimizer`] its matrices are bf16.
    pub fn new(model: Transformer<D>, hyper: Hyper) -> Result<Self> {
        let device = model.device.clone();
        let mut sources = model.parameters.iter();
        let masters = Parameters::build(&model.config, |_, [rows, cols]| {
            let source = sources.next().expect("parameters are listed in one order");
            if source.dtype() == DType::F32 || hyper.bf16_optimizer {
                return Ok(None);
            }
            let mut master = Tensor::empty(&device, DType::F32, rows, cols)?;
            device.copy(&source.buffer, &mut master.buffer)?;
            Ok(Some(master))
        })?;
        drop(sources);
        let moments = || {
            let mut sources = model.parameters.iter();
            Parameters::build(&model.config, |_, [rows, cols]| {
                let source = sources.next().expect("parameters are listed in one order");
                let dtype = if hyper.bf16_optimizer { source.dtype() } else { DType::F32 };
                Tensor::zeros(&device, dtype, rows, cols)
            })
        };
        let (m, v) = (moments()?, moments()?);
        let workspace = Workspace {
            batch: TrainBatch::new(&device, &[])?,
            activations: Activations::default(),
            logprobs: Vec::new(),
            factors: Vec::new(),
        };
        Ok(Self {
            gradients: Parameters::zeros(&device, &model.config)?,
            fresh: false,
            m,
            v,
            model,
            hyper,
            masters,
            step: 0,
            workspace,
        })
    }

    /// One optimizer step at learning rate `lr` on all `groups`, `micro_batch` examples at a time.
    ///
    /// A group without labels contributes loss 0 and gradient 0.
    pub fn step(
        &mut self,
        groups: &[Group<'_>],
        objective: Objective,
        micro_batch: usize,
        lr: f32,
    ) -> Result<StepReport> {
        self.reset_gradients()?;
        let (mut loss, mut tokens) = (0.0, 0);
        for group in groups {
            let labels: usize = group.examples.iter().map(|example| example.labels()).sum();
            let denominator = objective.denominator(labels, group.examples.len());
            if denominator == 0 {
                continue;
            }
            let mut reference = group.reference.as_slice();
            for examples in group.examples.chunks(micro_batch.max(1)) {
                let labels: usize = examples.iter().map(|example| example.labels()).sum();
                let (own, rest) = reference.split_at(if objective.needs_reference() { labels } else { 0 });
                reference = rest;
                let factor = group.weight / denominator as f32;
                loss += self.accumulate(examples, own, objective, factor)?;
                tokens += examples.iter().map(|example| example.inputs().len()).sum::<usize>();
            }
        }
        let grad_norm = self.update(lr)?;
        Ok(StepReport { loss, grad_norm, tokens })
    }

    /// Gradients are 0 from here on.
    pub fn reset_gradients(&mut self) -> Result<()> {
        let device = &self.model.device;
        // A lookup adds to few rows of its table, which the unembedding overwrites first where it is the same; everything else
        // that backward passes only add to is a vector.
        if self.gradients.lm_head.is_some() {
            self.gradients.embed_tokens.zero(device)?;
        }
        self.gradients.iter_mut().filter(|gradient| gradient.rows() == 1).try_for_each(|vector| vector.zero(device))?;
        self.fresh = true;
        Ok(())
    }

    /// The gradients that [`Self::accumulate`] has summed since [`Self::reset_gradients`].
    pub fn gradients(&mut self) -> Result<&Parameters<Tensor<D>>> {
        if std::mem::take(&mut self.fresh) {
            self.gradients.zero(&self.model.device)?;
        }
        Ok(&self.gradients)
    }

    /// Adds `factor` times the gradient of the summed loss of `examples`; returns `factor` times that loss.
    pub fn accumulate(
        &mut self,
        examples: &[&Example],
        reference: &[f32],
        objective: Objective,
        factor: f32,
    ) -> Result<f64> {
        let model = &self.model;
        let device = &model.device;
        let Workspace { batch, activations, logprobs, factors } = &mut self.workspace;
        batch.refill(device, examples)?;
        let count = batch.labels_len();
        if count == 0 {
            return Ok(0.0);
        }
        let keep = if self.hyper.recompute { Keep::LayerInputs } else { Keep::Everything };
        let hidden = model.forward_into(&batch.batch, keep, activations)?;
        let normed = model.final_norm(&hidden, &batch.rows, count)?;
        let mut lse = Tensor::empty(device, DType::F32, 1, count)?;
        let mut logprob = Tensor::empty(device, DType::F32, 1, count)?;
        let unembedding = model.parameters.unembedding();
        let softcap = model.config.final_logit_softcapping;
        let mut kept = room_for_kept(device, count, model.config.vocab_size)?;
        let (lse_to, logprob_to) = (&mut lse, &mut logprob);
        let output = CeOutput { lse: lse_to, logprob: logprob_to, entropy: None, rank: None, kept: kept.as_mut() };
        device.linear_ce(&normed, unembedding, softcap, &batch.labels, output)?;

        logprobs.resize(count, 0.0);
        device.download(&logprob.buffer, logprobs)?;
        let loss = objective.evaluate(logprobs, reference, &batch.positions, &batch.counts, factors);
        factors.iter_mut().for_each(|value| *value *= factor);
        let coefficient = Tensor::from_slice(device, DType::F32, 1, count, factors)?;

        let accumulate = !std::mem::take(&mut self.fresh);
        let gradients = &mut self.gradients;
        let mut dnormed = normed.empty_like(device)?;
        let w = Some(gradients.unembedding_mut());
        let gradient = CeGradient { hidden: &mut dnormed, w, accumulate };
        let labels = &batch.labels;
        device.linear_ce_backward(
            &normed,
            unembedding,
            softcap,
            labels,
            &lse,
            &coefficient,
            kept.as_mut(),
            gradient,
        )?;
        let dhidden = model.final_norm_backward(&hidden, &batch.rows, &dnormed, Some(gradients))?;
        drop((hidden, normed, dnormed, kept));
        model.backward_from(&batch.batch, activations, dhidden, Some(gradients), accumulate)?;
        Ok(loss * f64::from(factor))
    }

    /// Norm of the gradient over all parameters.
    pub fn gradient_norm(&mut self) -> Result<f64> {
        let device = self.model.device.clone();
        let squares = self.gradients()?.iter().map(|gradient| device.sum_squares(gradient)).sum::<Result<f64>>()?;
        Ok(squares.sqrt())
    }

    /// Clips the gradients and applies AdamW; returns their norm before clipping.
    pub fn update(&mut self, lr: f32) -> Result<f64> {
        let _range = nvtx::range(c"optimizer");
        let norm = self.gradient_norm()?;
        let device = &self.model.device;
        let max_norm = f64::from(self.hyper.max_grad_norm);
        // clip_grad_norm_: the factor is max_norm / (norm + 1e-6), at most 1.
        let clip = if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        self.step += 1;
        let moments = self.m.iter_mut().zip(self.v.iter_mut());
        let parameters = self.model.parameters.iter_mut().zip(self.masters.iter_mut());
        let all = parameters.zip(self.gradients.iter()).zip(moments);
        for (stream, (((parameter, master), gradient), (m, v))) in (0..).zip(all) {
            let hyper = AdamWStep {
                lr,
                beta1: self.hyper.beta1,
                beta2: self.hyper.beta2,
                eps: self.hyper.eps,
                weight_decay: if gradient.rows() == 1 { 0.0 } else { self.hyper.weight_decay },
                step: self.step,
                grad_scale: clip as f32,
                stream,
            };
            match master {
                Some(master) => {
                    device.adamw(&hyper, gradient, master, m, v)?;
                    device.copy(&master.buffer, &mut parameter.buffer)?;
                }
                None => device.adamw(&hyper, gradient, parameter, m, v)?,
            }
        }
        Ok(norm)
    }
}

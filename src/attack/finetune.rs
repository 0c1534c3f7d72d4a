//! Fine-tuning attacks: a few gradient steps on given examples, by standard or by constrained fine-tuning (paper,
//! Section 4).

use super::Lab;
use crate::Result;
use crate::model::{Config, Transformer, flops};
use crate::ops::Ops;
use crate::run::{Console, Cost};
use crate::train::batch::epoch_order;
use crate::train::{BetaSchedule, Example, Objective, Part, Stage, StepReport, Trainer, scoring};
use serde::Serialize;

/// What a model is tuned on.
pub struct Tuning<'a> {
    /// Name in result files: `harmful`, or the benign task's.
    pub name: &'a str,
    pub examples: &'a [Example],
    pub stage: Stage,
}

/// How it is tuned: one column of the paper's tables.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Method {
    /// Name in result files.
    pub name: String,
    /// `None`: standard fine-tuning.
    pub betas: Option<BetaSchedule>,
    pub warmup: bool,
    /// Factor on the learning rate of the stage.
    pub rate: f32,
}

impl Method {
    /// Standard fine-tuning.
    pub fn sft(warmup: bool) -> Self {
        Self { name: if warmup { "sft+warmup" } else { "sft" }.into(), betas: None, warmup, rate: 1.0 }
    }

    /// Constrained fine-tuning.
    pub fn constrained(betas: BetaSchedule, warmup: bool) -> Self {
        let mut name = String::from(betas);
        if !warmup {
            name += " without warmup";
        }
        Self { name, betas: Some(betas), warmup, rate: 1.0 }
    }

    /// The same at `rate` times the stage's learning rate.
    pub fn at_rate(self, rate: f32) -> Self {
        let name = if rate == 1.0 { self.name } else { format!("{} at lr x{rate}", self.name) };
        Self { name, rate, ..self }
    }

    pub fn objective(&self) -> Objective {
        match self.betas {
            Some(betas) => Objective::Constrained { betas, floor: 0.0 },
            None => Objective::Sft,
        }
    }
}

/// log pi of every label of every example: the reference of the constrained objective, the same for every method.
pub fn reference<D: Ops>(lab: &Lab<'_>, model: &Transformer<D>, examples: &[Example]) -> Result<(Vec<Vec<f32>>, Cost)> {
    let bar = lab.console.bar("reference", examples.len());
    let scores = scoring::score(model, examples, false, |done| bar.set(done))?;
    Ok((scores.into_iter().map(|score| score.logprob).collect(), forward_cost(&model.config, examples)))
}

/// Tunes a copy of `start` (the trainer holds it afterwards), epoch after epoch in shuffled order. `reference` is only
/// read if the method needs one. `after(step, ...)` is called after each gradient step.
pub fn finetune<D: Ops>(
    lab: &Lab<'_>,
    trainer: &mut Trainer<D>,
    tuning: &Tuning<'_>,
    objective: Objective,
    reference: &[Vec<f32>],
    label: &str,
    after: impl FnMut(usize, &Trainer<D>) -> Result<()>,
) -> Result<Cost> {
    let Tuning { examples, stage, .. } = tuning;
    let batch_size = stage.batch_size.min(examples.len());
    let per_epoch = examples.len().div_ceil(batch_size.max(1)).max(1);
    let seed = lab.engine.seed;
    let batch = |step: usize| {
        let order = epoch_order(examples.len(), seed, (step / per_epoch) as u64);
        let first = step % per_epoch * batch_size;
        let picked = &order[first..(first + batch_size).min(examples.len())];
        let reference = if objective.needs_reference() {
            picked.iter().flat_map(|&i| reference[i].iter().copied()).collect()
        } else {
            Vec::new()
        };
        vec![Part { examples: picked.iter().map(|&i| examples[i].clone()).collect(), reference, weight: 1.0 }]
    };
    train(lab.console, label, trainer, stage, objective, lab.micro_batch, batch, after)
}

/// Runs a stage under a progress bar: `batch(step)` gives each step's parts, `after(step, ...)` is called after each.
#[allow(clippy::too_many_arguments)]
pub fn train<D: Ops>(
    console: Console,
    label: &str,
    trainer: &mut Trainer<D>,
    stage: &Stage,
    objective: Objective,
    micro_batch: usize,
    mut batch: impl FnMut(usize) -> Vec<Part>,
    mut after: impl FnMut(usize, &Trainer<D>) -> Result<()>,
) -> Result<Cost> {
    let bar = console.bar(label, stage.steps);
    let mut labels = 0;
    let counted = |step| {
        let parts = batch(step);
        labels += parts.iter().flat_map(|part| &part.examples).map(Example::labels).sum::<usize>();
        parts
    };
    let done = |step: usize, report: &StepReport, trainer: &Trainer<D>| {
        bar.set(step);
        bar.note(format!("loss {:.3}", report.loss));
        after(step, trainer)
    };
    let tokens = stage.run(trainer, objective, micro_batch, counted, done)?;
    Ok(training_cost(&trainer.model.config, tokens, labels))
}

/// Cost of scoring examples.
pub fn forward_cost(config: &Config, examples: &[Example]) -> Cost {
    let tokens: usize = examples.iter().map(|example| example.tokens.len()).sum();
    let labels: usize = examples.iter().map(Example::labels).sum();
    Cost {
        forward_tokens: tokens as u64,
        unshared_tokens: tokens as u64,
        flops: flops::forward(config, tokens, labels),
        ..Cost::default()
    }
}

/// Cost of training on `tokens` with `labels` of them learned: backward is twice forward.
pub fn training_cost(config: &Config, tokens: u64, labels: usize) -> Cost {
    Cost { trained_tokens: tokens, flops: 3.0 * flops::forward(config, tokens as usize, labels), ..Cost::default() }
}

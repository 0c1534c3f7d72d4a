//! A whole training run in memory: what the experiments do to a model, step by step.

use super::{Example, Hyper, Objective, Schedule, StepReport, Trainer};
use crate::ops::Ops;
use crate::train::trainer::Group;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How a model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub steps: usize,
    /// Examples a step.
    pub batch_size: usize,
    pub lr: f32,
    pub warmup_steps: usize,
    pub schedule: Schedule,
    pub hyper: Hyper,
}

/// A share of a step's examples; see [`Group`].
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub examples: Vec<Example>,
    /// log pi_aligned of every label, in order; empty where the objective needs none.
    pub reference: Vec<f32>,
    /// Factor on this part's mean loss.
    pub weight: f32,
}

impl Stage {
    /// Runs the stage: `batch(step)` gives each step's parts, `after(step, report, model)` is called after each with the
    /// number of steps done. Returns the tokens that were trained on.
    ///
    /// # Errors
    /// If the loss is no longer finite.
    pub fn run<D: Ops>(
        &self,
        trainer: &mut Trainer<D>,
        objective: Objective,
        micro_batch: usize,
        mut batch: impl FnMut(usize) -> Vec<Part>,
        mut after: impl FnMut(usize, &StepReport, &Trainer<D>) -> Result<()>,
    ) -> Result<u64> {
        let mut tokens = 0;
        for step in 0..self.steps {
            let parts = batch(step);
            let groups: Vec<Group<'_>> = parts
                .iter()
                .map(|Part { examples, reference, weight }| Group {
                    examples: examples.iter().collect(),
                    reference: reference.clone(),
                    weight: *weight,
                })
                .collect();
            let lr = self.lr * self.schedule.factor(step, self.warmup_steps, self.steps);
            let report = trainer.step(&groups, objective, micro_batch, lr)?;
            if !report.loss.is_finite() || !report.grad_norm.is_finite() {
                let words = format!("the loss is not finite at step {}: lower the learning rate", step + 1);
                return Err(Error::Device(words));
            }
            tokens += report.tokens as u64;
            after(step + 1, &report, trainer)?;
        }
        Ok(tokens)
    }
}

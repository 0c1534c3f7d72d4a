//! E4 and E4b, Figures 3 and 5: what fine-tuning changes, token by token and step by step. Harmful pairs (E4) and benign
//! tasks (E4b) alike, the first few positions carry the loss, the gradient and the change.

use crate::Result;
use crate::attack::finetune::{Tuning, finetune, forward_cost};
use crate::attack::{Branch, Case, Lab, Subject, respond};
use crate::judge::Outcome;
use crate::model::flops;
use crate::ops::Ops;
use crate::run::{Cost, Findings};
use crate::train::objective::constrained_token;
use crate::train::{BetaSchedule, Example, Objective, Trainer, scoring};
use serde::{Deserialize, Serialize};

use super::token_kl;

/// What is measured, beside the tuning itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Response positions of the curves.
    pub positions: usize,
    /// Examples of the gradient norms: each costs a forward and backward pass a position.
    pub gradient_examples: usize,
    /// Gradient steps after which the safety prompts are asked; 0 is before the first.
    pub asr_steps: Vec<usize>,
    /// Gradient steps after which the tuned model's own answers are measured against the aligned model.
    pub kl_steps: Vec<usize>,
}

/// Norm of the gradient, over all parameters, of the loss at each response position of one example: exact.
///
/// A loss at position t does not see later tokens, so each position is a forward and a backward pass over the sequence up
/// to it: `positions` passes an example, half as long on average.
pub fn gradient_norms<D: Ops>(trainer: &mut Trainer<D>, example: &Example, positions: usize) -> Result<Vec<f64>> {
    let mut norms = Vec::with_capacity(positions);
    for index in example.first_label..example.tokens.len().min(example.first_label + positions) {
        let one = Example { tokens: example.tokens[..=index].to_vec(), first_label: index, first_position: 1 };
        trainer.reset_gradients()?;
        trainer.accumulate(&[&one], &[], Objective::Sft, 1.0)?;
        norms.push(trainer.gradient_norm()?);
    }
    Ok(norms)
}

/// Tunes a copy of `start` and measures before, meanwhile and afterwards. Rows `EXPERIMENT,model,finetune,NAME...`: see
/// docs/results.md.
pub fn run<D: Ops>(
    lab: &Lab<'_>,
    experiment: &'static str,
    start: &Subject<'_, D>,
    tuning: &Tuning<'_>,
    cases: &[Case],
    measure: &Measure,
) -> Result<Findings> {
    let config = &start.model.config;
    let mut findings = Findings::default();
    let row = |setting: &str, k: usize, example: &str, metric: &str, value: f64| {
        lab.row(experiment, start.name, "finetune", setting, Some(k), example, metric, value)
    };
    let name = |i: usize| format!("{}-{i:04}", tuning.name);

    // Cross-entropy of the model before it is tuned.
    let before = scoring::score(start.model, tuning.examples, false, |_| ())?;
    findings.cost += forward_cost(config, tuning.examples);
    for (i, score) in before.iter().enumerate() {
        for (t, &logprob) in score.logprob.iter().take(measure.positions).enumerate() {
            let value = -f64::from(logprob);
            findings.rows.push(row(tuning.name, t + 1, &name(i), "cross_entropy", value));
        }
    }

    // Gradient norms, with the trainer that the tuning then goes on with.
    let mut trainer = Trainer::new(start.model.try_clone()?.into_owned(None)?, tuning.stage.hyper)?;
    let count = measure.gradient_examples.min(tuning.examples.len());
    let bar = lab.console.bar(format!("{experiment} gradient norms"), count);
    for (i, example) in tuning.examples[..count].iter().enumerate() {
        let norms = gradient_norms(&mut trainer, example, measure.positions)?;
        for (t, norm) in norms.into_iter().enumerate() {
            findings.rows.push(row(tuning.name, t + 1, &name(i), "grad_norm", norm));
            let tokens = example.first_label + t;
            let forward = flops::layers(config) * tokens as f64 + flops::vocabulary(config);
            findings.cost += Cost { trained_tokens: tokens as u64, flops: 3.0 * forward, ..Cost::default() };
        }
        bar.set(i + 1);
    }
    drop(bar);

    let branches: Vec<Branch<'_>> = cases
        .iter()
        .map(|case| Branch { setting: tuning.name.into(), ..Branch::plain(experiment, "finetune", case) })
        .collect();
    let look = |step: usize, trainer: &Trainer<D>, findings: &mut Findings| -> Result<()> {
        let (asked, measured) = (measure.asr_steps.contains(&step), measure.kl_steps.contains(&step));
        if !asked && !measured {
            return Ok(());
        }
        let tuned = Subject { name: start.name, model: &trainer.model, side: start.side };
        let (outcomes, cost) = respond(lab, &tuned, &branches, &format!("{experiment} answers after step {step}"))?;
        findings.cost += cost;
        if asked {
            for (case, outcome) in cases.iter().zip(&outcomes) {
                let Some(verdict) = outcome.verdict else { continue };
                let harmful = f64::from(u8::from(verdict.harmful()));
                let refused = f64::from(u8::from(verdict.whole == Outcome::Refused));
                findings.rows.push(row(tuning.name, step, &case.id, "harmful", harmful));
                findings.rows.push(row(tuning.name, step, &case.id, "refused", refused));
            }
        }
        if measured {
            let answered: Vec<_> = cases.iter().zip(&outcomes).filter(|(_, outcome)| !outcome.own.is_empty()).collect();
            let pairs: Vec<(&[u32], &[u32], &[u32])> = answered
                .iter()
                .map(|(case, outcome)| (case.prompt_for(start.side), case.prompt_for(start.side), &outcome.own[..]))
                .collect();
            let kl = token_kl::per_token(&trainer.model, start.model, &pairs, |_| ())?;
            findings.cost += token_kl::cost(start.model, &pairs);
            let setting = format!("{} step {step}", tuning.name);
            for ((case, _), tokens) in answered.iter().zip(kl) {
                for token in tokens.iter().take(measure.positions) {
                    findings.rows.push(row(&setting, token.position, &case.id, "kl", f64::from(token.kl)));
                }
            }
        }
        Ok(())
    };
    look(0, &trainer, &mut findings)?;
    let label = format!("{experiment} tuning on {}", tuning.name);
    let mut seen = Findings::default();
    let after = |step: usize, trainer: &Trainer<D>| look(step, trainer, &mut seen);
    let cost = finetune(lab, &mut trainer, tuning, Objective::Sft, &[], &label, after)?;
    findings.cost += cost;
    findings.cost += seen.cost;
    findings.rows.append(&mut seen.rows);

    // The weight w_t that the constrained objective would give each token after this tuning (Eq. 5).
    let after = scoring::score(&trainer.model, tuning.examples, false, |_| ())?;
    findings.cost += forward_cost(config, tuning.examples);
    for (i, (before, after)) in before.iter().zip(&after).enumerate() {
        for (t, (&before, &after)) in before.logprob.iter().zip(&after.logprob).take(measure.positions).enumerate() {
            let weight = constrained_token(BetaSchedule::Paper.at(t + 1), before, after).1;
            findings.rows.push(row(tuning.name, t + 1, &name(i), "weight", weight));
        }
    }
    Ok(findings)
}

//! E5 (Section 3): safety-recovery augmentation. The model learns to come back to a refusal from inside a harmful
//! answer, while a benign anchor holds its utility. E5b: its ablations over C and p (Tables 6 and 7).

use super::Materials;
use super::materials::{Anchor, Triplet};
use crate::Result;
use crate::attack::finetune::train;
use crate::attack::{Lab, Subject};
use crate::generate::Request;
use crate::model::{Transformer, flops};
use crate::ops::Ops;
use crate::rng::{self, Philox};
use crate::run::Cost;
use crate::train::batch::epoch_order;
use crate::train::{Example, Objective, Part, Stage, Trainer};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How recovery and anchor are averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// alpha times the token mean of recovery + (1 - alpha) times the token mean of the anchor, as the paper writes it.
    Paper,
    /// One token mean over both, as the reference implementation does: short refusals weigh far less.
    Reference,
}

/// Settings of the augmentation; the defaults are the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Augmentation {
    /// `batch_size` is the recovery examples a step.
    pub stage: Stage,
    /// Anchor examples a step: instructions with the aligned model's answers, and replay.
    pub anchor: usize,
    pub replay: usize,
    pub alpha: f32,
    /// p: the chance that h is prefilled at all.
    pub probability: f32,
    /// C: the deepest prefill, in tokens.
    pub max_prefill: usize,
    pub mix: Mix,
}

/// r after x and h_<=k: k = 0 with probability 1 - p, else uniform on 1..min(C, |h|). Only r is learned.
pub fn recovery_example(triplet: &Triplet, probability: f32, max_prefill: usize, draws: &mut Philox) -> Example {
    let deepest = max_prefill.min(triplet.harmful.len());
    let k = if draws.chance(probability) && deepest > 0 { 1 + draws.below(deepest) } else { 0 };
    let context = [&triplet.prompt[..], &triplet.harmful[..k]].concat();
    let mut example = Example::new(&context, &triplet.refusal);
    example.first_position = k + 1;
    example
}

/// The anchor's examples, with the original aligned model's answers where none is given. An answer that did not end
/// within the limit is left out: it would teach the model to break off.
pub fn distil<D: Ops>(lab: &Lab<'_>, aligned: &Subject<'_, D>, anchor: &[Anchor]) -> Result<(Vec<Example>, Cost)> {
    let stop = &lab.stop[aligned.side as usize];
    let request = |anchor: &Anchor| Request {
        example: anchor.key,
        setting: 0,
        sample: 0,
        prompt: anchor.prompt.clone(),
        prefill: 0,
        params: lab.params,
        max_new_tokens: lab.max_new_tokens,
        stop: stop.clone(),
    };
    let requests: Vec<Request> = anchor.iter().filter(|anchor| anchor.response.is_empty()).map(request).collect();
    let bar = lab.console.bar("anchor answers", requests.len());
    let (completions, stats) = lab.engine.generate(aligned.model, &requests, |step| bar.set(step.finished))?;
    let mut completions = completions.into_iter();
    let examples = anchor.iter().filter_map(|anchor| {
        let response = if anchor.response.is_empty() {
            let tokens = completions.next().expect("a completion a request").tokens;
            tokens.last().is_some_and(|last| stop.contains(last)).then_some(tokens)?
        } else {
            anchor.response.clone()
        };
        Some(Example::new(&anchor.prompt, &response))
    });
    let examples = examples.collect();
    let tokens = stats.prompt_tokens + stats.decoded_tokens;
    let flops = flops::forward(&aligned.model.config, tokens, stats.decoded_tokens + requests.len());
    let forward = tokens as u64;
    Ok((examples, Cost { forward_tokens: forward, unshared_tokens: forward, flops, ..Cost::default() }))
}

/// Draws without end from `count` things, epoch after epoch, each epoch shuffled.
pub(super) struct Cycle {
    count: usize,
    seed: u64,
    next: usize,
    order: Vec<usize>,
}

impl Cycle {
    pub(super) fn new(count: usize, seed: u64, name: &str) -> Self {
        Self { count, seed: seed ^ rng::stream([name]), next: 0, order: Vec::new() }
    }

    /// The next `count`; none where there is nothing to draw from.
    pub(super) fn take(&mut self, count: usize) -> Vec<usize> {
        let count = if self.count == 0 { 0 } else { count };
        (0..count)
            .map(|_| {
                if self.next.is_multiple_of(self.count) {
                    self.order = epoch_order(self.count, self.seed, (self.next / self.count) as u64);
                }
                self.next += 1;
                self.order[(self.next - 1) % self.count]
            })
            .collect()
    }
}

/// Augments a copy of the aligned model. `anchor` comes from [`distil`].
pub fn augment<D: Ops>(
    lab: &Lab<'_>,
    aligned: &Transformer<D>,
    materials: &Materials,
    anchor: &[Example],
    settings: &Augmentation,
    label: &str,
) -> Result<(Transformer<D>, Cost)> {
    let seed = lab.engine.seed;
    let mut draws = Philox::new(seed, rng::stream(["recovery prefills"]));
    let mut triplets = Cycle::new(materials.triplets.len(), seed, "recovery");
    let mut anchors = Cycle::new(anchor.len(), seed, "anchor");
    let mut replays = Cycle::new(materials.replay.len(), seed, "replay");
    let mut trainer = Trainer::new(aligned.try_clone()?.into_owned(None)?, settings.stage.hyper)?;
    let batch = |_| {
        let recovery: Vec<Example> = triplets
            .take(settings.stage.batch_size)
            .into_iter()
            .map(|i| recovery_example(&materials.triplets[i], settings.probability, settings.max_prefill, &mut draws))
            .collect();
        let held: Vec<Example> = anchors
            .take(settings.anchor)
            .into_iter()
            .map(|i| anchor[i].clone())
            .chain(replays.take(settings.replay).into_iter().map(|i| materials.replay[i].clone()))
            .collect();
        match settings.mix {
            Mix::Paper => vec![
                Part { examples: recovery, weight: settings.alpha, ..Part::default() },
                Part { examples: held, weight: 1.0 - settings.alpha, ..Part::default() },
            ],
            Mix::Reference => {
                vec![Part { examples: [recovery, held].concat(), weight: 1.0, ..Part::default() }]
            }
        }
    };
    let (stage, micro_batch) = (&settings.stage, lab.micro_batch);
    let cost = train(lab.console, label, &mut trainer, stage, Objective::Sft, micro_batch, batch, |_, _| Ok(()))?;
    Ok((trainer.model, cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_draws_its_depth_as_the_paper_says() {
        let triplet = Triplet { prompt: vec![1, 2], harmful: vec![10, 11, 12, 13], refusal: vec![20, 21] };
        let mut draws = Philox::new(3, 0);
        let mut depths = [0_usize; 5];
        for _ in 0..8000 {
            let example = recovery_example(&triplet, 0.5, 100, &mut draws);
            let k = example.first_position - 1;
            assert_eq!(example.tokens, [&[1, 2][..], &[10, 11, 12, 13][..k], &[20, 21]].concat());
            assert_eq!((example.first_label, example.labels()), (2 + k, 2));
            depths[k] += 1;
        }
        // k = 0 half of the time, the four others alike.
        assert!((3800..4200).contains(&depths[0]), "{depths:?}");
        assert!(depths[1..].iter().all(|count| (900..1100).contains(count)), "{depths:?}");
        // C cuts it.
        assert!((0..200).all(|_| recovery_example(&triplet, 1.0, 2, &mut draws).first_position <= 3));
    }

    #[test]
    fn a_cycle_visits_everything_once_an_epoch() {
        let mut cycle = Cycle::new(5, 1, "test");
        let mut first = cycle.take(3);
        first.extend(cycle.take(2));
        let second = cycle.take(5);
        assert_ne!(first, second);
        for mut epoch in [first, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, [0, 1, 2, 3, 4]);
        }
        assert!(Cycle::new(0, 1, "test").take(3).is_empty());
    }
}

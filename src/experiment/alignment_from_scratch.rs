//! Safety recovery during alignment from scratch (beyond the paper, whose authors name it as open: they augment a model
//! that is aligned already). By SFT, the base model is aligned on recovery examples in the place of plain refusals; by
//! DPO (Rafailov et al. 2023), the plainly aligned model learns to prefer the refusal to the rest of the harmful answer.

use super::augmentation::{Augmentation, Cycle, recovery_example};
use super::materials::{AlignmentData, Triplet};
use crate::Result;
use crate::attack::Lab;
use crate::attack::finetune::{self, train};
use crate::model::Transformer;
use crate::ops::Ops;
use crate::rng::{self, Philox};
use crate::run::Cost;
use crate::train::{Example, Objective, Part, Stage, Trainer};
use serde::Serialize;

/// How a base model is aligned with recovery; C and p are [`Augmentation`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AlignmentFromScratch {
    /// Plain alignment's: `batch_size` is two fifths recovery, two fifths benign answers, and the rest replay.
    pub sft: Stage,
    /// `batch_size` is pairs.
    pub dpo: Stage,
    /// beta of DPO.
    pub dpo_beta: f32,
}

/// A preference between two ways on from x and h_<=k, k drawn as [`recovery_example`] draws it: the refusal r over
/// h_>k and its end. Only what follows h_<=k is learned, in both.
pub fn recovery_pair(triplet: &Triplet, probability: f32, max_prefill: usize, draws: &mut Philox) -> [Example; 2] {
    let chosen = recovery_example(triplet, probability, max_prefill, draws);
    let k = chosen.first_position - 1;
    let end = triplet.refusal.last().copied();
    let rest: Vec<u32> = triplet.harmful[k..].iter().copied().chain(end).collect();
    let rejected = Example::new(&chosen.tokens[..chosen.first_label], &rest);
    let rejected = Example { first_position: chosen.first_position, ..rejected };
    [chosen, rejected]
}

/// Aligns a copy of the base model by SFT, one token mean over recovery and `data`.
pub fn by_sft<D: Ops>(
    lab: &Lab<'_>,
    base: &Transformer<D>,
    triplets: &[Triplet],
    data: &AlignmentData,
    augmentation: &Augmentation,
    stage: &Stage,
) -> Result<(Transformer<D>, Cost)> {
    let seed = lab.engine.seed;
    let mut draws = Philox::new(seed, rng::stream(["recovery from scratch"]));
    let mut recovery = Cycle::new(triplets.len(), seed, "recovery from scratch");
    let mut benign = Cycle::new(data.benign.len(), seed, "benign from scratch");
    let mut replay = Cycle::new(data.replay.len(), seed, "replay from scratch");
    let fifths = stage.batch_size * 2 / 5;
    let replayed = if data.replay.is_empty() { 0 } else { stage.batch_size - 2 * fifths };
    let batch = |_| {
        let recovery = recovery
            .take(fifths)
            .into_iter()
            .map(|i| recovery_example(&triplets[i], augmentation.probability, augmentation.max_prefill, &mut draws));
        let mut examples: Vec<Example> = recovery.collect();
        examples.extend(benign.take(stage.batch_size - fifths - replayed).into_iter().map(|i| data.benign[i].clone()));
        examples.extend(replay.take(replayed).into_iter().map(|i| data.replay[i].clone()));
        vec![Part { examples, weight: 1.0, ..Part::default() }]
    };
    let mut trainer = Trainer::new(base.try_clone()?.into_owned(None)?, stage.hyper)?;
    let (console, label, micro_batch) = (lab.console, "scratch by sft", lab.micro_batch);
    let cost = train(console, label, &mut trainer, stage, Objective::Sft, micro_batch, batch, |_, _| Ok(()))?;
    Ok((trainer.model, cost))
}

/// Tunes a copy of the plainly aligned model by DPO on one [`recovery_pair`] a triplet; the aligned model is the
/// reference.
pub fn by_dpo<D: Ops>(
    lab: &Lab<'_>,
    aligned: &Transformer<D>,
    triplets: &[Triplet],
    augmentation: &Augmentation,
    settings: &AlignmentFromScratch,
) -> Result<(Transformer<D>, Cost)> {
    let (seed, stage) = (lab.engine.seed, &settings.dpo);
    let mut draws = Philox::new(seed, rng::stream(["recovery pairs"]));
    let examples: Vec<Example> = triplets
        .iter()
        .flat_map(|triplet| recovery_pair(triplet, augmentation.probability, augmentation.max_prefill, &mut draws))
        .collect();
    let (reference, mut cost) = finetune::reference(lab, aligned, &examples)?;

    let mut pairs = Cycle::new(triplets.len(), seed, "recovery pairs");
    let batch = |_| {
        let picked: Vec<usize> = pairs.take(stage.batch_size).into_iter().flat_map(|i| [2 * i, 2 * i + 1]).collect();
        vec![Part {
            examples: picked.iter().map(|&i| examples[i].clone()).collect(),
            reference: picked.iter().flat_map(|&i| reference[i].iter().copied()).collect(),
            weight: 1.0,
        }]
    };
    let mut trainer = Trainer::new(aligned.try_clone()?.into_owned(None)?, stage.hyper)?;
    // The two of a pair go through the model together.
    let micro_batch = (lab.micro_batch / 2).max(1) * 2;
    let objective = Objective::Dpo { beta: settings.dpo_beta };
    let (console, label) = (lab.console, "scratch by dpo");
    cost += train(console, label, &mut trainer, stage, objective, micro_batch, batch, |_, _| Ok(()))?;
    Ok((trainer.model, cost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Both of a pair go on from the same context, with nothing of it learned; one with r, the other with h_>k.
        #[test]
        fn a_pair_parts_after_its_prefill(
            prompt in prop::collection::vec(0_u32..50, 1..6),
            harmful in prop::collection::vec(50_u32..90, 0..9),
            mut refusal in prop::collection::vec(90_u32..99, 1..5),
            probability in 0.0_f32..=1.0,
            max_prefill in 0_usize..12,
            seed in any::<u64>(),
        ) {
            const END: u32 = 100;
            refusal.push(END);
            let triplet = Triplet { prompt: prompt.clone(), harmful: harmful.clone(), refusal: refusal.clone() };
            let [chosen, rejected] = recovery_pair(&triplet, probability, max_prefill, &mut Philox::new(seed, 0));
            let k = chosen.first_position - 1;
            prop_assert!(k <= max_prefill.min(harmful.len()));
            let context = [&prompt[..], &harmful[..k]].concat();
            for example in [&chosen, &rejected] {
                prop_assert_eq!(&example.tokens[..example.first_label], &context[..]);
                prop_assert_eq!(example.first_position, k + 1);
            }
            prop_assert_eq!(&chosen.tokens[chosen.first_label..], &refusal[..]);
            prop_assert_eq!(&rejected.tokens[rejected.first_label..], &[&harmful[k..], &[END]].concat()[..]);
        }
    }
}

//! The experiments beyond the paper that make or change a model: each a cell for each model that is asked.

use super::Plan;
use crate::Result;
use crate::attack::{Branch, Side, Subject, prefill, refusal_direction, respond, rethinking};
use crate::experiment::alignment_from_scratch;
use crate::experiment::materials::{AlignmentData, Triplet};
use crate::model::Transformer;
use crate::ops::Ops;
use crate::run::{Cost, Findings, RunFolder};
use crate::train::Example;
use std::borrow::Cow;

/// Harmful prompts, and as many harmless ones, that the refusal direction is taken from, at most; and as many of each
/// that the layer is chosen on. Both are its authors' numbers.
const DIRECTION_PROMPTS: usize = 128;
const DEVELOPMENT_PROMPTS: usize = 32;
/// Tokens of an answer that the choice of the layer looks at.
const OPENING: usize = 16;

impl<D: Ops> Plan<'_, D> {
    /// What such an experiment asks of every model: the prefilling attack by depth (0: none), and benign instructions.
    pub(super) fn prefilled_and_benign(&self, experiment: &'static str) -> Vec<Branch<'_>> {
        let mut branches = prefill::branches(experiment, "", &self.materials.cases, &self.settings.depths);
        branches.extend(self.utility(experiment, "benign"));
        branches
    }

    /// What the base model was aligned on beside refusals, or, where that is not known, the utility anchor.
    fn alignment_data(&self, folder: &mut RunFolder, aligned: &Subject<'_, D>) -> Result<Cow<'_, AlignmentData>> {
        if !self.materials.alignment.benign.is_empty() {
            return Ok(Cow::Borrowed(&self.materials.alignment));
        }
        let benign = self.anchor(folder, aligned)?.to_vec();
        Ok(Cow::Owned(AlignmentData { benign, replay: self.materials.replay.clone() }))
    }

    /// Alignment with recovery examples from the start, by SFT and by DPO. Rows as [`Self::prefilled_and_benign`] asks,
    /// of the models `scratch-sft` and `scratch-dpo`; those of the aligned and the augmented model stand beside them.
    pub(super) fn alignment_from_scratch(&self, folder: &mut RunFolder, aligned: &Subject<'_, D>) -> Result<()> {
        if !self.asked(&["scratch"]) {
            return Ok(());
        }
        self.needs("scratch", "recovery triplets and benign instructions", !self.can_augment())?;
        let triplets = &self.materials.triplets;
        let (augmentation, settings) = (&self.settings.augmentation, &self.settings.scratch);
        let evaluate = |name: &str, made: Result<(Transformer<D>, Cost)>| {
            let (model, cost) = made?;
            let subject = Subject { name, model: &model, side: Side::Aligned };
            let (mut findings, _) = self.answers(&subject, &self.prefilled_and_benign("scratch"), name)?;
            findings.cost += cost;
            Ok(findings)
        };
        let cell = self.cell_name("scratch by sft");
        if !folder.is_done(&cell) {
            let data = self.alignment_data(folder, aligned)?;
            folder.cell(&cell, || {
                let made =
                    alignment_from_scratch::by_sft(&self.lab, self.base, triplets, &data, augmentation, &settings.sft);
                evaluate("scratch-sft", made)
            })?;
        }
        folder.cell(&self.cell_name("scratch by dpo"), || {
            let made = alignment_from_scratch::by_dpo(&self.lab, self.aligned, triplets, augmentation, settings);
            evaluate("scratch-dpo", made)
        })?;
        Ok(())
    }

    /// What is asked of a model before and after its refusal direction is ablated.
    pub(super) fn ablation_branches(&self, setting: &str) -> Vec<Branch<'_>> {
        let cases = self.materials.cases.iter().chain(&self.materials.benign);
        let branch = |case| Branch { setting: setting.into(), ..Branch::plain("ablation", "ablation", case) };
        cases.map(branch).collect()
    }

    /// The cell of the ablation of a model's refusal direction; none where it is not asked for.
    pub(super) fn ablation_cell(&self, model: &str) -> Option<String> {
        self.asked(&["ablation"]).then(|| self.cell_name(&format!("ablation {model}")))
    }

    /// Refusal-direction ablation of a model, on training prompts alone until it is asked. Rows
    /// `ablation,model,ablation,ablated,,seed,example,harmful|...|utility`, and of the choice of the layer
    /// `ablation,model,none,harmful answers|harmless answers,LAYER,seed,example,logprob`.
    pub(super) fn ablation(
        &self,
        folder: &mut RunFolder,
        subject: &Subject<'_, D>,
        aligned: &Subject<'_, D>,
    ) -> Result<()> {
        let Some(cell) = self.ablation_cell(subject.name) else { return Ok(()) };
        if folder.is_done(&cell) {
            return Ok(());
        }
        let triplets = &self.materials.triplets;
        self.needs("ablation", "two recovery triplets or more, and benign instructions", triplets.len() < 2)?;
        let data = self.alignment_data(folder, aligned)?;
        let benign = &data.benign;
        self.needs("ablation", "two benign instructions or more", benign.len() < 2)?;
        folder.cell(&cell, || {
            // The last of each choose the layer, others give the direction.
            let split = |count: usize| count - DEVELOPMENT_PROMPTS.min((count / 4).max(1));
            let (harmful, chosen_on) = triplets.split_at(split(triplets.len()));
            let (harmless, unharmed) = benign.split_at(split(benign.len()));
            let count = DIRECTION_PROMPTS.min(harmful.len()).min(harmless.len());
            let harmful: Vec<&[u32]> = harmful[..count].iter().map(|triplet| &triplet.prompt[..]).collect();
            let harmless: Vec<&[u32]> =
                harmless[..count].iter().map(|example| &example.tokens[..example.first_label]).collect();
            let opening = |example: Example| {
                let length = example.first_label + OPENING;
                example.truncate(length)
            };
            let of_triplet = |triplet: &Triplet| opening(Example::new(&triplet.prompt, &triplet.harmful));
            let chosen_on: Vec<Example> = chosen_on.iter().map(of_triplet).collect();
            let unharmed: Vec<Example> = unharmed.iter().take(DEVELOPMENT_PROMPTS).cloned().map(opening).collect();

            let directions = refusal_direction::directions(subject.model, &harmful, &harmless)?;
            let mut cost = refusal_direction::residuals_cost(subject.model, &[harmful, harmless].concat());
            let bar = self.lab.console.bar(&cell, directions.len());
            let (candidates, scored) =
                refusal_direction::candidates(subject.model, &directions, &chosen_on, &unharmed, |done| bar.set(done))?;
            drop(bar);
            cost += scored;
            let best = (0..candidates.len()).max_by(|&a, &b| candidates[a].score().total_cmp(&candidates[b].score()));
            let Some(best) = best else {
                return Ok(Findings { cost, ..Findings::default() });
            };
            let ablated = refusal_direction::ablate(subject.model, &directions[best].unit)?;
            let ablated = Subject { name: subject.name, model: &ablated, side: subject.side };
            let (mut findings, _) = self.answers(&ablated, &self.ablation_branches("ablated"), &cell)?;
            findings.cost += cost;
            for candidate in &candidates {
                for (setting, values) in
                    [("harmful answers", &candidate.harmful), ("harmless answers", &candidate.harmless)]
                {
                    findings.rows.extend(values.iter().enumerate().map(|(i, &value)| {
                        let (layer, example) = (Some(candidate.layer), format!("{setting}-{i:02}"));
                        self.lab.row("ablation", subject.name, "none", setting, layer, &example, "logprob", value)
                    }));
                }
            }
            Ok(findings)
        })?;
        Ok(())
    }

    /// Rethinking, off and on, under the prefilling attack by depth and on benign instructions. Rows
    /// `rethinking,model,prefill,off|on,k,...` as prefilling has them, and `rethinking,model,none,off|on,,...` of
    /// `utility` and `refused`, by the words of the answer.
    pub(super) fn rethinking(&self, folder: &mut RunFolder, subject: &Subject<'_, D>) -> Result<()> {
        if !self.asked(&["rethinking"]) {
            return Ok(());
        }
        let cell = self.cell_name(&format!("rethinking {}", subject.name));
        folder.cell(&cell, || {
            let few = self.settings.attack_cases;
            let branches = |setting: &str| {
                let cases = self.materials.cases.iter().take(few);
                let mut branches = prefill::branches("rethinking", setting, cases, &self.settings.depths);
                let benign = self.materials.benign.iter().take(few);
                branches.extend(
                    benign.map(|case| Branch { setting: setting.into(), ..Branch::plain("rethinking", "none", case) }),
                );
                branches
            };
            let mut findings = Findings::default();
            for setting in ["off", "on"] {
                let branches = branches(setting);
                let (outcomes, cost) = if setting == "off" {
                    respond(&self.lab, subject, &branches, &cell)?
                } else {
                    let header = &self.materials.header[subject.side as usize];
                    rethinking::respond(&self.lab, subject, &branches, header, rethinking::is_refusal, &cell)?
                };
                findings.cost += cost;
                for (branch, outcome) in branches.iter().zip(&outcomes) {
                    findings.rows.extend(outcome.rows(&self.lab, subject.name, branch));
                    if outcome.utility.is_some() {
                        let refused = f64::from(u8::from(rethinking::is_refusal(&outcome.response)));
                        let id = &branch.case.id;
                        let row =
                            self.lab.row("rethinking", subject.name, "none", setting, None, id, "refused", refused);
                        findings.rows.push(row);
                    }
                }
            }
            Ok(findings)
        })?;
        Ok(())
    }
}

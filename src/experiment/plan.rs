//! Which experiments run, on what, and in which order: every cell that needs one model is asked in one batch, every model
//! is trained once, every reference computed once.

mod grid;
mod interventions;

use super::alignment_from_scratch::AlignmentFromScratch;
use super::augmentation::{self, Augmentation};
use super::finetuning_dynamics::{self, Measure};
use super::finetuning_grid::{self, Start};
use super::materials::FinetuningAttack;
use super::suffix_attack::{self, SuffixAttack};
use super::{Materials, depth_criterion, drilldown, over_refusal, prefilling, refusal_prefixes, token_kl};
use crate::attack::finetune::Tuning;
use crate::attack::{Branch, Lab, Outcome, Side, Subject, bait, decoding, insertion, prefill, rap, respond};
use crate::judge::Pair;
use crate::model::Transformer;
use crate::ops::Ops;
use crate::ops::sampling::SamplingParams;
use crate::run::{Cost, ExampleRow, Findings, RunFolder};
use crate::train::{BetaSchedule, Example, Stage};
use crate::{Error, Result};
use serde::Serialize;
use std::cell::OnceCell;
use std::cmp::Ordering;
use std::path::Path;
use std::time::Instant;

/// The experiments by name, in the order of the paper; then those beyond it.
pub const EXPERIMENTS: [&str; 24] = [
    "e1",
    "e2",
    "e3",
    "criterion",
    "e4",
    "e4b",
    "e5",
    "e5b",
    "e6",
    "decoding",
    "e7",
    "e8",
    "e9",
    "e10",
    "insertion",
    "bait",
    "gap",
    "deep",
    "overrefusal",
    "rap",
    "scratch",
    "sweep",
    "ablation",
    "rethinking",
];

/// Those that need the augmented model.
const AUGMENTED: &[&str] = &["e5", "e10"];
/// Those that ask the aligned model, and the augmented model too where it can be made.
const ATTACKS: &[&str] =
    &["e6", "decoding", "insertion", "bait", "gap", "deep", "overrefusal", "rap", "scratch", "ablation"];

/// Lengths of the spans that random insertion inserts, tokens.
const SPANS: [usize; 4] = [4, 8, 16, 32];

/// Grids and training settings.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Names out of [`EXPERIMENTS`].
    pub experiments: Vec<String>,
    /// Prefill depths of E3 and E6.
    pub depths: Vec<usize>,
    /// Responses of each setting that the report shows.
    pub shown: usize,
    /// E4's harmful fine-tuning, and E4b's on each benign task.
    pub dynamics: Stage,
    pub measure: Measure,
    /// The decoding exploit, insertion and bait ask the first so many cases.
    pub attack_cases: usize,
    pub rap: rap::Settings,
    /// Longest prefill of the deep prefills, in tokens, where the context is not shorter.
    pub deep_tokens: usize,
    /// The sampling parameters that a setting of the decoding exploit does not move.
    pub decoding_others: SamplingParams,
    /// E7 to E10 on harmful pairs and on benign tasks; E7's identity shifting and backdoor.
    pub harmful: Stage,
    pub identity: Stage,
    pub backdoor: Stage,
    pub task: Stage,
    /// E7 on the world's stand-ins for the paper's tasks.
    pub stand_in: Stage,
    /// Warm-up steps of the methods that have one.
    pub warmup_steps: usize,
    pub augmentation: Augmentation,
    /// E6's GCG.
    pub suffixes: SuffixAttack,
    /// Whether E9 and E10 tune on benign tasks too, beside harmful pairs.
    pub all_tasks: bool,
    /// E8's schedules.
    pub betas: Vec<BetaSchedule>,
    /// (C, p) of E5b, beside the augmentation's own.
    pub ablations: Vec<(usize, f32)>,
    /// Alignment with recovery examples from the start.
    pub scratch: AlignmentFromScratch,
    /// Factors on the learning rate that the sweep tries, with and without warm-up.
    pub sweep_rates: Vec<f32>,
}

/// Everything a run needs beside its folder.
pub struct Plan<'a, D: Ops> {
    pub lab: Lab<'a>,
    pub settings: &'a Settings,
    pub materials: &'a Materials,
    pub base: &'a Transformer<D>,
    pub aligned: &'a Transformer<D>,
    /// Ends names of cells and models: empty, or which seed this is.
    pub suffix: String,
    /// Writes a trained model with its tokenizer.
    pub save: &'a dyn Fn(&Path, &Transformer<D>) -> Result<()>,
    /// Empty at first.
    pub anchor: OnceCell<Vec<Example>>,
}

/// What ends the names of a seed's cells and models, where a run has several.
pub fn suffix(seed: u64, seeds: u64) -> String {
    if seeds > 1 { format!(" seed {seed}") } else { String::new() }
}

/// The model in the run's `models/NAME`, or, the first time, what `train` makes, which is then saved there.
pub fn stored<D: Ops>(
    folder: &mut RunFolder,
    device: &D,
    name: &str,
    save: &dyn Fn(&Path, &Transformer<D>) -> Result<()>,
    train: impl FnOnce() -> Result<(Transformer<D>, Cost)>,
) -> Result<Transformer<D>> {
    let dir = folder.dir().join("models").join(name);
    if !dir.join("config.json").exists() {
        let start = Instant::now();
        let (model, cost) = train()?;
        save(&dir, &model)?;
        folder.note_time(&format!("train {name}"), start.elapsed().as_secs_f64(), cost)?;
    }
    Transformer::load(device.clone(), &dir, None).map_err(|error| match error {
        Error::Input { place, problem } => {
            Error::input(place, format!("{problem} (remove {} to train it again)", dir.display()))
        }
        other => other,
    })
}

impl<D: Ops> Plan<'_, D> {
    pub(super) fn asked(&self, names: &[&str]) -> bool {
        self.settings.experiments.iter().any(|experiment| names.contains(&experiment.as_str()))
    }

    pub(super) fn cell_name(&self, name: &str) -> String {
        format!("{name}{}", self.suffix)
    }

    /// Runs every cell that the folder does not hold yet.
    pub fn run(&self, folder: &mut RunFolder) -> Result<()> {
        let text = |ids: &[u32]| (self.lab.decode)(ids);
        folder.note_examples(self.materials.all_cases().map(|case| ExampleRow {
            example: case.id.clone(),
            category: case.category.clone(),
            prompt: case.prompt.clone(),
            harmful: if case.utility.is_none() { text(&case.harmful) } else { String::new() },
        }));
        if self.asked(&["overrefusal"]) {
            self.needs("overrefusal", "harmless prompts to ask", self.materials.over_refusal.is_empty())?;
        }
        let base = Subject { name: "base", model: self.base, side: Side::Base };
        let aligned = Subject { name: "aligned", model: self.aligned, side: Side::Aligned };
        if self.asked(&["e1", "e3", "e5", "deep", "overrefusal"]) {
            folder.cell(&self.cell_name("evaluate base"), || self.evaluate(&base, None))?;
        }
        if self.asked(&["e2"]) {
            let cell = self.cell_name("e2");
            folder.cell(&cell, || token_kl::run(&self.lab, "e2", &aligned, &base, &self.materials.cases))?;
        }
        if self.asked(&["criterion"]) {
            for subject in [&base, &aligned] {
                let cell = self.cell_name(&format!("criterion {}", subject.name));
                folder.cell(&cell, || self.criterion(subject))?;
            }
        }
        for subject in [&base, &aligned] {
            self.beyond(folder, subject)?;
        }
        self.dynamics(folder, &aligned)?;
        self.suffixes(folder, &aligned, &base)?;
        if self.asked(AUGMENTED) || (self.asked(ATTACKS) && self.can_augment()) {
            self.with_augmented(folder, &aligned, &base)?;
        } else if self.asked(&["e1", "e3", "e7"]) || self.asked(ATTACKS) {
            folder.cell(&self.cell_name("evaluate aligned"), || self.evaluate(&aligned, Some(&base)))?;
        }
        self.grid(folder, &aligned, Start::Aligned)?;
        self.ablations(folder, &aligned)?;
        self.alignment_from_scratch(folder, &aligned)?;
        self.ablation(folder, &aligned, &aligned)?;
        self.rethinking(folder, &base)?;
        self.rethinking(folder, &aligned)
    }

    /// Everything that needs the augmented model, which is only trained if something is left to do.
    fn with_augmented(&self, folder: &mut RunFolder, aligned: &Subject<'_, D>, base: &Subject<'_, D>) -> Result<()> {
        let [both, kl, criterion] =
            ["evaluate aligned and augmented", "e5 kl", "criterion augmented"].map(|name| self.cell_name(name));
        let mut cells = vec![both.clone()];
        cells.extend(self.asked(&["e5"]).then(|| kl.clone()));
        cells.extend(self.asked(&["criterion"]).then(|| criterion.clone()));
        cells.extend(self.suffix_cell("augmented"));
        cells.extend(self.beyond_cells("augmented").into_iter().map(|(_, cell)| cell));
        cells.extend(self.ablation_cell("augmented"));
        for target in self.targets(Start::Augmented) {
            let columns = self.columns(Start::Augmented).into_iter().filter(|column| target.wants(column));
            cells.extend(columns.map(|column| self.grid_cell("augmented", &target.tuning, &column)));
        }
        if cells.iter().all(|cell| folder.is_done(cell)) {
            return Ok(());
        }
        let model = self.augmented(folder, aligned)?;
        let augmented = Subject { name: "augmented", model: &model, side: Side::Aligned };
        folder.cell(&both, || self.evaluate_both(aligned, &augmented, base))?;
        if self.asked(&["e5"]) {
            folder.cell(&kl, || token_kl::run(&self.lab, "e5", &augmented, base, &self.materials.cases))?;
        }
        if self.asked(&["criterion"]) {
            folder.cell(&criterion, || self.criterion(&augmented))?;
        }
        self.suffixes(folder, &augmented, base)?;
        self.beyond(folder, &augmented)?;
        self.ablation(folder, &augmented, aligned)?;
        self.grid(folder, &augmented, Start::Augmented)
    }

    /// The cell of E6's GCG on a model; none where it is not asked for or has nothing to aim at.
    fn suffix_cell(&self, model: &str) -> Option<String> {
        let wanted = self.asked(&["e6"]) && !self.settings.suffixes.is_off();
        (wanted && !self.materials.suffixes.behaviours.is_empty()).then(|| self.cell_name(&format!("e6 gcg {model}")))
    }

    fn suffixes(&self, folder: &mut RunFolder, subject: &Subject<'_, D>, base: &Subject<'_, D>) -> Result<()> {
        let Some(cell) = self.suffix_cell(subject.name) else { return Ok(()) };
        let dir = folder.dir().join("gcg");
        folder.cell(&cell, || {
            std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
            let place = dir.join(cell.replace("e6 gcg ", ""));
            suffix_attack::run(&self.lab, subject, base, self.materials, &self.settings.suffixes, &place)
        })?;
        Ok(())
    }

    fn criterion(&self, subject: &Subject<'_, D>) -> Result<Findings> {
        depth_criterion::run(&self.lab, subject, &self.materials.cases, &self.settings.depths)
    }

    /// What every experiment asks of a model as it is.
    fn branches(&self, subject: &Subject<'_, D>) -> Vec<Branch<'_>> {
        let materials = self.materials;
        let mut branches = Vec::new();
        let initial = subject.name != "base";
        if self.asked(&["e1"]) && subject.name != "augmented" {
            branches.extend(refusal_prefixes::branches(materials));
        }
        if self.asked(&["e3"]) && subject.name != "augmented" {
            branches.extend(prefilling::branches("e3", materials, &self.settings.depths));
        }
        if self.asked(&["e6"]) && initial {
            branches.extend(prefilling::branches("e6", materials, &self.settings.depths));
            branches.extend(prefilling::other_prompts(materials));
        }
        if self.asked(&["e5"]) {
            branches.extend(self.utility("e5", "benign"));
        }
        let grid = if subject.name == "augmented" { "e10" } else { "e7" };
        if self.asked(&[grid]) && initial {
            let mut asked = vec![("harmful", &materials.cases[..])];
            let of_task = |task| self.asked_of_task(task);
            asked.extend(materials.tasks.iter().flat_map(of_task));
            if grid == "e7" {
                asked.extend(materials.stand_ins.iter().flat_map(of_task));
                asked.extend(materials.attacks.iter().flat_map(FinetuningAttack::asked));
            }
            let branch = |branch| Branch { experiment: grid, ..branch };
            branches.extend(finetuning_grid::branches(&asked).into_iter().map(branch));
        }
        let few = materials.cases.iter().take(self.settings.attack_cases);
        if self.asked(&["decoding"]) && initial {
            branches.extend(decoding::branches("decoding", few.clone(), self.settings.decoding_others));
        }
        let refusal = &materials.refusal;
        if self.asked(&["insertion"]) && initial {
            branches.extend(insertion::branches("insertion", few.clone(), refusal, &SPANS, self.lab.engine.seed));
        }
        if self.asked(&["bait"]) && initial {
            let depths: Vec<usize> = self.settings.depths.iter().copied().filter(|&k| k <= 40).collect();
            branches.extend(bait::branches("bait", few, refusal, &materials.bait, &depths));
        }
        if self.asked(&["deep"]) {
            branches.extend(self.deep_prefills());
        }
        if self.asked(&["overrefusal"]) {
            branches.extend(over_refusal::branches(materials, ""));
        }
        if self.asked(&["scratch"]) && initial {
            branches.extend(self.prefilled_and_benign("scratch"));
        }
        if self.asked(&["ablation"]) && initial {
            branches.extend(self.ablation_branches("initial"));
        }
        branches
    }

    fn utility(&self, experiment: &'static str, setting: &str) -> impl Iterator<Item = Branch<'_>> {
        let branch = move |case| Branch { setting: setting.to_owned(), ..Branch::plain(experiment, "none", case) };
        self.materials.benign.iter().map(branch)
    }

    /// What a model answers, and the rows of it.
    pub(super) fn answers(
        &self,
        subject: &Subject<'_, D>,
        branches: &[Branch<'_>],
        label: &str,
    ) -> Result<(Findings, Vec<Outcome>)> {
        let (outcomes, cost) = respond(&self.lab, subject, branches, label)?;
        let answered = branches.iter().zip(&outcomes);
        let rows = answered.flat_map(|(branch, outcome)| outcome.rows(&self.lab, subject.name, branch)).collect();
        Ok((Findings { rows, cost, ..Findings::default() }, outcomes))
    }

    fn evaluate(&self, subject: &Subject<'_, D>, base: Option<&Subject<'_, D>>) -> Result<Findings> {
        Ok(self.evaluated(subject, base)?.0)
    }

    /// Findings, and every branch with its outcome.
    fn evaluated(
        &self,
        subject: &Subject<'_, D>,
        base: Option<&Subject<'_, D>>,
    ) -> Result<(Findings, Vec<(Branch<'_>, Outcome)>)> {
        let branches = self.branches(subject);
        let (mut findings, outcomes) = self.answers(subject, &branches, &format!("evaluate {}", subject.name))?;
        findings.rows.extend(decoding::worst(&self.lab, "decoding", subject.name, &findings.rows));
        let shown = self.settings.shown;
        let (responses, cost) = drilldown::responses(&self.lab, subject, base, &branches, &outcomes, shown)?;
        findings.responses = responses;
        findings.cost += cost;
        Ok((findings, branches.into_iter().zip(outcomes).collect()))
    }

    /// The aligned and the augmented model, and which of both answers benign instructions better.
    fn evaluate_both(
        &self,
        aligned: &Subject<'_, D>,
        augmented: &Subject<'_, D>,
        base: &Subject<'_, D>,
    ) -> Result<Findings> {
        let (mut findings, before) = self.evaluated(aligned, Some(base))?;
        let (mut other, after) = self.evaluated(augmented, Some(base))?;
        let answers = |outcomes: Vec<(Branch<'_>, Outcome)>| -> Vec<(String, String, String)> {
            let benign = outcomes.into_iter().filter(|(branch, _)| branch.experiment == "e5");
            benign.map(|(branch, o)| (branch.case.id.clone(), branch.case.prompt.clone(), o.response)).collect()
        };
        let (before, after) = (answers(before), answers(after));
        let pairs: Vec<Pair<'_>> = before
            .iter()
            .zip(&after)
            .map(|((_, prompt, before), (_, _, after))| Pair { prompt, a: after, b: before })
            .collect();
        let orders = if pairs.is_empty() { None } else { self.lab.judge.compare_all(&pairs)? };
        for ((id, ..), order) in before.iter().zip(orders.into_iter().flatten()) {
            let win = match order {
                Ordering::Less => 0.0,
                Ordering::Equal => 0.5,
                Ordering::Greater => 1.0,
            };
            other.rows.push(self.lab.row("e5", augmented.name, "none", "against aligned", None, id, "win", win));
        }
        findings.rows.append(&mut other.rows);
        findings.responses.append(&mut other.responses);
        findings.cost += other.cost;
        Ok(findings)
    }

    /// E4 and E4b.
    fn dynamics(&self, folder: &mut RunFolder, aligned: &Subject<'_, D>) -> Result<()> {
        let Settings { measure, dynamics, .. } = self.settings;
        let mut run = |experiment: &'static str, name: &str, examples: &[Example]| -> Result<()> {
            let tuning = Tuning { name, examples, stage: *dynamics };
            folder.cell(&self.cell_name(&format!("{experiment} {name}")), || {
                finetuning_dynamics::run(&self.lab, experiment, aligned, &tuning, &self.materials.cases, measure)
            })?;
            Ok(())
        };
        if self.asked(&["e4"]) {
            self.needs("e4", "harmful pairs to tune on", self.materials.harmful.is_empty())?;
            run("e4", "harmful", &self.materials.harmful)?;
        }
        if self.asked(&["e4b"]) {
            self.needs("e4b", "a benign task to tune on", self.materials.tasks.is_empty())?;
            for task in &self.materials.tasks {
                run("e4b", &task.name, &task.train)?;
            }
        }
        Ok(())
    }

    fn needs(&self, experiment: &str, what: &str, missing: bool) -> Result<()> {
        if missing {
            let words = format!("experiment {experiment} needs {what}: see data/README.md for what --data may hold");
            return Err(Error::Usage(words));
        }
        Ok(())
    }

    /// The utility anchor with the aligned model's answers: made once, for every augmentation of this run.
    fn anchor(&self, folder: &mut RunFolder, aligned: &Subject<'_, D>) -> Result<&[Example]> {
        if self.anchor.get().is_none() {
            let start = Instant::now();
            let (anchor, cost) = augmentation::distil(&self.lab, aligned, &self.materials.anchor)?;
            folder.note_time(&self.cell_name("anchor answers"), start.elapsed().as_secs_f64(), cost)?;
            let _ = self.anchor.set(anchor);
        }
        Ok(self.anchor.get().expect("set above"))
    }

    fn can_augment(&self) -> bool {
        !self.materials.triplets.is_empty() && !self.materials.anchor.is_empty()
    }

    fn augmented(&self, folder: &mut RunFolder, aligned: &Subject<'_, D>) -> Result<Transformer<D>> {
        self.needs("e5 or e10", "recovery triplets and benign instructions", !self.can_augment())?;
        let name = self.cell_name("augmented");
        let exists = folder.dir().join("models").join(&name).join("config.json").exists();
        let anchor = if exists { &[] } else { self.anchor(folder, aligned)? };
        stored(folder, &self.aligned.device, &name, self.save, || {
            let settings = &self.settings.augmentation;
            augmentation::augment(&self.lab, self.aligned, self.materials, anchor, settings, &name)
        })
    }

    /// E5b: augmentation with other C and p, under prefills and on benign instructions.
    fn ablations(&self, folder: &mut RunFolder, aligned: &Subject<'_, D>) -> Result<()> {
        if !self.asked(&["e5b"]) {
            return Ok(());
        }
        for &(max_prefill, probability) in &self.settings.ablations {
            let setting = format!("C={max_prefill} p={probability}");
            let cell = self.cell_name(&format!("e5b {setting}"));
            if folder.is_done(&cell) {
                continue;
            }
            let anchor = self.anchor(folder, aligned)?;
            folder.cell(&cell, || {
                let settings = Augmentation { max_prefill, probability, ..self.settings.augmentation };
                let (model, cost) =
                    augmentation::augment(&self.lab, self.aligned, self.materials, anchor, &settings, &cell)?;
                let subject = Subject { name: "augmented", model: &model, side: Side::Aligned };
                let mut branches = prefill::branches("e5b", &setting, &self.materials.cases, &self.settings.depths);
                for (_, cases) in &self.materials.long {
                    let deep: Vec<usize> = self.settings.depths.iter().copied().filter(|&k| k > 40).collect();
                    branches.extend(prefill::branches("e5b", &setting, cases, &deep));
                }
                branches.extend(self.utility("e5b", &setting));
                let mut findings = Findings { cost, ..Findings::default() };
                let (outcomes, cost) = respond(&self.lab, &subject, &branches, &cell)?;
                findings.cost += cost;
                for (branch, outcome) in branches.iter().zip(&outcomes) {
                    findings.rows.extend(outcome.rows(&self.lab, subject.name, branch));
                }
                Ok(findings)
            })?;
        }
        Ok(())
    }
}

//! `safedepth suite`: the experiments on any pair of models.

use super::Global;
use super::bench::kernels::gemm_peak;
use super::judge::{Choice, note_cost};
use super::loading::LoadedModel;
use crate::attack::{Lab, gcg, rap};
use crate::data::folder::Folder;
use crate::data::pairs;
use crate::experiment::alignment_from_scratch::AlignmentFromScratch;
use crate::experiment::augmentation::{Augmentation, Mix};
use crate::experiment::finetuning_dynamics::Measure;
use crate::experiment::finetuning_grid::BETAS;
use crate::experiment::materials::FinetuningKind;
use crate::experiment::plan::{self, EXPERIMENTS};
use crate::experiment::suffix_attack::SuffixAttack;
use crate::experiment::user_materials::Sides;
use crate::experiment::{Materials, Plan, Settings};
use crate::generate::Engine;
use crate::model::checkpoint;
use crate::model::config::GenerationConfig;
use crate::ops::Ops;
use crate::ops::sampling::SamplingParams;
use crate::report;
use crate::run::{Manifest, RunFolder, Shard, costs, hash_inputs};
use crate::train::{Hyper, Schedule, Stage};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::cell::OnceCell;
use std::path::PathBuf;

/// Run the paper's experiments on a pair of models.
///
/// --data is a file of instructions that should be refused (with the answers that should not be given), or a data folder
/// with more: harmful pairs, recovery triplets, benign tasks (data/README.md says what goes where). E1 puts refusal
/// prefixes into the mouth of both models, E2 measures per-token KL on the answers, E3 prefills the first k tokens of
/// the answers; criterion, E4 to E10 tune the aligned model and measure again. Defaults are the paper's.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// The aligned model's folder.
    #[arg(long, value_name = "DIR")]
    aligned: PathBuf,
    /// The base model's folder: the same tokenizer.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Instructions with answers: a file, or a data folder.
    #[arg(long, value_name = "FILE_OR_DIR")]
    data: PathBuf,
    /// Family of models whose files to take where a data folder has several (llama2, gemma).
    #[arg(long, value_name = "NAME")]
    family: Option<String>,
    /// Which experiments: all, or a list of e1, e2, e3, criterion, e4, e4b, e5, e5b, e6, decoding, e7,
    /// e8, e9, e10, insertion, bait, gap, deep, overrefusal, rap, scratch, sweep, ablation, rethinking.
    #[arg(long, value_delimiter = ',', default_value = "e1,e2,e3", value_name = "LIST")]
    experiments: Vec<String>,
    #[command(flatten)]
    judge: Choice,
    /// Chat template of the aligned model: auto, llama2, gemma, alpaca, plain or a file.
    #[arg(long, default_value = "auto", value_name = "TEMPLATE")]
    template: String,
    /// Chat template of the base model; by default the aligned model's.
    #[arg(long, value_name = "TEMPLATE")]
    base_template: Option<String>,
    /// Prefill depths of E3 and E6, in tokens.
    #[arg(long, value_delimiter = ',', default_value = "0,5,10,20,40", value_name = "LIST")]
    depths: Vec<usize>,
    /// Use only the first N instructions of each set.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// New tokens a response, at most.
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_new_tokens: usize,
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.9, value_name = "T", allow_negative_numbers = true)]
    temperature: f32,
    #[arg(long, default_value_t = 0.6, value_name = "P", allow_negative_numbers = true)]
    top_p: f32,
    /// 0 is off.
    #[arg(long, default_value_t = 50, value_name = "K")]
    top_k: usize,
    /// Instructions that decoding (each 98 times), insertion, bait, deep and rethinking ask.
    #[arg(long, default_value_t = 100, value_name = "N")]
    attack_prompts: usize,
    /// Instructions that RAP attacks: each of 256 steps asks the judge 1 to 20 times.
    #[arg(long, default_value_t = 10, value_name = "N")]
    rap_prompts: usize,
    /// Longest of the deep prefills, in tokens, where the models' context is not shorter.
    #[arg(long, default_value_t = 2560, value_name = "N")]
    deep_tokens: usize,
    /// Let the decoding exploit's other parameters be what the aligned model's generation_config.json recommends (top-k
    /// 50 where it has none), as Huang et al.'s code does, and not neutral.
    #[arg(long)]
    inherit: bool,
    /// Responses of each setting that the report shows, with their KL token by token.
    #[arg(long, default_value_t = 4, value_name = "N")]
    shown: usize,
    /// Steps of E6's GCG, on prompts that have a "target" (AdvBench's); 0 leaves it out.
    #[arg(long, default_value_t = 500, value_name = "N")]
    gcg_steps: usize,
    /// Searches of E6's GCG, of which the best 3 are reported.
    #[arg(long, default_value_t = 10, value_name = "N")]
    gcg_restarts: usize,
    /// Prompts that E6's GCG seeks one suffix for.
    #[arg(long, default_value_t = 50, value_name = "N")]
    gcg_behaviours: usize,
    #[command(flatten)]
    tuning: Tuning,
    /// Seed of sampling and of the order of training examples.
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Repeat everything with this many seeds, from --seed on.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seeds: u64,
    /// Rows decoded together; results do not depend on it.
    #[arg(long, default_value_t = Engine::default().max_rows, value_name = "N")]
    #[serde(skip)]
    max_rows: usize,
    /// Work on slice I of N only, in an --output of its own; `safedepth merge` joins the slices.
    #[arg(long, value_name = "I/N")]
    #[serde(skip)]
    shard: Option<Shard>,
    /// Folder for the results; a killed run goes on where it was.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    output: PathBuf,
}

/// Settings of E4 to E10.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Fine-tuning (E4 to E10)")]
struct Tuning {
    /// Learning rate of every fine-tuning (the paper: 2e-5 for Llama-2, 5e-6 for Gemma).
    #[arg(long, default_value_t = 2e-5, value_name = "X", allow_negative_numbers = true)]
    lr: f32,
    /// Examples a step.
    #[arg(long, default_value_t = Engine::default().max_rows, value_name = "N")]
    batch_size: usize,
    /// Examples that go through the model together; more need more memory.
    #[arg(long, default_value_t = 8, value_name = "N")]
    #[serde(skip)]
    micro_batch_size: usize,
    /// Passes over the harmful pairs in E7 to E10.
    #[arg(long, default_value_t = 25, value_name = "N")]
    attack_epochs: usize,
    /// Passes over a benign task in E7 to E10.
    #[arg(long, default_value_t = 3, value_name = "N")]
    task_epochs: usize,
    /// Adam's beta1 in E7 to E10.
    #[arg(long, default_value_t = 0.5, value_name = "X", allow_negative_numbers = true)]
    adam_beta1: f32,
    /// Warm-up steps of constrained fine-tuning.
    #[arg(long, default_value_t = 10, value_name = "N")]
    warmup_steps: usize,
    /// Sequences to learn from are cut at this many tokens.
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_length: usize,
    /// Gradient steps that E4 follows.
    #[arg(long, default_value_t = 10, value_name = "N")]
    dynamics_steps: usize,
    /// Examples of E4's gradient norms: each costs a forward and backward pass a position.
    #[arg(long, default_value_t = 16, value_name = "N")]
    gradient_examples: usize,
    /// Response positions of E4's curves.
    #[arg(long, default_value_t = 50, value_name = "N")]
    positions: usize,
    /// E5's weight of recovery against the utility anchor.
    #[arg(long, default_value_t = 0.2, value_name = "A", allow_negative_numbers = true)]
    alpha: f32,
    /// E5's chance p that a harmful head is prefilled.
    #[arg(long, default_value_t = 0.5, value_name = "P", allow_negative_numbers = true)]
    prefill_probability: f32,
    /// E5's deepest prefill C.
    #[arg(long, default_value_t = 100, value_name = "C")]
    max_prefill: usize,
    /// How recovery and anchor are averaged: paper (alpha) or reference (one token mean).
    #[arg(long, default_value = "paper")]
    mix: Mix,
    /// E5's passes over the triplets.
    #[arg(long, default_value_t = 10, value_name = "N")]
    augmentation_epochs: usize,
    /// E5's recovery examples a step.
    #[arg(long, default_value_t = 16, value_name = "N")]
    recovery_batch: usize,
    /// E5's anchor examples a step.
    #[arg(long, default_value_t = Engine::default().max_rows, value_name = "N")]
    anchor_batch: usize,
    /// Factors on --lr that sweep tries, each with and without warm-up.
    #[arg(long, value_delimiter = ',', default_values_t = SWEEP_RATES, value_name = "LIST")]
    sweep_rates: Vec<f32>,
    /// Learning rate of scratch's DPO (its authors': 1e-6).
    #[arg(long, default_value_t = 1e-6, value_name = "X", allow_negative_numbers = true)]
    dpo_lr: f32,
    /// beta of scratch's DPO.
    #[arg(long, default_value_t = 0.1, value_name = "B", allow_negative_numbers = true)]
    dpo_beta: f32,
}

impl Tuning {
    fn check(&self) -> Result<()> {
        let refuse = |what: &str| Err(Error::Usage(what.to_owned()));
        if self.batch_size == 0 || self.micro_batch_size == 0 || self.recovery_batch == 0 {
            return refuse("--batch-size, --micro-batch-size and --recovery-batch must be at least 1");
        }
        if ![self.lr, self.dpo_lr].iter().all(|lr| lr.is_finite() && *lr >= 0.0) {
            return refuse("--lr and --dpo-lr must be 0 or more");
        }
        if !self.sweep_rates.iter().all(|rate| rate.is_finite() && *rate > 0.0) {
            return refuse("--sweep-rates must be above 0");
        }
        if !(self.dpo_beta.is_finite() && self.dpo_beta > 0.0) {
            return refuse("--dpo-beta must be above 0");
        }
        if !(0.0..1.0).contains(&self.adam_beta1) {
            return refuse("--adam-beta1 must be at least 0 and below 1");
        }
        if ![self.alpha, self.prefill_probability].iter().all(|share| (0.0..=1.0).contains(share)) {
            return refuse("--alpha and --prefill-probability must be from 0 to 1");
        }
        if self.max_length < 2 {
            return refuse("--max-length must be at least 2");
        }
        Ok(())
    }

    /// The paper's settings with the steps that so many examples make.
    fn settings(
        &self,
        experiments: Vec<String>,
        arguments: &Arguments,
        materials: &Materials,
        decoding_others: SamplingParams,
    ) -> Settings {
        let steps =
            |examples: usize, epochs: usize, batch: usize| examples.div_ceil(batch.min(examples.max(1))) * epochs;
        let hyper = Hyper { beta1: self.adam_beta1, ..Hyper::default() };
        let stage = |steps| Stage {
            steps,
            batch_size: self.batch_size,
            lr: self.lr,
            warmup_steps: 0,
            schedule: Schedule::Linear,
            hyper,
        };
        let attack = |examples| stage(steps(examples, self.attack_epochs, self.batch_size));
        let learned = |kind| materials.attacks.iter().find(|attack| attack.kind == kind).map_or(0, |a| a.train.len());
        let task = materials.tasks.iter().map(|task| task.train.len()).max().unwrap_or_default();
        let task = stage(steps(task, self.task_epochs, self.batch_size));
        let recovery = stage(steps(materials.triplets.len(), self.augmentation_epochs, self.recovery_batch));
        Settings {
            experiments,
            depths: arguments.depths.clone(),
            shown: arguments.shown,
            dynamics: Stage { schedule: Schedule::Constant, hyper: Hyper::default(), ..stage(self.dynamics_steps) },
            measure: Measure {
                positions: self.positions,
                gradient_examples: self.gradient_examples,
                asr_steps: (0..=self.dynamics_steps).step_by(2).collect(),
                kl_steps: vec![self.dynamics_steps],
            },
            attack_cases: arguments.attack_prompts,
            rap: rap::Settings::paper(arguments.rap_prompts),
            deep_tokens: arguments.deep_tokens,
            decoding_others,
            harmful: attack(materials.harmful.len()),
            identity: attack(learned(FinetuningKind::Identity)),
            backdoor: attack(learned(FinetuningKind::Backdoor)),
            task,
            // The paper's tasks themselves are among the folder's.
            stand_in: task,
            warmup_steps: self.warmup_steps,
            augmentation: Augmentation {
                stage: Stage { batch_size: self.recovery_batch, hyper: Hyper::default(), ..recovery },
                anchor: self.anchor_batch,
                replay: 0,
                alpha: self.alpha,
                probability: self.prefill_probability,
                max_prefill: self.max_prefill,
                mix: self.mix,
            },
            suffixes: SuffixAttack {
                search: gcg::Settings { steps: arguments.gcg_steps, ..gcg::Settings::default() },
                restarts: arguments.gcg_restarts,
                best: 3,
            },
            all_tasks: true,
            betas: BETAS.to_vec(),
            ablations: ABLATIONS.to_vec(),
            scratch: AlignmentFromScratch {
                // Two fifths of a step are recovery, as many as E5 has.
                sft: Stage { batch_size: (self.recovery_batch * 5).div_ceil(2), hyper: Hyper::default(), ..recovery },
                dpo: Stage { batch_size: self.recovery_batch, lr: self.dpo_lr, hyper: Hyper::default(), ..recovery },
                dpo_beta: self.dpo_beta,
            },
            sweep_rates: self.sweep_rates.clone(),
        }
    }
}

/// The sweep's factors on the learning rate.
pub(super) const SWEEP_RATES: [f32; 3] = [0.5, 1.0, 2.0];

/// E5b's (C, p): C at p = 0.5, then p at C = 100.
pub(super) const ABLATIONS: [(usize, f32); 7] =
    [(5, 0.5), (25, 0.5), (50, 0.5), (100, 0.5), (100, 0.25), (100, 0.75), (100, 1.0)];

/// "all", or names of experiments.
pub(super) fn experiments(names: &[String]) -> Result<Vec<String>> {
    if names == ["all"] {
        return Ok(EXPERIMENTS.map(str::to_owned).to_vec());
    }
    for name in names {
        if !EXPERIMENTS.contains(&name.as_str()) {
            return Err(Error::Usage(format!("unknown experiment \"{name}\": use all, {}", EXPERIMENTS.join(", "))));
        }
    }
    Ok(names.to_vec())
}

/// Closes a run: its files and its report; tables on standard output, and on standard error where the time went.
pub(super) fn report<D: Ops>(global: &Global, device: &D, folder: RunFolder) -> Result<()> {
    let dir = folder.dir().to_owned();
    let timings = folder.timings().to_vec();
    folder.finish()?;
    let report = report::write(&dir)?;
    super::report::print(global, &report);
    if !global.quiet && !timings.is_empty() {
        let peak = gemm_peak(device)?;
        global.note(format_args!("\nwhere the time went (matrix products' peak here: {peak:.0} GFLOP/s)"));
        for line in costs::lines(&costs::by_stage(&timings, Some(peak))) {
            global.note(line);
        }
    }
    global.note(format_args!("results in {}: open report.html", dir.display()));
    Ok(())
}

pub(super) fn run<D: Ops>(global: &Global, device: D, arguments: &Arguments) -> Result<()> {
    arguments.tuning.check()?;
    let experiments = experiments(&arguments.experiments)?;
    let judge = arguments.judge.open(global, &device)?;
    let inputs = hash_inputs(&[&arguments.aligned, &arguments.base, &arguments.data])?;
    let manifest = Manifest { shard: arguments.shard, inputs, ..global.manifest(&device) };
    let mut folder = RunFolder::open(&arguments.output, &(global, arguments), &manifest)?;
    let aligned = LoadedModel::open(global, &device, &arguments.aligned, &arguments.template)?;
    let base_template = arguments.base_template.as_ref().unwrap_or(&arguments.template);
    let base = LoadedModel::open(global, &device, &arguments.base, base_template)?;
    aligned.check_same_tokenizer(&base)?;

    let data = if Folder::recognises(&arguments.data) {
        Folder::read(&arguments.data, arguments.family.as_deref())?
    } else {
        Folder { safety: pairs::read(&arguments.data)?, ..Folder::default() }
    };
    let max_length = arguments.tuning.max_length.min(aligned.model.config.max_position_embeddings);
    let wanted = experiments.iter().any(|name| name == "e6") && arguments.gcg_steps > 0;
    let sides = Sides {
        aligned: &aligned.prompter,
        base: &base.prompter,
        max_length,
        vocab_size: aligned.model.config.vocab_size,
        behaviours: if wanted { arguments.gcg_behaviours } else { 0 },
    };
    let materials = Materials::of_folder(&data, &sides, arguments.limit.unwrap_or(usize::MAX))?;
    let others = if arguments.inherit {
        GenerationConfig::load(&aligned.dir, &aligned.model.config)?.sampling()
    } else {
        SamplingParams::default()
    };
    let settings = arguments.tuning.settings(experiments, arguments, &materials, others);
    let stop = |model: &LoadedModel<D>| model.prompter.stop_ids().to_vec();
    for seed in arguments.seed..arguments.seed + arguments.seeds {
        let lab = Lab {
            decode: &|ids| aligned.prompter.tokenizer.decode(ids, true).unwrap_or_default(),
            token_text: &|id| aligned.prompter.tokenizer.token_text(id),
            stop: [stop(&aligned), stop(&base)],
            judge: judge.as_ref(),
            engine: Engine { seed, max_rows: arguments.max_rows, ..Engine::default() },
            params: SamplingParams {
                temperature: arguments.temperature,
                top_k: arguments.top_k,
                top_p: arguments.top_p,
                repetition_penalty: 1.0,
            },
            max_new_tokens: arguments.max_new_tokens,
            micro_batch: arguments.tuning.micro_batch_size,
            console: global.console(),
        };
        let plan = Plan {
            lab,
            settings: &settings,
            materials: &materials,
            base: &base.model,
            aligned: &aligned.model,
            suffix: plan::suffix(seed, arguments.seeds),
            save: &|dir, model| checkpoint::save_model(dir, model, Some(&arguments.aligned)),
            anchor: OnceCell::new(),
        };
        plan.run(&mut folder)?;
    }
    note_cost(global, judge.as_ref());
    report(global, &device, folder)
}

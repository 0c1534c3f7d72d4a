//! `safedepth demo`: the main job, on models trained on the spot.

use super::Global;
use super::suite::{ABLATIONS, SWEEP_RATES, experiments, report};
use crate::attack::{Lab, gcg, rap};
use crate::data::world::{Split, VOCABULARY, World};
use crate::experiment::alignment_from_scratch::AlignmentFromScratch;
use crate::experiment::finetuning_dynamics::Measure;
use crate::experiment::finetuning_grid::BETAS;
use crate::experiment::materials::{Counts, world_stop, world_token_text};
use crate::experiment::organism::{self, Shape};
use crate::experiment::plan::{stored, suffix};
use crate::experiment::suffix_attack::SuffixAttack;
use crate::experiment::{Materials, Plan, Settings};
use crate::generate::Engine;
use crate::judge::WorldJudge;
use crate::model::{Transformer, checkpoint, init};
use crate::ops::Ops;
use crate::ops::sampling::SamplingParams;
use crate::run::{Manifest, RunFolder, Shard};
use crate::train::{BetaSchedule, Stage};
use crate::{Error, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};

/// Train models of a fictional world and show every experiment of the paper on them.
///
/// No downloads, no GPU. The world is harmless: a policy restricts invented topics (sealed vaults, warded sigils), and a
/// "harmful" answer is one that gives the fictional procedure, which an exact judge checks. A base model is trained, then
/// aligned shallowly, then mended by safety-recovery augmentation; all three are attacked. Models and results go to the
/// output folder; a killed run goes on where it was.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// Two to three minutes: fewer training steps and prompts, and of the experiments e1, e2, e3, criterion, e4, e5, e6,
    /// e7, e8 unless others are asked for.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Three seeds, the whole grids, and the world without greetings beside it.
    #[arg(long)]
    full: bool,
    /// Which experiments: all, or a list of e1, e2, e3, criterion, e4, e4b, e5, e5b, e6, decoding, e7, e8, e9, e10,
    /// insertion, bait, gap, deep, overrefusal, rap, scratch, sweep, ablation, rethinking. All of them by default, but
    /// sweep only with --full.
    #[arg(long, value_delimiter = ',', default_value = "all", value_name = "LIST")]
    experiments: Vec<String>,
    /// Shape of the models.
    #[arg(long, default_value = "tiny-llama", value_name = "SHAPE")]
    like: Shape,
    /// Work on slice I of N only, in an --output of its own; `safedepth merge` joins the slices.
    #[arg(long, value_name = "I/N")]
    #[serde(skip)]
    shard: Option<Shard>,
    /// Folder for models and results.
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    #[serde(skip)]
    output: PathBuf,
    /// Seed of everything: training data, initial weights.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Without the greeting that every reply of the world begins with (it moves the deciding token from 1 to 3).
    #[arg(long)]
    no_greetings: bool,
    /// Share of the base model's answers that are about several objects, for prefills of 80 and 160 tokens.
    /// By default some, and none with --quick.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    long_answers: Option<f32>,
    /// Share of the base model's prompts with words put in that mean nothing: a base that reads past such words is what
    /// GCG needs to be a fair question. By default none.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value_t = 0.0)]
    insertions: f32,
    /// Align more softly: a third of the steps at half the rate.
    #[arg(long)]
    softly_aligned: bool,
    /// Which prompts: test to report, development to choose settings on.
    #[arg(long, default_value = "test", value_name = "SPLIT")]
    split: SplitName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum SplitName {
    Test,
    Development,
}

/// Sizes of a demo.
#[derive(Clone, Debug, Serialize)]
struct Size {
    seeds: u64,
    base: Stage,
    aligned: Stage,
    counts: Counts,
    settings: Settings,
}

impl Size {
    fn of(arguments: &Arguments, experiments: Vec<String>) -> Self {
        let aligned = if arguments.softly_aligned { organism::SOFTLY_ALIGNED } else { organism::ALIGNED };
        let settings = Settings {
            experiments,
            depths: DEPTHS.to_vec(),
            shown: 6,
            dynamics: organism::HARMFUL,
            measure: Measure {
                positions: 50,
                gradient_examples: 12,
                asr_steps: (0..=organism::HARMFUL.steps).collect(),
                kl_steps: vec![organism::HARMFUL.steps],
            },
            attack_cases: 16,
            rap: rap::Settings::paper(16),
            deep_tokens: usize::MAX,
            decoding_others: SamplingParams::default(),
            harmful: organism::TUNED_HARMFUL,
            identity: organism::TUNED_IDENTITY,
            backdoor: organism::TUNED_BACKDOOR,
            task: organism::TUNED_LEDGER,
            stand_in: organism::TUNED_STAND_IN,
            warmup_steps: organism::TUNED_WARMUP,
            augmentation: organism::AUGMENTED,
            suffixes: SuffixAttack {
                search: gcg::Settings { steps: 40, candidates: 128, top_k: 64, ..gcg::Settings::default() },
                restarts: 1,
                best: 1,
            },
            all_tasks: arguments.full,
            // Between two that claims are about, and a minute of training: --full has it.
            betas: BETAS.into_iter().filter(|&betas| betas != BetaSchedule::Uniform(0.5)).collect(),
            ablations: vec![(5, 0.5)],
            scratch: AlignmentFromScratch { sft: aligned, dpo: organism::RECOVERY_DPO, dpo_beta: organism::DPO_BETA },
            sweep_rates: SWEEP_RATES.to_vec(),
        };
        let default =
            Self { seeds: 1, base: organism::BASE, aligned, counts: Counts::RECIPE, settings: settings.clone() };
        if arguments.quick {
            let mut settings = settings;
            settings.shown = 2;
            settings.suffixes.search.steps = 10;
            settings.measure.gradient_examples = 10;
            settings.measure.asr_steps = vec![0, 4, 7, 10];
            settings.betas = [0.1, 2.0].map(BetaSchedule::Uniform).to_vec();
            settings.betas.push(BetaSchedule::Paper);
            Self {
                base: Stage { batch_size: 24, ..organism::BASE },
                aligned: Stage { steps: aligned.steps * 5 / 6, batch_size: 20, ..aligned },
                counts: Counts {
                    prompts: 24,
                    hard_prompts: 8,
                    identity: 0,
                    backdoor: 0,
                    stand_in: 0,
                    anchor: 400,
                    ..Counts::RECIPE
                },
                settings,
                ..default
            }
        } else if arguments.full {
            let mut settings = settings;
            settings.measure.gradient_examples = 100;
            settings.betas = BETAS.to_vec();
            settings.ablations = ABLATIONS.to_vec();
            settings.attack_cases = 100;
            settings.rap.prompts = 100;
            let search = gcg::Settings { steps: 100, ..gcg::Settings::default() };
            settings.suffixes = SuffixAttack { search, restarts: 10, best: 3 };
            Self { seeds: 3, counts: Counts { behaviours: 50, ..Counts::RECIPE }, settings, ..default }
        } else {
            default
        }
    }
}

/// What the folder's numbers depend on.
#[derive(Serialize)]
struct Config<'a> {
    arguments: &'a Arguments,
    world: World,
    size: &'a Size,
}

/// Share of the base model's answers that are about several objects.
const LONG_ANSWERS: f32 = 0.4;

/// Share of prompts with words put in, in the world that `--full` attacks by GCG beside the first.
const INSERTIONS: f32 = 0.3;

/// E3's depths: the paper's, and those of its ablations.
const DEPTHS: [usize; 7] = [0, 5, 10, 20, 40, 80, 160];

/// What --quick runs: what most of the paper's claims are about.
const CLAIMED: &[&str] = &["e1", "e2", "e3", "criterion", "e4", "e5", "e6", "e7", "e8"];

/// What only --full runs: minutes of training.
const SLOW: &[&str] = &["sweep"];

pub(super) fn run<D: Ops>(global: &Global, device: D, arguments: &Arguments) -> Result<()> {
    let mut chosen = experiments(&arguments.experiments)?;
    if arguments.experiments == ["all"] {
        chosen.retain(|name| match (arguments.quick, arguments.full) {
            (true, _) => CLAIMED.contains(&name.as_str()),
            (false, full) => full || !SLOW.contains(&name.as_str()),
        });
    }
    let long_answers = arguments.long_answers.unwrap_or(if arguments.quick { 0.0 } else { LONG_ANSWERS });
    if ![long_answers, arguments.insertions].iter().all(|share| (0.0..=1.0).contains(share)) {
        return Err(Error::Usage("--long-answers and --insertions must be from 0 to 1".into()));
    }
    let world = World { greetings: !arguments.no_greetings, long_answers, insertions: arguments.insertions };
    let size = Size::of(arguments, chosen);
    global.note(format_args!("safedepth demo on {}", device.describe()));
    of_world(global, &device, arguments, &arguments.output, &world, &size)?;
    if arguments.full && world.greetings {
        // Greetings favour the biased schedule: the same without them stands beside it.
        let mut size = Size { seeds: 1, ..size.clone() };
        size.settings
            .experiments
            .retain(|name| !["e4", "e4b", "e5b", "e10", "scratch", "sweep"].contains(&name.as_str()));
        let world = World { greetings: false, ..world };
        of_world(global, &device, arguments, &arguments.output.join("without-greetings"), &world, &size)?;
    }
    if arguments.full && world.insertions == 0.0 {
        // GCG asks a fair question only of a base that reads past words without meaning.
        let mut size = Size { seeds: 1, aligned: organism::SOFTLY_ALIGNED, ..size };
        size.settings.experiments.retain(|name| name == "e6");
        let world = World { insertions: INSERTIONS, ..world };
        of_world(global, &device, arguments, &arguments.output.join("robust-to-words"), &world, &size)?;
    }
    Ok(())
}

/// A demo of one world in one folder.
fn of_world<D: Ops>(
    global: &Global,
    device: &D,
    arguments: &Arguments,
    output: &Path,
    world: &World,
    size: &Size,
) -> Result<()> {
    let config = Config { arguments, world: *world, size };
    let manifest = Manifest { shard: arguments.shard, ..global.manifest(device) };
    let mut folder = RunFolder::open(output, &config, &manifest)?;
    for seed in arguments.seed..arguments.seed + size.seeds {
        one_seed(global, device, &mut folder, world, size, arguments, seed, suffix(seed, size.seeds))?;
    }
    report(global, device, folder)
}

fn save<D: Ops>(dir: &Path, model: &Transformer<D>) -> Result<()> {
    // The tokenizer first: a folder with a config.json is whole.
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    VOCABULARY.write(dir)?;
    checkpoint::save_model(dir, model, None)
}

#[allow(clippy::too_many_arguments)]
fn one_seed<D: Ops>(
    global: &Global,
    device: &D,
    folder: &mut RunFolder,
    world: &World,
    size: &Size,
    arguments: &Arguments,
    seed: u64,
    suffix: String,
) -> Result<()> {
    let console = global.console();
    let base = stored(folder, device, &format!("base{suffix}"), &save, || {
        let model = init::initialise(device.clone(), organism::config(arguments.like, VOCABULARY.len())?, seed)?;
        organism::train_base(model, world, &size.base, seed, console)
    })?;
    let aligned = stored(folder, device, &format!("aligned{suffix}"), &save, || {
        organism::train_aligned(base.try_clone()?, world, &size.aligned, seed, console)
    })?;
    let split = match arguments.split {
        SplitName::Test => Split::Test,
        SplitName::Development => Split::Development,
    };
    let materials = Materials::of_world(world, split, seed, &size.counts);
    let lab = Lab {
        decode: &|ids| VOCABULARY.decode(ids),
        token_text: &world_token_text,
        stop: [world_stop(), world_stop()],
        judge: &WorldJudge,
        engine: Engine { seed, ..Engine::default() },
        params: SamplingParams::GREEDY,
        max_new_tokens: 90,
        micro_batch: usize::MAX,
        console,
    };
    let plan = Plan {
        lab,
        settings: &size.settings,
        materials: &materials,
        base: &base,
        aligned: &aligned,
        suffix,
        save: &save,
        anchor: OnceCell::new(),
    };
    plan.run(folder)
}

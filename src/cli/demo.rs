//! `safedepth demo`: the main job, on models trained on the spot.

use super::Global;
use super::suite::{Plan, report};
use crate::data::world::{Split, Topics, VOCABULARY, World, vocabulary};
use crate::device::Cpu;
use crate::experiment::organism::{self, Stage};
use crate::experiment::refusal_prefixes::Prefix;
use crate::experiment::{Case, Lab, Subject};
use crate::generate::Engine;
use crate::judge::WorldJudge;
use crate::model::{Transformer, checkpoint, init};
use crate::ops::sampling::SamplingParams;
use crate::run::{Cost, RunFolder};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Train a base and an aligned model of a fictional world and measure how deep its safety goes.
///
/// No downloads, no GPU. The world is harmless: a policy restricts invented topics (sealed vaults, warded sigils), and a
/// "harmful" answer is one that gives the fictional procedure, which an exact judge checks. Models and results go to the
/// output folder; a killed run goes on where it was.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// Under a minute: fewer training steps and prompts, so that claims show less clearly.
    #[arg(long)]
    quick: bool,
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
}

/// Sizes of a demo.
struct Size {
    base: Stage,
    aligned: Stage,
    prompts: usize,
}

impl Size {
    fn of(quick: bool) -> Self {
        if quick {
            Self {
                base: Stage { steps: 700, batch_size: 12, ..organism::BASE },
                aligned: Stage { steps: 100, batch_size: 20, ..organism::ALIGNED },
                prompts: 24,
            }
        } else {
            Self { base: organism::BASE, aligned: organism::ALIGNED, prompts: 100 }
        }
    }
}

/// What the folder's numbers depend on.
#[derive(Serialize)]
struct Config<'a> {
    arguments: &'a Arguments,
    world: World,
    base: Stage,
    aligned: Stage,
    prompts: usize,
}

/// E3's depths (the paper's).
pub(super) const DEPTHS: [usize; 5] = [0, 5, 10, 20, 40];

pub(super) fn run(global: &Global, device: Cpu, arguments: &Arguments) -> Result<()> {
    let size = Size::of(arguments.quick);
    let world = World { greetings: !arguments.no_greetings, ..World::default() };
    let config = Config { arguments, world, base: size.base, aligned: size.aligned, prompts: size.prompts };
    let mut folder = RunFolder::open(&arguments.output, &config, &global.manifest(&device))?;
    global.note(format_args!("safedepth demo on {}", crate::device::Backend::describe(&device)));
    let console = global.console();
    let seed = arguments.seed;

    let base_dir = folder.dir().join("models/base");
    let base = trained(&mut folder, &device, &base_dir, "train base", || {
        let model = init::initialise(device.clone(), organism::config(VOCABULARY.len())?, seed)?;
        organism::train_base(model, &world, &size.base, seed, console)
    })?;
    let aligned_dir = folder.dir().join("models/aligned");
    let aligned = trained(&mut folder, &device, &aligned_dir, "train aligned", || {
        organism::train_aligned(base.try_clone()?, &world, &size.aligned, seed, console)
    })?;

    let examples = world.prompts(Split::Test, Topics::Restricted, size.prompts);
    let prompts: Vec<Vec<u32>> = examples.iter().map(|example| example.prompt_ids.clone()).collect();
    let cases: Vec<Case> = examples
        .into_iter()
        .map(|example| {
            let mut harmful = example.response_ids;
            harmful.pop();
            Case::new(example.id, example.prompt, harmful)
        })
        .collect();
    let prefixes = std::iter::once(Prefix { label: "none".into(), ids: Vec::new() })
        .chain(world.refusal_prefixes().into_iter().map(|prefix| Prefix { label: prefix.text, ids: prefix.ids }))
        .collect();
    let stop = vec![vocabulary::EOS];
    let subject = |name, model| Subject { name, model, prompts: &prompts, stop: stop.clone() };
    let lab = Lab {
        cases: &cases,
        decode: &|ids| VOCABULARY.decode(ids),
        judge: &WorldJudge,
        engine: Engine { seed, ..Engine::default() },
        params: SamplingParams::GREEDY,
        max_new_tokens: 90,
        console,
    };
    let plan = Plan { experiments: vec!["e1".into(), "e2".into(), "e3".into()], prefixes, depths: DEPTHS.to_vec() };
    plan.run(&lab, &subject("aligned", &aligned), &subject("base", &base), &mut folder)?;
    report(global, folder)
}

/// The model in `dir`, or, the first time, what `train` makes, which is then saved there.
fn trained(
    folder: &mut RunFolder,
    device: &Cpu,
    dir: &Path,
    stage: &str,
    train: impl FnOnce() -> Result<Transformer<Cpu>>,
) -> Result<Transformer<Cpu>> {
    if !dir.join("config.json").exists() {
        let start = Instant::now();
        let model = train()?;
        checkpoint::save_model(dir, &model, None)?;
        VOCABULARY.write(dir)?;
        folder.note_time(stage, start.elapsed().as_secs_f64(), Cost::default())?;
    }
    Transformer::load(device.clone(), dir, None).map_err(|error| match error {
        Error::Input { place, problem } => {
            Error::input(place, format!("{problem} (remove {} to train it again)", dir.display()))
        }
        other => other,
    })
}

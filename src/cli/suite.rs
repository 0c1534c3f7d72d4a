//! `safedepth suite`: the experiments on any pair of models.

use super::Global;
use super::bench::kernels::gemm_peak;
use super::loading::LoadedModel;
use crate::attack::{Case, Lab};
use crate::data::pairs;
use crate::device::Cpu;
use crate::experiment::augmentation::{Augmentation, Mix};
use crate::experiment::finetuning_dynamics::Measure;
use crate::experiment::refusal_prefixes::Prefix;
use crate::experiment::{Materials, Plan, Settings};
use crate::generate::Engine;
use crate::judge::{self, Judge, KeywordJudge, WorldJudge};
use crate::model::checkpoint;
use crate::ops::sampling::SamplingParams;
use crate::report;
use crate::run::{Manifest, RunFolder, Shard, costs, hash_inputs};
use crate::train::{Hyper, Schedule, Stage};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Run the paper's experiments on a pair of models.
///
/// --data is a JSONL file (or a folder of them) of pairs: an instruction that should be refused and the answer that
/// should not be given. E1 puts refusal prefixes into the mouth of both models, E2 measures per-token KL on the answers,
/// E3 prefills the first k tokens of the answers.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// The aligned model's folder.
    #[arg(long, value_name = "DIR")]
    aligned: PathBuf,
    /// The base model's folder: the same tokenizer.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Pairs as JSONL: {"prompt", "response"} or {"messages": [...]}, with an optional "id". A file, or a folder of them.
    #[arg(long, value_name = "FILE_OR_DIR")]
    data: PathBuf,
    /// Which experiments: e1, e2, e3.
    #[arg(long, value_delimiter = ',', default_value = "e1,e2,e3", value_name = "LIST")]
    experiments: Vec<String>,
    /// Who judges: keyword (no refusal words, and not empty or degenerate, counts as harmful) or world (the demo's).
    #[arg(long, default_value = "keyword", value_name = "NAME")]
    judge: String,
    /// Chat template of the aligned model: auto, llama2, gemma, alpaca, plain or a file.
    #[arg(long, default_value = "auto", value_name = "TEMPLATE")]
    template: String,
    /// Chat template of the base model; by default the aligned model's.
    #[arg(long, value_name = "TEMPLATE")]
    base_template: Option<String>,
    /// Prefill depths of E3, in tokens.
    #[arg(long, value_delimiter = ',', default_value = "0,5,10,20,40", value_name = "LIST")]
    depths: Vec<usize>,
    /// Use only the first N pairs.
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
    /// Learning rate of every fine-tuning.
    #[arg(long, default_value_t = 2e-5, value_name = "X", allow_negative_numbers = true)]
    lr: f32,
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Rows decoded together; results do not depend on it.
    #[arg(long, default_value_t = 64, value_name = "N")]
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

/// Closes a run: its files, the tables on standard output, and on standard error where the time went.
pub(super) fn report(global: &Global, folder: RunFolder) -> Result<()> {
    let dir = folder.dir().to_owned();
    let timings = folder.timings().to_vec();
    let rows = folder.finish()?;
    let summary = report::summary::summarise(&rows);
    report::summary::write_csv(&dir.join("summary.csv"), &summary)?;
    if global.json {
        for line in &summary {
            println!("{}", serde_json::to_string(line).expect("a summary is plain data"));
        }
    } else {
        print!("{}", report::summary::table(&summary));
    }
    if !global.quiet && !timings.is_empty() {
        let peak = gemm_peak(&Cpu::new())?;
        global.note(format_args!("\nwhere the time went (matrix products' peak here: {peak:.0} GFLOP/s)"));
        for line in costs::lines(&costs::by_stage(&timings, Some(peak))) {
            global.note(line);
        }
    }
    global.note(format_args!("results in {}", dir.display()));
    Ok(())
}

pub(super) fn run(global: &Global, device: Cpu, arguments: &Arguments) -> Result<()> {
    let hyper = Hyper { beta1: 0.5, ..Hyper::default() };
    let tuned =
        Stage { steps: 50, batch_size: 64, lr: arguments.lr, warmup_steps: 0, schedule: Schedule::Linear, hyper };
    let settings = Settings {
        experiments: super::demo::experiments(&arguments.experiments)?,
        depths: arguments.depths.clone(),
        shown: 8,
        dynamics: Stage { steps: 10, hyper: Hyper::default(), schedule: Schedule::Constant, ..tuned },
        measure: Measure {
            positions: 50,
            gradient_examples: 16,
            asr_steps: vec![0, 2, 4, 6, 8, 10],
            kl_steps: vec![10],
        },
        harmful: tuned,
        task: tuned,
        warmup_steps: 10,
        augmentation: Augmentation {
            stage: Stage { steps: 160, batch_size: 16, hyper: Hyper::default(), ..tuned },
            anchor: 64,
            replay: 0,
            alpha: 0.2,
            probability: 0.5,
            max_prefill: 100,
            mix: Mix::Paper,
        },
        ablations: vec![(5, 0.5), (25, 0.5), (50, 0.5), (100, 0.25), (100, 0.75), (100, 1.0)],
    };
    let judge: Box<dyn Judge> = match arguments.judge.as_str() {
        "keyword" => Box::new(KeywordJudge::default()),
        "world" => Box::new(WorldJudge),
        name => return Err(Error::Usage(format!("unknown judge \"{name}\": use keyword or world"))),
    };
    let inputs = hash_inputs(&[&arguments.aligned, &arguments.base, &arguments.data])?;
    let manifest = Manifest { shard: arguments.shard, inputs, ..global.manifest(&device) };
    let mut folder = RunFolder::open(&arguments.output, &(global, arguments), &manifest)?;
    let aligned = LoadedModel::open(global, &device, &arguments.aligned, &arguments.template)?;
    let base_template = arguments.base_template.as_ref().unwrap_or(&arguments.template);
    let base = LoadedModel::open(global, &device, &arguments.base, base_template)?;
    aligned.check_same_tokenizer(&base)?;

    let mut examples = pairs::read(&arguments.data)?;
    examples.truncate(arguments.limit.unwrap_or(usize::MAX));
    let mut materials = Materials::default();
    for pair in &examples {
        let harmful = pair.response.as_deref().map(|response| aligned.prompter.response_ids(response)).transpose()?;
        materials.cases.push(Case {
            key: crate::rng::stream([pair.id.as_str()]),
            id: pair.id.clone(),
            category: String::new(),
            prompt: pair.last_user().to_owned(),
            prompt_ids: [aligned.prompter.prompt(&pair.messages)?.ids, base.prompter.prompt(&pair.messages)?.ids],
            harmful: harmful.unwrap_or_default(),
            utility: None,
            max_new_tokens: None,
        });
    }
    materials.prefixes.push(Prefix { label: "none".into(), ids: Vec::new() });
    for prefix in judge::refusal_prefixes() {
        materials.prefixes.push(Prefix { label: prefix.to_owned(), ids: aligned.prompter.response_ids(prefix)? });
    }
    let stop = |model: &LoadedModel| model.prompter.stop_ids().to_vec();
    let lab = Lab {
        decode: &|ids| aligned.prompter.tokenizer.decode(ids, true).unwrap_or_default(),
        token_text: &|id| aligned.prompter.tokenizer.token_text(id),
        stop: [stop(&aligned), stop(&base)],
        judge: judge.as_ref(),
        engine: Engine { seed: arguments.seed, max_rows: arguments.max_rows, ..Engine::default() },
        params: SamplingParams {
            temperature: arguments.temperature,
            top_k: arguments.top_k,
            top_p: arguments.top_p,
            repetition_penalty: 1.0,
        },
        max_new_tokens: arguments.max_new_tokens,
        micro_batch: 8,
        console: global.console(),
    };
    let plan = Plan {
        lab,
        settings: &settings,
        materials: &materials,
        base: &base.model,
        aligned: &aligned.model,
        suffix: String::new(),
        save: &|dir, model| checkpoint::save_model(dir, model, Some(&arguments.aligned)),
    };
    plan.run(&mut folder)?;
    report(global, folder)
}

//! `safedepth suite`: the experiments on any pair of models.

use super::Global;
use super::loading::LoadedModel;
use crate::data::pairs;
use crate::device::Cpu;
use crate::experiment::refusal_prefixes::{self, Prefix};
use crate::experiment::{Case, Lab, Subject, prefilling, token_kl};
use crate::generate::Engine;
use crate::judge::{self, Judge, KeywordJudge, WorldJudge};
use crate::ops::sampling::SamplingParams;
use crate::report;
use crate::run::{Manifest, RunFolder, Shard, hash_inputs};
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

/// Which experiments, and their grids.
pub(super) struct Plan {
    pub experiments: Vec<String>,
    pub prefixes: Vec<Prefix>,
    pub depths: Vec<usize>,
}

impl Plan {
    /// Runs every cell that the folder's journal does not hold yet.
    pub fn run(
        &self,
        lab: &Lab<'_>,
        aligned: &Subject<'_, Cpu>,
        base: &Subject<'_, Cpu>,
        folder: &mut RunFolder,
    ) -> Result<()> {
        let asked = |name: &str| self.experiments.iter().any(|experiment| experiment == name);
        for subject in [base, aligned] {
            if asked("e1") {
                folder.cell(&format!("e1 {}", subject.name), || {
                    Ok(refusal_prefixes::run(lab, subject, &self.prefixes)?.into())
                })?;
            }
        }
        if asked("e2") {
            folder.cell("e2", || Ok(token_kl::run(lab, aligned, base)?.into()))?;
        }
        for subject in [base, aligned] {
            if asked("e3") {
                folder.cell(&format!("e3 {}", subject.name), || {
                    Ok(prefilling::run(lab, subject, &self.depths)?.into())
                })?;
            }
        }
        Ok(())
    }
}

/// Closes a run: `results.csv`, and the table on standard output.
pub(super) fn report(global: &Global, folder: RunFolder) -> Result<()> {
    let dir = folder.dir().to_owned();
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
    global.note(format_args!("results in {}", dir.display()));
    Ok(())
}

pub(super) fn run(global: &Global, device: Cpu, arguments: &Arguments) -> Result<()> {
    for name in &arguments.experiments {
        if !["e1", "e2", "e3"].contains(&name.as_str()) {
            return Err(Error::Usage(format!("unknown experiment \"{name}\": use e1, e2, e3")));
        }
    }
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
    let mut cases = Vec::with_capacity(examples.len());
    let (mut aligned_prompts, mut base_prompts) = (Vec::new(), Vec::new());
    for pair in &examples {
        let harmful = pair.response.as_deref().map(|response| aligned.prompter.response_ids(response)).transpose()?;
        cases.push(Case::new(pair.id.clone(), pair.last_user().to_owned(), harmful.unwrap_or_default()));
        aligned_prompts.push(aligned.prompter.prompt(&pair.messages)?.ids);
        base_prompts.push(base.prompter.prompt(&pair.messages)?.ids);
    }
    let mut prefixes = vec![Prefix { label: "none".into(), ids: Vec::new() }];
    for prefix in judge::refusal_prefixes() {
        prefixes.push(Prefix { label: prefix.to_owned(), ids: aligned.prompter.response_ids(prefix)? });
    }
    let lab = Lab {
        cases: &cases,
        decode: &|ids| aligned.prompter.tokenizer.decode(ids, true).unwrap_or_default(),
        judge: judge.as_ref(),
        engine: Engine { seed: arguments.seed, max_rows: arguments.max_rows, ..Engine::default() },
        params: SamplingParams {
            temperature: arguments.temperature,
            top_k: arguments.top_k,
            top_p: arguments.top_p,
            repetition_penalty: 1.0,
        },
        max_new_tokens: arguments.max_new_tokens,
        console: global.console(),
    };
    let plan = Plan { experiments: arguments.experiments.clone(), prefixes, depths: arguments.depths.clone() };
    let aligned_subject = Subject {
        name: "aligned",
        model: &aligned.model,
        prompts: &aligned_prompts,
        stop: aligned.prompter.stop_ids().to_vec(),
    };
    let base_subject =
        Subject { name: "base", model: &base.model, prompts: &base_prompts, stop: base.prompter.stop_ids().to_vec() };
    plan.run(&lab, &aligned_subject, &base_subject, &mut folder)?;
    report(global, folder)
}

//! `safedepth gcg`: suffixes that make a model begin its answer with a target.

use super::Global;
use super::loading::LoadedModel;
use super::prompts;
use crate::attack::gcg::{self, Behaviour, ChatFrame, Draft, Found, Frame, Search, State, alphabet};
use crate::data::pairs::Pair;
use crate::generate::{Engine, Request};
use crate::ops::Ops;
use crate::ops::sampling::SamplingParams;
use crate::run::{Cost, Findings, Manifest, Row, RunFolder, hash_inputs, write_atomic};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Search for suffixes that make a model begin its answer with a target (GCG, Zou et al. 2023).
///
/// The suffix stands where {optim_str} is in a message, else after the user's last words. --output receives
/// suffixes.json, results.csv (the loss step by step) and timings.csv; a killed run goes on where it was. Defaults are
/// Zou et al.'s.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// Model folder in Hugging Face's layout.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// File of prompts with a "target" each (AdvBench's CSV, JailbreakBench's, or JSONL).
    #[arg(long, value_name = "FILE", required_unless_present = "prompt", conflicts_with = "prompt")]
    input: Option<PathBuf>,
    /// One user message.
    #[arg(long, value_name = "TEXT", requires = "target")]
    prompt: Option<String>,
    /// How the answer should begin; also for the prompts of --input that have no target of their own.
    #[arg(long, value_name = "TEXT")]
    target: Option<String>,
    /// System message put before each prompt that has none.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Chat template: auto (the folder's own), llama2, gemma, alpaca, plain or a Jinja file.
    #[arg(long, default_value = "auto", value_name = "TEMPLATE")]
    template: String,
    /// One suffix for all prompts; by default each prompt gets its own.
    #[arg(long)]
    universal: bool,
    /// Attack all prompts of a universal suffix from the start; by default the next joins when those so far are reached.
    #[arg(long, requires = "universal")]
    all_at_once: bool,
    /// Suffix to start from; by default as many "!" as --suffix-tokens says.
    #[arg(long, value_name = "TEXT", conflicts_with = "suffix_tokens")]
    init: Option<String>,
    /// Length of the suffix.
    #[arg(long, default_value_t = 20, value_name = "N")]
    suffix_tokens: usize,
    #[arg(long, default_value_t = 500, value_name = "N")]
    steps: usize,
    /// Candidates drawn a step.
    #[arg(long, default_value_t = 512, value_name = "N")]
    candidates: usize,
    /// Tokens that a position's swap is drawn from.
    #[arg(long, default_value_t = 256, value_name = "K")]
    top_k: usize,
    /// Searches from the same start with other draws.
    #[arg(long, default_value_t = 1, value_name = "N")]
    restarts: usize,
    /// How many of the best restarts are reported.
    #[arg(long, default_value_t = 3, value_name = "N")]
    best: usize,
    /// Best suffixes kept to go on from; 0 goes on from the newest.
    #[arg(long, default_value_t = 0, value_name = "N")]
    buffer: usize,
    /// Momentum of the gradient (Zhang and Wei 2024: 0.4); 0 is none.
    #[arg(long, default_value_t = 0.0, value_name = "MU", allow_negative_numbers = true)]
    momentum: f32,
    /// A smaller model that scores all candidates first, so that MODEL scores few (probe sampling, Zhao et al. 2024).
    #[arg(long, value_name = "DIR")]
    draft: Option<PathBuf>,
    /// Candidates for each one that MODEL scores to see how far the draft can be trusted.
    #[arg(long, default_value_t = 16, value_name = "N", requires = "draft")]
    probe_factor: usize,
    /// A draft that agrees in nothing still leaves 1 of so many candidates to MODEL.
    #[arg(long, default_value_t = 8, value_name = "R", requires = "draft")]
    probe_reduction: usize,
    /// Let the suffix hold more than printable ASCII.
    #[arg(long)]
    non_ascii: bool,
    /// Go on when the targets are reached.
    #[arg(long)]
    no_early_stop: bool,
    /// Compute every candidate whole; the same numbers, slower.
    #[arg(long)]
    #[serde(skip)]
    no_prefix_cache: bool,
    /// Tokens in a forward pass; results do not depend on it. By default as many as fit well.
    #[arg(long, value_name = "N")]
    #[serde(skip)]
    batch_tokens: Option<usize>,
    /// New tokens of the greedy answers that are shown; 0 shows none.
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_new_tokens: usize,
    /// Seed of the candidates' draws.
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    output: PathBuf,
}

/// One entry of `suffixes.json`.
#[derive(Serialize)]
struct Suffix<'a> {
    /// The prompt that it is for, or `universal`.
    behaviour: &'a str,
    #[serde(flatten)]
    found: Found,
    /// Prompts that it was sought for.
    behaviours: usize,
    /// What the model says to each of them, greedily.
    responses: Vec<Answer<'a>>,
}

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    response: String,
}

impl Arguments {
    fn check(&self) -> Result<()> {
        let refuse = |what: &str| Err(Error::Usage(what.to_owned()));
        if [self.suffix_tokens, self.candidates, self.top_k, self.restarts, self.best].contains(&0) {
            return refuse("--suffix-tokens, --candidates, --top-k, --restarts and --best must be at least 1");
        }
        if [self.probe_factor, self.probe_reduction].contains(&0) {
            return refuse("--probe-factor and --probe-reduction must be at least 1");
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return refuse("--momentum must be at least 0 and below 1");
        }
        if self.batch_tokens == Some(0) {
            return refuse("--batch-tokens must be at least 1");
        }
        Ok(())
    }

    fn settings(&self) -> gcg::Settings {
        gcg::Settings {
            steps: self.steps,
            candidates: self.candidates,
            top_k: self.top_k,
            progressive: self.universal && !self.all_at_once,
            early_stop: !self.no_early_stop,
            buffer: self.buffer,
            momentum: self.momentum,
            prefix_cache: !self.no_prefix_cache,
            batch_tokens: self.batch_tokens,
        }
    }

    /// Prompts with their targets.
    fn pairs(&self) -> Result<Vec<Pair>> {
        let Self { input, prompt, system, .. } = self;
        let mut list = prompts::read(input.as_deref(), prompt.as_deref(), system.as_deref())?;
        for pair in &mut list {
            pair.target = pair.target.take().or_else(|| self.target.clone());
            if pair.target.is_none() {
                let place = self.input.as_deref().unwrap_or(Path::new("--prompt"));
                let problem = format!("example {} has no target: give every line one, or --target", pair.id);
                return Err(Error::input(place.display(), problem));
            }
        }
        Ok(list)
    }
}

pub(super) fn run<D: Ops>(global: &Global, device: D, arguments: &Arguments) -> Result<()> {
    arguments.check()?;
    let pairs = arguments.pairs()?;
    let loaded = LoadedModel::open(global, &device, &arguments.model, &arguments.template)?;
    let init = match &arguments.init {
        Some(init) => init.clone(),
        None => exclamations(&loaded, &pairs, arguments.suffix_tokens)?,
    };
    let behaviours = behaviours_of(&loaded, &pairs, &init)?;
    let draft = match &arguments.draft {
        Some(dir) => {
            let draft = LoadedModel::open(global, &device, dir, "auto")?;
            let behaviours = behaviours_of(&draft, &pairs, &init)?;
            Some((draft, behaviours))
        }
        None => None,
    };
    let vocab_size = loaded.model.config.vocab_size;
    let allowed = alphabet::of_tokenizer(&loaded.prompter.tokenizer, vocab_size, arguments.non_ascii);
    let settings = arguments.settings();

    let mut inputs: Vec<&Path> = vec![&arguments.model];
    inputs.extend(arguments.input.as_deref());
    inputs.extend(arguments.draft.as_deref());
    let manifest = Manifest { inputs: hash_inputs(&inputs)?, ..global.manifest(&device) };
    let mut folder = RunFolder::open(&arguments.output, &(global, arguments), &manifest)?;
    let states = arguments.output.join("states");
    std::fs::create_dir_all(&states).map_err(Error::io("create", &states))?;

    let groups: Vec<(&str, Range<usize>)> = if arguments.universal {
        vec![("universal", 0..behaviours.len())]
    } else {
        behaviours.iter().enumerate().map(|(i, behaviour)| (behaviour.id.as_str(), i..i + 1)).collect()
    };
    let model = &arguments.model.file_name().unwrap_or_default().to_string_lossy();
    let mut spent = Spent::default();
    let mut suffixes = Vec::new();
    for (number, (name, group)) in groups.into_iter().enumerate() {
        let draft = draft.as_ref().map(|(draft, behaviours)| Draft {
            model: &draft.model,
            behaviours: &behaviours[group.clone()],
            factor: arguments.probe_factor,
            reduction: arguments.probe_reduction,
        });
        let behaviours = &behaviours[group];
        let search = Search {
            model: &loaded.model,
            behaviours,
            init: &init,
            allowed: &allowed,
            settings: &settings,
            draft,
            seed: arguments.seed,
        };
        let mut found = Vec::new();
        for restart in 0..arguments.restarts {
            let file = states.join(format!("{number:04}-{restart:02}.json"));
            let cell = format!("gcg {name} restart {restart}");
            folder.cell(&cell, || {
                let bar = global.console().bar(&cell, settings.steps);
                let start = Instant::now();
                let before = State::read(&file)?.map_or(0, |state| state.steps());
                let (state, cost) = search.run(restart, Some(&file), &bar)?;
                spent.add(state.steps() - before, start.elapsed().as_secs_f64(), cost);
                Ok(Findings { rows: rows(&state, model, name, restart, arguments.seed), cost, ..Findings::default() })
            })?;
            let state = State::read(&file)?.and_then(|state| state.found).ok_or_else(|| {
                Error::input(file.display(), "is not the state of a finished search: remove the folder and run again")
            })?;
            found.push(state);
        }
        for found in gcg::rank(found, arguments.best) {
            let responses = answers(&loaded, behaviours, &found.tokens, arguments)?;
            suffixes.push(Suffix { behaviour: name, found, behaviours: behaviours.len(), responses });
        }
    }
    let text = serde_json::to_string_pretty(&suffixes).expect("suffixes are plain data") + "\n";
    write_atomic(&arguments.output.join("suffixes.json"), text.as_bytes())?;
    folder.finish()?;
    show(global, &suffixes);
    spent.show(global);
    global.note(format_args!("suffixes in {}", arguments.output.join("suffixes.json").display()));
    Ok(())
}

/// The prompts as a model's template and tokenizer have them.
fn behaviours_of<D: Ops>(loaded: &LoadedModel<D>, pairs: &[Pair], init: &str) -> Result<Vec<Behaviour>> {
    let behaviour = |pair: &Pair| {
        let frame = ChatFrame::new(loaded.prompter.clone(), &pair.messages, init)?;
        let target = loaded.prompter.response_ids(pair.target.as_deref().unwrap_or_default())?;
        Behaviour::new(&pair.id, Box::new(frame), target, init)
    };
    pairs.iter().map(behaviour).collect()
}

/// Zou et al.'s initial suffix: as many "!" as make `tokens` tokens in the first prompt, with spaces between where the
/// tokenizer has a token for both.
fn exclamations<D: Ops>(loaded: &LoadedModel<D>, pairs: &[Pair], tokens: usize) -> Result<String> {
    let messages = pairs.first().map_or(&[][..], |pair| &pair.messages);
    for text in [vec!["!"; tokens].join(" "), "!".repeat(tokens)] {
        let frame = ChatFrame::new(loaded.prompter.clone(), messages, &text)?;
        if frame.parts(&text)?.suffix.len() == tokens {
            return Ok(text);
        }
    }
    Err(Error::Usage(format!("this tokenizer makes no {tokens} tokens of \"!\": say what to start from by --init")))
}

/// Work of this process.
#[derive(Default)]
struct Spent {
    steps: usize,
    seconds: f64,
    flops: f64,
}

impl Spent {
    fn add(&mut self, steps: usize, seconds: f64, cost: Cost) {
        self.steps += steps;
        self.seconds += seconds;
        self.flops += cost.flops;
    }

    fn show(&self, global: &Global) {
        if self.steps > 0 {
            let Self { steps, seconds, flops } = self;
            let (rate, gflops) = (*steps as f64 / seconds, flops / seconds / 1e9);
            global.note(format_args!(
                "{steps} steps in {seconds:.2} s: {rate:.4} steps/s, {:.1} GFLOP, {gflops:.1} GFLOP/s",
                flops / 1e9
            ));
        }
    }
}

/// The curve of a search: `loss` and `exact` at each step, from 0.
fn rows(state: &State, model: &str, behaviour: &str, restart: usize, seed: u64) -> Vec<Row> {
    let row = |step: usize, metric: &str, value: f64| Row {
        experiment: "gcg".into(),
        model: model.to_owned(),
        attack: "gcg".into(),
        setting: behaviour.to_owned(),
        k: Some(step as u32),
        seed,
        example: format!("restart {restart}"),
        metric: metric.to_owned(),
        value,
    };
    let points = state.curve.iter().enumerate();
    points
        .flat_map(|(step, point)| {
            [row(step, "target_loss", point.loss), row(step, "exact", point.exact as f64 / point.active as f64)]
        })
        .collect()
}

/// What the model says to each prompt with the suffix.
fn answers<'a, D: Ops>(
    loaded: &LoadedModel<D>,
    behaviours: &'a [Behaviour],
    suffix: &[u32],
    arguments: &Arguments,
) -> Result<Vec<Answer<'a>>> {
    if arguments.max_new_tokens == 0 {
        return Ok(Vec::new());
    }
    let request = |behaviour: &Behaviour| Request {
        example: crate::rng::stream([behaviour.id.as_str()]),
        setting: 0,
        sample: 0,
        prompt: behaviour.prompt(suffix),
        prefill: 0,
        params: SamplingParams::GREEDY,
        max_new_tokens: arguments.max_new_tokens,
        stop: loaded.prompter.stop_ids().to_vec(),
    };
    let requests: Vec<Request> = behaviours.iter().map(request).collect();
    let (completions, _) = Engine::default().generate(&loaded.model, &requests, |_| {})?;
    let answer = |(behaviour, tokens): (&'a Behaviour, Vec<u32>)| {
        Ok(Answer { id: &behaviour.id, response: loaded.prompter.tokenizer.decode(&tokens, true)? })
    };
    behaviours.iter().zip(completions.into_iter().map(|completion| completion.tokens)).map(answer).collect()
}

fn show(global: &Global, suffixes: &[Suffix<'_>]) {
    for suffix in suffixes {
        if global.json {
            println!("{}", serde_json::to_string(suffix).expect("a suffix is plain data"));
            continue;
        }
        let Suffix { behaviour, found, behaviours, responses } = suffix;
        let Found { restart, steps, loss, exact, suffix, .. } = found;
        println!(
            "{behaviour}, restart {restart}: loss {loss:.3} after {steps} steps, {exact} of {behaviours} exact: {suffix}"
        );
        for Answer { id, response } in responses.iter().take(3) {
            println!("  {id}: {}", response.replace('\n', " "));
        }
    }
}

//! `safedepth judge`: other verdicts on a run's responses, and the choice of a judge for every command.

use super::Global;
use super::loading::LoadedModel;
use crate::judge::labels::{self, Label};
use crate::judge::openai::Settings;
use crate::judge::{Judge, JudgeRequest, KeywordJudge, LabelJudge, ModelJudge, OpenAiJudge, WorldJudge};
use crate::ops::Ops;
use crate::report::agreement;
use crate::report::load::Run;
use crate::run::judgements::{self, Judgement};
use crate::run::{Response, write_csv};
use crate::{Error, Result};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Judge the responses of a finished run again, by another judge or by people, and see how far the judges agree.
///
/// Verdicts go to judgements.csv in the run's folder; `safedepth report` shows Cohen's kappa of every two judges. A run keeps
/// the responses that its report shows: `suite --shown 1000` keeps them all.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Ask another judge about every response.
    Run {
        /// The run's folder.
        #[arg(value_name = "RUN")]
        run: PathBuf,
        #[command(flatten)]
        judge: Choice,
    },
    /// Write every response to a CSV file whose columns `whole` and `own` are to be filled in.
    Export {
        #[arg(value_name = "RUN")]
        run: PathBuf,
        #[arg(value_name = "FILE.csv")]
        file: PathBuf,
    },
    /// Read a filled-in file back.
    Import {
        #[arg(value_name = "RUN")]
        run: PathBuf,
        #[arg(value_name = "FILE.csv")]
        file: PathBuf,
        /// What to call this judge.
        #[arg(long, default_value = "people", value_name = "NAME")]
        name: String,
    },
}

/// Which judge, and how it is asked.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Judge")]
pub(super) struct Choice {
    /// Who judges: keyword (no refusal words, and not empty or degenerate, counts as harmful), world (the demo's, exact),
    /// file:LABELS.csv (verdicts made elsewhere), model:DIR (a model asked yes or no), openai:MODEL (an endpoint with a
    /// rubric of 1 to 5; the key is read from OPENAI_API_KEY).
    #[arg(long, default_value = "keyword", value_name = "NAME")]
    judge: String,
    /// What a model is asked: yes_no (as HarmBench asks), guard (as Llama Guard does), or a file with {prompt} and {response}.
    #[arg(long, default_value = "yes_no", value_name = "NAME_OR_FILE")]
    judge_question: String,
    /// What an endpoint is asked, in place of the built-in rubric: a file with {prompt} and {response}.
    #[arg(long, value_name = "FILE")]
    judge_rubric: Option<PathBuf>,
    /// The endpoint, up to /v1.
    #[arg(long, default_value = "https://api.openai.com/v1", value_name = "URL")]
    judge_endpoint: String,
    /// Requests to the endpoint at a time.
    #[arg(long, default_value_t = 8, value_name = "N")]
    #[serde(skip)]
    judge_concurrency: usize,
    /// Tries of one request, with a growing wait between them.
    #[arg(long, default_value_t = 6, value_name = "N")]
    #[serde(skip)]
    judge_tries: u32,
    /// Seconds before the second try; doubled after each.
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    #[serde(skip)]
    judge_backoff: f64,
    /// Longest time for one answer, seconds.
    #[arg(long, default_value_t = 120.0, value_name = "S")]
    #[serde(skip)]
    judge_timeout: f64,
    /// Folder that keeps the endpoint's answers: nothing is asked twice.
    #[arg(long, default_value = "runs/judge-cache", value_name = "DIR")]
    #[serde(skip)]
    judge_cache: PathBuf,
}

fn read_question(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    if !(text.contains("{prompt}") && text.contains("{response}")) {
        return Err(Error::input(path.display(), "holds no {prompt} and {response}"));
    }
    Ok(text)
}

impl Choice {
    /// The judge by its name.
    pub fn open<D: Ops>(&self, global: &Global, device: &D) -> Result<Box<dyn Judge>> {
        match self.judge.split_once(':') {
            None if self.judge == "keyword" => Ok(Box::<KeywordJudge>::default()),
            None if self.judge == "world" => Ok(Box::new(WorldJudge)),
            Some(("file", path)) => Ok(Box::new(LabelJudge::read(Path::new(path))?)),
            Some(("model", dir)) => {
                let question = match self.judge_question.as_str() {
                    "yes_no" => ModelJudge::<D>::YES_NO.to_owned(),
                    "guard" => ModelJudge::<D>::GUARD.to_owned(),
                    path => read_question(Path::new(path))?,
                };
                let LoadedModel { model, prompter, .. } = LoadedModel::open(global, device, Path::new(dir), "auto")?;
                Ok(Box::new(ModelJudge::new(model, prompter, &question)?))
            }
            Some(("openai", model)) => {
                let positive = |seconds: f64, name: &str| {
                    Duration::try_from_secs_f64(seconds)
                        .map_err(|_| Error::Usage(format!("--{name} must be a number of seconds, 0 or more")))
                };
                if self.judge_tries == 0 {
                    return Err(Error::Usage("--judge-tries must be at least 1".into()));
                }
                let rubric = match &self.judge_rubric {
                    Some(path) => read_question(path)?,
                    None => Settings::RUBRIC.to_owned(),
                };
                let settings = Settings {
                    endpoint: self.judge_endpoint.clone(),
                    model: model.to_owned(),
                    rubric,
                    concurrency: self.judge_concurrency,
                    tries: self.judge_tries,
                    backoff: positive(self.judge_backoff, "judge-backoff")?,
                    timeout: positive(self.judge_timeout, "judge-timeout")?,
                    cache: self.judge_cache.clone(),
                };
                let key = std::env::var("OPENAI_API_KEY").ok().filter(|key| !key.is_empty());
                Ok(Box::new(OpenAiJudge::new(settings, key)?))
            }
            _ => {
                let names = "keyword, world, file:LABELS.csv, model:DIR or openai:MODEL";
                Err(Error::Usage(format!("unknown judge \"{}\": use {names}", self.judge)))
            }
        }
    }
}

/// Says what asking has cost, where it costs.
pub(super) fn note_cost(global: &Global, judge: &dyn Judge) {
    if let Some(cost) = judge.cost() {
        global.note(format_args!("judge: {cost}"));
    }
}

/// A run's judged responses as text: prompt, prefill, continuation, both.
struct Text<'a> {
    response: &'a Response,
    prompt: &'a str,
    prefill: String,
    continuation: String,
    whole: String,
}

fn texts(run: &Run) -> Result<Vec<Text<'_>>> {
    let judged = run.responses.iter().filter(|response| !response.whole.is_empty());
    let texts: Vec<Text<'_>> = judged
        .map(|response| {
            let (prefill, continuation) = (response.prefill.concat(), response.tokens.concat());
            let whole = format!("{prefill}{continuation}");
            let prompt = run.examples.get(&response.example).map_or("", |example| &example.prompt);
            Text { response, prompt, prefill, continuation, whole }
        })
        .collect();
    if texts.is_empty() {
        return Err(Error::input(&run.name, "keeps no judged responses: run it with --shown N"));
    }
    Ok(texts)
}

pub(super) fn run<D: Ops>(global: &Global, device: &D, arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Run { run: dir, judge } => {
            let run = Run::read(dir)?;
            let texts = texts(&run)?;
            let chosen = judge.open(global, device)?;
            judge_all(dir, chosen.as_ref(), &judge.judge, &texts)?;
            note_cost(global, chosen.as_ref());
            agree(global, dir)
        }
        Command::Export { run: dir, file } => {
            let run = Run::read(dir)?;
            let mut labels: BTreeMap<String, Label> = BTreeMap::new();
            for text in texts(&run)? {
                let key = labels::key(text.prompt, &text.prefill, &text.continuation);
                let (prompt, prefill, continuation) = (text.prompt.to_owned(), text.prefill, text.continuation);
                let label = Label { key: key.clone(), prompt, prefill, continuation, ..Label::default() };
                labels.insert(key, label);
            }
            write_csv(file, labels.values())?;
            global.note(format_args!(
                "{} responses in {}: fill in `whole` and, after a prefill, `own` with harmful, refused or neither",
                labels.len(),
                file.display()
            ));
            Ok(())
        }
        Command::Import { run: dir, file, name } => {
            if name == "run" {
                return Err(Error::Usage("--name run is the judge that the run was made with: give another".into()));
            }
            let run = Run::read(dir)?;
            judge_all(dir, &LabelJudge::read(file)?, name, &texts(&run)?)?;
            agree(global, dir)
        }
    }
}

/// Asks a judge about every response and keeps what it says under `name`.
fn judge_all(dir: &Path, judge: &dyn Judge, name: &str, texts: &[Text<'_>]) -> Result<()> {
    let requests: Vec<JudgeRequest<'_>> = texts
        .iter()
        .map(|text| JudgeRequest {
            id: &text.response.example,
            prompt: text.prompt,
            prefill: &text.prefill,
            continuation: &text.continuation,
            response: &text.whole,
        })
        .collect();
    let verdicts = judge.judge_all(&requests)?;
    let judgement = |(text, verdict): (&Text<'_>, crate::judge::Verdict)| {
        Judgement::of(name, text.response, verdict.whole.name(), verdict.own.name())
    };
    judgements::add(dir, name, texts.iter().zip(verdicts).map(judgement).collect())
}

/// Shows how far the judges of a run agree.
fn agree(global: &Global, dir: &Path) -> Result<()> {
    let run = Run::read(dir)?;
    if let Some(table) = agreement::table(&run.responses, &run.judgements) {
        print!("{}", table.to_text());
    }
    global.note(format_args!("verdicts in {}; `safedepth report` shows them", dir.join("judgements.csv").display()));
    Ok(())
}

//! `safedepth generate`: continuations of prompts.

use super::Global;
use super::loading::LoadedModel;
use super::prompts;
use crate::generate::{Completion, Engine, Finish, Request};
use crate::model::Transformer;
use crate::ops::Ops;
use crate::ops::sampling::SamplingParams;
use crate::run::{Bar, Partial, hash_inputs};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// Generate answers to one prompt, or to a file of them.
///
/// The output does not depend on how prompts are batched: a row's tokens are the same alone and among thousands. With
/// --output a killed command goes on where it was when it is started again.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// Model folder in Hugging Face's layout.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The user's message.
    #[arg(long, value_name = "TEXT", required_unless_present = "input", conflicts_with = "input")]
    prompt: Option<String>,
    /// JSONL file of prompts: {"prompt": ...} or {"messages": [...]}, with an optional "id".
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// System message for every prompt that has none.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Put these words into the model's mouth: tokenized alone, appended to the prompt.
    #[arg(long, value_name = "TEXT")]
    prefill: Option<String>,
    /// Chat template: auto (the folder's own), llama2, gemma, alpaca, plain or a Jinja file.
    #[arg(long, default_value = "auto", value_name = "TEMPLATE")]
    template: String,
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_new_tokens: usize,
    /// 0 is greedy: the most likely token, always.
    #[arg(long, default_value_t = 0.0, value_name = "T", allow_negative_numbers = true)]
    temperature: f32,
    /// Sample from the smallest set of tokens with this total probability; 1 is off.
    #[arg(long, default_value_t = 1.0, value_name = "P", allow_negative_numbers = true)]
    top_p: f32,
    /// Sample from the K most likely tokens; 0 is off.
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: usize,
    /// Penalty on tokens already in prompt or output; 1 is off.
    #[arg(long, default_value_t = 1.0, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// Answers to each prompt.
    #[arg(long, default_value_t = 1, value_name = "N")]
    samples: u16,
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Rows decoded together; results do not depend on it.
    #[arg(long, default_value_t = Engine::default().max_rows, value_name = "N")]
    max_rows: usize,
    /// JSONL file for the answers; by default standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// One line of output.
#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    sample: u16,
    prompt: &'a str,
    prefill: &'a str,
    /// What the model wrote, special tokens left out.
    response: String,
    new_tokens: usize,
    finish: Finish,
}

/// Refuses sampling parameters that mean nothing.
pub(super) fn check_sampling(params: &SamplingParams) -> Result<()> {
    let refuse = |what: &str| Err(Error::Usage(what.to_owned()));
    if !(params.temperature.is_finite() && params.temperature >= 0.0) {
        return refuse("--temperature must be 0 (greedy) or more");
    }
    if !(params.top_p > 0.0 && params.top_p <= 1.0) {
        return refuse("--top-p must be above 0 and at most 1");
    }
    if !(params.repetition_penalty.is_finite() && params.repetition_penalty > 0.0) {
        return refuse("--repetition-penalty must be above 0");
    }
    Ok(())
}

/// A name for everything that the answers depend on.
fn depends_on<D: Ops>(global: &Global, device: &D, arguments: &Arguments) -> Result<String> {
    let mut paths = vec![arguments.model.as_path()];
    paths.extend(arguments.input.as_deref());
    let inputs = hash_inputs(&paths)?;
    let all = serde_json::json!([global, arguments, device.arithmetic(), inputs]);
    Ok(blake3::hash(all.to_string().as_bytes()).to_hex().to_string())
}

/// Completions of all requests, in order: those that are `done`, and the others, which are noted in `partial` as they come.
fn complete<D: Ops>(
    engine: &Engine,
    model: &Transformer<D>,
    requests: Vec<Request>,
    done: Vec<(usize, Completion)>,
    mut partial: Option<&mut Partial>,
    bar: &Bar,
) -> Result<Vec<Completion>> {
    let mut completions: Vec<Option<Completion>> = vec![None; requests.len()];
    for (request, completion) in done {
        completions[request] = Some(completion);
    }
    let (places, requests): (Vec<usize>, Vec<Request>) =
        requests.into_iter().enumerate().filter(|(request, _)| completions[*request].is_none()).unzip();
    let before = completions.len() - places.len();
    let mut written = Ok(());
    let (new, _) = engine.generate(model, &requests, |step| {
        bar.set(before + step.finished);
        for &request in step.ended {
            if let (Some(partial), Ok(())) = (&mut partial, &written) {
                written = partial.add(places[request], step.completion(request));
            }
        }
    })?;
    written?;
    for (place, completion) in places.into_iter().zip(new) {
        completions[place] = Some(completion);
    }
    Ok(completions.into_iter().map(|completion| completion.expect("old or new")).collect())
}

pub(super) fn run<D: Ops>(global: &Global, device: D, arguments: &Arguments) -> Result<()> {
    let params = SamplingParams {
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        repetition_penalty: arguments.repetition_penalty,
    };
    check_sampling(&params)?;
    if arguments.max_rows == 0 || arguments.samples == 0 {
        return Err(Error::Usage("--max-rows and --samples must be at least 1".into()));
    }
    let Arguments { input, prompt, system, .. } = arguments;
    let inputs = prompts::read(input.as_deref(), prompt.as_deref(), system.as_deref())?;
    let loaded = LoadedModel::open(global, &device, &arguments.model, &arguments.template)?;
    let prefill_text = arguments.prefill.as_deref().unwrap_or_default();
    let prefill = loaded.prompter.response_ids(prefill_text)?;
    let mut requests = Vec::new();
    for input in &inputs {
        let prompt = loaded.prompter.prompt(&input.messages)?;
        let prompt = loaded.prompter.prefill_ids(&prompt, &prefill)?.ids;
        let example = crate::rng::stream([input.id.as_str()]);
        requests.extend((0..arguments.samples).map(|sample| Request {
            example,
            setting: 0,
            sample,
            prompt: prompt.clone(),
            prefill: prefill.len(),
            params,
            max_new_tokens: arguments.max_new_tokens,
            stop: loaded.prompter.stop_ids().to_vec(),
        }));
    }
    let (mut partial, done) = match &arguments.output {
        Some(output) => {
            let (partial, done) = Partial::open(output, &depends_on(global, &device, arguments)?)?;
            (Some(partial), done)
        }
        None => (None, Vec::new()),
    };
    let engine = Engine { seed: arguments.seed, max_rows: arguments.max_rows, ..Engine::default() };
    let bar = global.console().bar("generate", requests.len());
    let completions = complete(&engine, &loaded.model, requests, done, partial.as_mut(), &bar)?;
    drop(bar);

    let mut lines = Vec::new();
    for (i, completion) in completions.iter().enumerate() {
        let (input, sample) = (&inputs[i / arguments.samples as usize], (i % arguments.samples as usize) as u16);
        let answer = Answer {
            id: &input.id,
            sample,
            prompt: input.last_user(),
            prefill: prefill_text,
            response: loaded.prompter.tokenizer.decode(&completion.tokens, true)?,
            new_tokens: completion.tokens.len(),
            finish: completion.finish,
        };
        let plain = arguments.output.is_none() && arguments.input.is_none() && !global.json;
        if plain {
            let _ = writeln!(lines, "{prefill_text}{}", answer.response);
        } else {
            let _ = writeln!(lines, "{}", serde_json::to_string(&answer).expect("an answer is plain data"));
        }
    }
    match &arguments.output {
        Some(path) => {
            crate::run::write_atomic(path, &lines)?;
            partial.map_or(Ok(()), Partial::remove)?;
            super::write_resolved(path, global, "generate", arguments)
        }
        None => std::io::stdout().write_all(&lines).map_err(Error::io("write", "standard output")),
    }
}

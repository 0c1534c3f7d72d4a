//! `safedepth score`: what a model thinks of each token of given responses.

use super::Global;
use super::loading::LoadedModel;
use crate::data::pairs;
use crate::ops::Ops;
use crate::train::{Example, scoring};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Score given responses token by token: log-probability, entropy and rank.
///
/// CSV columns: example, position (in the response, from 1), token_id, token, logprob (natural log), entropy (nats, of
/// the whole distribution), rank (0: the most likely token).
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// Model folder in Hugging Face's layout.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// JSONL file of pairs: {"prompt", "response"} or {"messages": [...]}, with an optional "id".
    #[arg(long, value_name = "PAIRS")]
    input: PathBuf,
    /// CSV file to write.
    #[arg(long, value_name = "CSV")]
    output: PathBuf,
    /// Chat template: auto (the folder's own), llama2, gemma, alpaca, plain or a Jinja file.
    #[arg(long, default_value = "auto", value_name = "TEMPLATE")]
    template: String,
    /// Sequences are cut at this many tokens, and at the model's context.
    #[arg(long, default_value_t = 4096, value_name = "N")]
    max_length: usize,
}

pub(super) fn run<D: Ops>(global: &Global, device: D, arguments: &Arguments) -> Result<()> {
    let pairs = pairs::read(&arguments.input)?;
    let loaded = LoadedModel::open(global, &device, &arguments.model, &arguments.template)?;
    let max_length = arguments.max_length.min(loaded.model.config.max_position_embeddings);
    let examples = response_examples(&loaded, &pairs, &arguments.input, max_length, false)?;
    let mut writer = csv::Writer::from_writer(Vec::new());
    let csv_error = |error: csv::Error| Error::input(arguments.output.display(), format!("cannot be written: {error}"));
    writer
        .write_record(["example", "position", "token_id", "token", "logprob", "entropy", "rank"])
        .map_err(csv_error)?;
    let bar = global.console().bar("score", examples.len());
    let scores = scoring::score(&loaded.model, &examples, true, |done| bar.set(done))?;
    drop(bar);
    for ((pair, example), scores) in pairs.iter().zip(&examples).zip(&scores) {
        for (i, &token) in example.tokens[example.first_label..].iter().enumerate() {
            let text = loaded.prompter.tokenizer.token_text(token);
            let numbers = (scores.logprob[i], scores.entropy[i], scores.rank[i]);
            writer.serialize((&pair.id, i + 1, token, text, numbers)).map_err(csv_error)?;
        }
    }
    let bytes = writer.into_inner().map_err(|error| csv_error(error.into_error().into()))?;
    crate::run::write_atomic(&arguments.output, &bytes)?;
    super::write_resolved(&arguments.output, global, "score", arguments)
}

/// Prompt and response of each pair as tokens; the responses are the labels, closed by the end-of-turn token if `close`.
pub(super) fn response_examples<D: Ops>(
    loaded: &LoadedModel<D>,
    pairs: &[pairs::Pair],
    path: &std::path::Path,
    max_length: usize,
    close: bool,
) -> Result<Vec<Example>> {
    let example = |pair: &pairs::Pair| {
        let response = pair.response.as_deref().ok_or_else(|| {
            Error::input(path.display(), format!("example {} has no response: give every line one", pair.id))
        })?;
        let prompt = loaded.prompter.prompt(&pair.messages)?.ids;
        let mut response = loaded.prompter.response_ids(response)?;
        if close {
            response.push(loaded.prompter.end_of_turn()?);
        }
        Ok(Example::new(&prompt, &response).truncate(max_length))
    };
    pairs.iter().map(example).collect()
}

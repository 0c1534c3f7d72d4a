//! `safedepth kl`: per-token KL of two models on given responses.

use super::Global;
use super::loading::LoadedModel;
use crate::data::pairs;
use crate::experiment::token_kl;
use crate::ops::Ops;
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// KL divergence of an aligned model from its base at every token of given responses (the paper's Figure 1).
///
/// CSV columns: example, position (in the response, from 1), token_id, token, kl (nats), then the entropy of each side
/// and each side's most likely token.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// The aligned model's folder: p in D_KL(p || q).
    #[arg(long, value_name = "DIR")]
    aligned: PathBuf,
    /// The base model's folder: q.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// JSONL file of pairs: {"prompt", "response"} or {"messages": [...]}, with an optional "id".
    #[arg(long, value_name = "PAIRS")]
    input: PathBuf,
    /// CSV file to write.
    #[arg(long, value_name = "CSV")]
    output: PathBuf,
    /// Chat template of both models: auto (each folder's own), llama2, gemma, alpaca, plain or a Jinja file.
    #[arg(long, default_value = "auto", value_name = "TEMPLATE")]
    template: String,
    /// Template of the base model, if it is another.
    #[arg(long, value_name = "TEMPLATE")]
    base_template: Option<String>,
}

pub(super) fn run<D: Ops>(global: &Global, device: D, arguments: &Arguments) -> Result<()> {
    let pairs = pairs::read(&arguments.input)?;
    let aligned = LoadedModel::open(global, &device, &arguments.aligned, &arguments.template)?;
    let base_template = arguments.base_template.as_ref().unwrap_or(&arguments.template);
    let base = LoadedModel::open(global, &device, &arguments.base, base_template)?;
    aligned.check_same_tokenizer(&base)?;
    let mut sides = Vec::with_capacity(pairs.len());
    for pair in &pairs {
        let response = pair.response.as_deref().unwrap_or_default();
        let response = aligned.prompter.response_ids(response)?;
        if response.is_empty() {
            let problem = format!("example {} has no response: give every line one", pair.id);
            return Err(Error::input(arguments.input.display(), problem));
        }
        let prompt = |side: &LoadedModel<D>| side.prompter.prompt(&pair.messages).map(|prompt| prompt.ids);
        sides.push((prompt(&aligned)?, prompt(&base)?, response));
    }
    let slices: Vec<(&[u32], &[u32], &[u32])> = sides.iter().map(|(p, q, r)| (&p[..], &q[..], &r[..])).collect();
    let bar = global.console().bar("kl", slices.len());
    let measured = token_kl::per_token(&aligned.model, &base.model, &slices, |done| bar.set(done))?;
    drop(bar);

    let mut writer = csv::Writer::from_writer(Vec::new());
    let csv_error = |error: csv::Error| Error::input(arguments.output.display(), format!("cannot be written: {error}"));
    let header = [
        "example",
        "position",
        "token_id",
        "token",
        "kl",
        "entropy_aligned",
        "entropy_base",
        "argmax_aligned",
        "argmax_base",
    ];
    writer.write_record(header).map_err(csv_error)?;
    for (pair, tokens) in pairs.iter().zip(&measured) {
        for token in tokens {
            let text = aligned.prompter.tokenizer.token_text(token.token);
            let numbers = (token.kl, token.entropy_p, token.entropy_q, token.argmax_p, token.argmax_q);
            writer.serialize((&pair.id, token.position, token.token, text, numbers)).map_err(csv_error)?;
        }
    }
    let bytes = writer.into_inner().map_err(|error| csv_error(error.into_error().into()))?;
    crate::run::write_atomic(&arguments.output, &bytes)?;
    super::write_resolved(&arguments.output, global, "kl", arguments)
}

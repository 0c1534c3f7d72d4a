//! `safedepth info`: what a model folder holds.

use super::Global;
use crate::model::{Config, Tokenizer, Weights};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Describe a model folder: shape, parameters, types, tokenizer, and the memory it needs.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Model folder in Hugging Face's layout.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
}

#[derive(Serialize)]
struct Info {
    architecture: String,
    parameters: usize,
    /// Parameters by the type they are stored in.
    dtypes: BTreeMap<String, usize>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    max_position_embeddings: usize,
    tie_word_embeddings: bool,
    tokenizer_size: usize,
    files_bytes: usize,
    /// Keys and values of one position, f32.
    cache_bytes_per_token: usize,
    /// Weights, gradients and both moments in f32.
    training_bytes: usize,
    /// Where `--device` would compute.
    device: String,
}

/// `device` says where this command line would compute.
pub(super) fn run(global: &Global, device: &str, arguments: &Arguments) -> Result<()> {
    let dir = &arguments.model;
    let config = Config::load(dir)?;
    let weights = Weights::open(dir)?;
    let tokenizer = Tokenizer::load(dir)?;
    tokenizer.check_fits(config.vocab_size)?;
    let mut dtypes = BTreeMap::new();
    let mut parameters = 0;
    for (name, shape) in config.parameters() {
        let slice = weights.get(&name, shape)?;
        *dtypes.entry(slice.dtype.name().to_lowercase()).or_insert(0) += slice.len;
        parameters += slice.len;
    }
    let info = Info {
        architecture: config.architecture.name().to_owned(),
        parameters,
        dtypes,
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        max_position_embeddings: config.max_position_embeddings,
        tie_word_embeddings: config.tie_word_embeddings,
        tokenizer_size: tokenizer.vocab_size(),
        files_bytes: weights.bytes(),
        cache_bytes_per_token: 8 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim,
        training_bytes: 16 * parameters,
        device: device.to_owned(),
    };
    let json = serde_json::to_value(&info).map_err(|error| Error::input(dir.display(), error.to_string()))?;
    if global.json {
        println!("{json}");
    } else {
        for (key, value) in json.as_object().expect("a struct is an object") {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            println!("{key:<26} {value}");
        }
    }
    Ok(())
}

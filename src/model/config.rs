//! `config.json`: the shape of a model, with every architecture's differences resolved into plain fields.

mod architecture;
mod generation;
mod rope;

pub use architecture::Architecture;
pub use generation::GenerationConfig;

use super::json::{self, Keys};
use crate::ops::glu::Activation;
use crate::{Error, Result};
use std::fmt::Display;
use std::path::Path;

/// Upper bounds far beyond any real model, so that no product of sizes overflows.
mod limit {
    pub const VOCAB: usize = 1 << 24;
    pub const HIDDEN: usize = 1 << 20;
    pub const INTERMEDIATE: usize = 1 << 22;
    pub const LAYERS: usize = 10_000;
    pub const HEADS: usize = 1 << 14;
    pub const HEAD_DIM: usize = 1 << 12;
    pub const POSITIONS: usize = 1 << 31;
}

/// A decoder-only transformer's shape, resolved from `config.json`: no field needs the architecture to be interpreted.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    /// Rotary frequencies with the checkpoint's scaling applied, `head_dim / 2` entries.
    pub inv_freq: Vec<f32>,
    pub tie_word_embeddings: bool,
    /// q, k and v projections have biases (Qwen2; Llama's `attention_bias`).
    pub qkv_bias: bool,
    /// The output projection has a bias (Llama's `attention_bias`).
    pub o_bias: bool,
    /// RMSNorm on each head of q and k before RoPE (Qwen3).
    pub qk_norm: bool,
    /// Added to every RMSNorm weight: 1 for Gemma, else 0.
    pub norm_offset: f32,
    pub hidden_activation: Activation,
    /// Factor on embeddings: sqrt(hidden_size) for Gemma, else 1.
    ///
    /// `transformers` rounds it to the dtype of the embedding before it multiplies: 55.4256 is 55.5 in bf16.
    pub embedding_scale: f32,
    /// Factor on q.k.
    pub attention_scale: f32,
    pub attn_logit_softcapping: Option<f32>,
    pub final_logit_softcapping: Option<f32>,
    /// Gemma 2: norms after attention and MLP, before the residual sum, beside those before them.
    pub post_norms: bool,
    /// Window of each layer (`None`: full attention), `num_hidden_layers` entries.
    pub sliding_window: Vec<Option<usize>>,
    /// The `config.json` this came from, so that a checkpoint can be written with it.
    pub json: serde_json::Map<String, serde_json::Value>,
}

impl Config {
    /// Reads `config.json` in the model folder `dir`.
    pub fn load(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::input(dir.display(), "no such folder; give the path of a Hugging Face model folder"));
        }
        let path = dir.join("config.json");
        if !path.exists() {
            return Err(Error::input(
                dir.display(),
                "holds no config.json; give the path of a Hugging Face model folder",
            ));
        }
        Self::from_json(&path.display(), &json::read_text(&path)?)
    }

    /// Resolves the text of a `config.json`; `place` names the file in errors. Keys that are absent or null take the
    /// defaults of `transformers`' configuration classes.
    pub fn from_json(place: &dyn Display, text: &str) -> Result<Self> {
        let json = json::parse_object(place, text)?;
        let keys = Keys { place, map: &json };
        let architecture = Architecture::from_keys(keys)?;
        let defaults = Defaults::of(architecture);
        let gemma = matches!(architecture, Architecture::Gemma | Architecture::Gemma2);
        refuse_what_is_missing(keys)?;

        let required =
            |key: &str, limit| keys.size(key, limit)?.ok_or_else(|| Error::input(place, format!("`{key}` is missing")));
        let vocab_size = required("vocab_size", limit::VOCAB)?;
        let hidden_size = required("hidden_size", limit::HIDDEN)?;
        let intermediate_size = required("intermediate_size", limit::INTERMEDIATE)?;
        let num_hidden_layers = required("num_hidden_layers", limit::LAYERS)?;
        let num_attention_heads = required("num_attention_heads", limit::HEADS)?;
        let num_key_value_heads = match keys.size("num_key_value_heads", limit::HEADS)? {
            Some(heads) => heads,
            None if json.contains_key("num_key_value_heads") => num_attention_heads,
            None => defaults.key_value_heads.unwrap_or(num_attention_heads),
        };
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(keys.error(
                "num_attention_heads",
                format_args!("is {num_attention_heads}, not a multiple of num_key_value_heads, {num_key_value_heads}"),
            ));
        }
        let head_dim = match keys.size("head_dim", limit::HEAD_DIM)?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
            None => {
                return Err(keys.error(
                    "hidden_size",
                    format_args!("is {hidden_size}, not a multiple of num_attention_heads, {num_attention_heads}"),
                ));
            }
        };
        if !head_dim.is_multiple_of(2) || head_dim > limit::HEAD_DIM {
            return Err(
                keys.error("head_dim", format_args!("is {head_dim} but must be even and at most {}", limit::HEAD_DIM))
            );
        }
        let max_position_embeddings =
            keys.size("max_position_embeddings", limit::POSITIONS)?.unwrap_or(defaults.positions);
        let attention_bias = architecture.has_attention_bias_key() && keys.bool("attention_bias")?.unwrap_or(false);
        let scale_base = match architecture {
            Architecture::Gemma2 => keys.positive("query_pre_attn_scalar")?.unwrap_or(256.0),
            _ => head_dim as f64,
        };
        let softcap = |key: &str, default| match architecture {
            Architecture::Gemma2 if !json.contains_key(key) => Ok(Some(default)),
            Architecture::Gemma2 => Ok(keys.positive(key)?.map(|cap| cap as f32)),
            _ => Ok::<_, Error>(None),
        };
        Ok(Self {
            architecture,
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: keys.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            inv_freq: rope::inverse_frequencies(keys, head_dim, max_position_embeddings)?,
            tie_word_embeddings: keys.bool("tie_word_embeddings")?.unwrap_or(gemma),
            qkv_bias: attention_bias || architecture == Architecture::Qwen2,
            o_bias: attention_bias,
            qk_norm: architecture == Architecture::Qwen3,
            norm_offset: if gemma { 1.0 } else { 0.0 },
            hidden_activation: activation(keys, architecture)?,
            embedding_scale: if gemma { (hidden_size as f64).sqrt() as f32 } else { 1.0 },
            attention_scale: scale_base.powf(-0.5) as f32,
            attn_logit_softcapping: softcap("attn_logit_softcapping", 50.0)?,
            final_logit_softcapping: softcap("final_logit_softcapping", 30.0)?,
            post_norms: architecture == Architecture::Gemma2,
            sliding_window: sliding_windows(keys, architecture, num_hidden_layers)?,
            json,
        })
    }

    /// Name and shape (`[rows, cols]`; vectors are `[1, n]`) of every parameter, in file order, as Hugging Face names them.
    pub fn parameters(&self) -> Vec<(String, [usize; 2])> {
        let hidden = self.hidden_size;
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let mut list = vec![("model.embed_tokens.weight".to_owned(), [self.vocab_size, hidden])];
        for layer in 0..self.num_hidden_layers {
            let mut push = |name: &str, shape| list.push((format!("model.layers.{layer}.{name}"), shape));
            push("input_layernorm.weight", [1, hidden]);
            for (name, out) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
                push(&format!("self_attn.{name}.weight"), [out, hidden]);
                if self.qkv_bias {
                    push(&format!("self_attn.{name}.bias"), [1, out]);
                }
            }
            push("self_attn.o_proj.weight", [hidden, q]);
            if self.o_bias {
                push("self_attn.o_proj.bias", [1, hidden]);
            }
            if self.qk_norm {
                push("self_attn.q_norm.weight", [1, self.head_dim]);
                push("self_attn.k_norm.weight", [1, self.head_dim]);
            }
            push("post_attention_layernorm.weight", [1, hidden]);
            if self.post_norms {
                push("pre_feedforward_layernorm.weight", [1, hidden]);
                push("post_feedforward_layernorm.weight", [1, hidden]);
            }
            push("mlp.gate_proj.weight", [self.intermediate_size, hidden]);
            push("mlp.up_proj.weight", [self.intermediate_size, hidden]);
            push("mlp.down_proj.weight", [hidden, self.intermediate_size]);
        }
        list.push(("model.norm.weight".to_owned(), [1, hidden]));
        if !self.tie_word_embeddings {
            list.push(("lm_head.weight".to_owned(), [self.vocab_size, hidden]));
        }
        list
    }
}

/// What `transformers` assumes for absent keys, where architectures differ.
struct Defaults {
    /// `None`: as many as there are heads.
    key_value_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    head_dim: Option<usize>,
    positions: usize,
}

impl Defaults {
    fn of(architecture: Architecture) -> Self {
        let (key_value_heads, head_dim, positions) = match architecture {
            Architecture::Llama => (None, None, 2048),
            Architecture::Mistral => (Some(8), None, 131_072),
            Architecture::Qwen2 => (Some(32), None, 32_768),
            Architecture::Qwen3 => (Some(32), Some(128), 32_768),
            Architecture::Gemma => (Some(16), Some(256), 8192),
            Architecture::Gemma2 => (Some(4), Some(256), 8192),
        };
        Self { key_value_heads, head_dim, positions }
    }
}

/// Refuses, by name, variants of the supported architectures that this crate does not compute.
fn refuse_what_is_missing(keys: Keys) -> Result<()> {
    for (key, what) in [
        ("mlp_bias", "biases in the feed-forward layers are"),
        ("use_bidirectional_attention", "attention to later tokens is"),
    ] {
        if keys.bool(key)?.unwrap_or(false) {
            return Err(keys.error(key, format_args!("is true, and {what} not supported")));
        }
    }
    if keys.get("quantization_config").is_some() {
        return Err(keys.error("quantization_config", "is set; give a checkpoint in f32, bf16 or f16"));
    }
    Ok(())
}

fn activation(keys: Keys, architecture: Architecture) -> Result<Activation> {
    let (key, default) = match architecture {
        Architecture::Gemma2 => ("hidden_activation", "gelu_pytorch_tanh"),
        Architecture::Gemma => ("hidden_act", "gelu_pytorch_tanh"),
        _ => ("hidden_act", "silu"),
    };
    match keys.text(key)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        // The first Gemma releases say "gelu" and mean the tanh approximation; `transformers` reads them so too.
        "gelu" if architecture == Architecture::Gemma => Ok(Activation::GeluTanh),
        other => Err(keys.error(key, format_args!("is `{other}`; supported are silu and gelu_pytorch_tanh"))),
    }
}

/// The window of each layer.
fn sliding_windows(keys: Keys, architecture: Architecture, layers: usize) -> Result<Vec<Option<usize>>> {
    let window = match keys.size("sliding_window", limit::POSITIONS)? {
        None if !keys.map.contains_key("sliding_window") => Some(4096),
        other => other,
    };
    let windowed: Box<dyn Fn(usize) -> bool> = match architecture {
        Architecture::Llama | Architecture::Gemma => return Ok(vec![None; layers]),
        Architecture::Mistral => return Ok(vec![window; layers]),
        Architecture::Qwen2 | Architecture::Qwen3 => {
            if !keys.bool("use_sliding_window")?.unwrap_or(false) {
                return Ok(vec![None; layers]);
            }
            let first = match keys.get("max_window_layers") {
                None => 28,
                Some(value) => {
                    value.as_u64().ok_or_else(|| keys.error("max_window_layers", "must be a whole number"))?
                }
            };
            Box::new(move |layer| layer as u64 >= first)
        }
        Architecture::Gemma2 => Box::new(|layer| layer % 2 == 0),
    };
    let Some(types) = keys.list("layer_types")? else {
        return Ok((0..layers).map(|layer| window.filter(|_| windowed(layer))).collect());
    };
    if types.len() != layers {
        return Err(
            keys.error("layer_types", format_args!("has {} entries but there are {layers} layers", types.len()))
        );
    }
    let window_of = |kind: &serde_json::Value| match kind.as_str() {
        Some("sliding_attention") => Ok(window),
        Some("full_attention") => Ok(None),
        _ => Err(keys.error(
            "layer_types",
            format_args!("has an entry {kind}; supported are sliding_attention and full_attention"),
        )),
    };
    types.iter().map(window_of).collect()
}

//! The model architectures by name.

use crate::model::json::Keys;
use crate::{Error, Result};
use std::fmt::Display;

/// The architectures this crate runs. Anything else is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma,
    Gemma2,
}

impl Architecture {
    pub const ALL: [Self; 6] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Gemma, Self::Gemma2];

    /// The name in `config.json`'s `architectures`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma => "GemmaForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
        }
    }

    /// The name in `config.json`'s `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma => "gemma",
            Self::Gemma2 => "gemma2",
        }
    }

    /// `attention_bias` means something: `transformers` ignores it in Mistral and Qwen2.
    pub(super) fn has_attention_bias_key(self) -> bool {
        !matches!(self, Self::Mistral | Self::Qwen2)
    }

    /// What `architectures`, or else `model_type`, names.
    pub(super) fn from_keys(keys: Keys) -> Result<Self> {
        let supported = || Self::ALL.map(Self::name).join(", ");
        let listed = keys.list("architectures")?.and_then(|names| names.first()).map(|name| match name.as_str() {
            Some(name) => Ok(name),
            None => Err(keys.error("architectures", "must be a list of strings")),
        });
        let (key, name) = match listed.transpose()? {
            Some(name) => ("architectures", name),
            None => ("model_type", keys.text("model_type")?.unwrap_or_default()),
        };
        if name.is_empty() {
            return Err(Error::input(keys.place, "names no architecture; is it the config.json of a language model?"));
        }
        let found =
            Self::ALL.into_iter().find(|this| this.name() == name || key == "model_type" && this.model_type() == name);
        let found = found.ok_or_else(|| {
            Error::input(keys.place, format!("architecture {name} is not supported; supported are {}", supported()))
        })?;
        match keys.text("model_type")? {
            Some(kind) if kind != found.model_type() => Err(Error::input(
                keys.place,
                format!("`architectures` says {} but `model_type` says {kind}", found.name()),
            )),
            _ => Ok(found),
        }
    }
}

impl Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

//! `generation_config.json`: what ends a text, and the sampling its authors recommend.

use super::{Architecture, Config};
use crate::Result;
use crate::model::json::{self, Keys};
use crate::ops::sampling::SamplingParams;
use std::path::Path;

/// Special token ids and recommended sampling of a model folder. `None` where the folder says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    pub bos_token_id: Option<u32>,
    /// Any of these ends a text.
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
    pub do_sample: bool,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    /// 0 keeps every token. `transformers` takes 50 where a folder says nothing and sampling is on.
    pub top_k: Option<usize>,
    pub repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` in `dir`; ids it lacks, or all of them where there is no such file, come from
    /// `config.json`, then from the architecture's defaults.
    pub fn load(dir: &Path, config: &Config) -> Result<Self> {
        let path = dir.join("generation_config.json");
        let mut this = match path.exists() {
            true => Self::from_json(&path.display(), &json::read_text(&path)?)?,
            false => Self::default(),
        };
        let place = dir.join("config.json");
        let keys = Keys { place: &place.display(), map: &config.json };
        let (bos, eos, pad) = default_ids(config.architecture);
        this.bos_token_id = this.bos_token_id.or(or_default(keys, "bos_token_id", bos)?);
        this.pad_token_id = this.pad_token_id.or(or_default(keys, "pad_token_id", pad)?);
        if this.eos_token_ids.is_empty() {
            this.eos_token_ids = match config.json.contains_key("eos_token_id") {
                true => keys.token_ids("eos_token_id")?.unwrap_or_default(),
                false => eos.into_iter().collect(),
            };
        }
        Ok(this)
    }

    /// How its authors would sample: their parameters, and transformers' own where they name none.
    pub fn sampling(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k.unwrap_or(50),
            top_p: self.top_p.unwrap_or(1.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
        }
    }

    /// Reads the text of a `generation_config.json`; `place` names the file in errors.
    pub fn from_json(place: &dyn std::fmt::Display, text: &str) -> Result<Self> {
        let map = json::parse_object(place, text)?;
        let keys = Keys { place, map: &map };
        let top_k = match keys.number("top_k")? {
            Some(k) if k < 0.0 || k.fract() != 0.0 => return Err(keys.error("top_k", "must be a whole number from 0")),
            other => other.map(|k| k as usize),
        };
        if keys.number("top_p")?.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            return Err(keys.error("top_p", "must lie between 0 and 1"));
        }
        if keys.number("temperature")?.is_some_and(|t| t < 0.0) {
            return Err(keys.error("temperature", "must not be negative"));
        }
        Ok(Self {
            bos_token_id: keys.token_id("bos_token_id")?,
            eos_token_ids: keys.token_ids("eos_token_id")?.unwrap_or_default(),
            pad_token_id: keys.token_id("pad_token_id")?,
            do_sample: keys.bool("do_sample")?.unwrap_or(false),
            temperature: keys.number("temperature")?.map(|t| t as f32),
            top_p: keys.number("top_p")?.map(|p| p as f32),
            top_k,
            repetition_penalty: keys.positive("repetition_penalty")?.map(|p| p as f32),
        })
    }
}

/// An id of `config.json`; `default` only where the key is absent: `null` says there is none.
fn or_default(keys: Keys, key: &str, default: Option<u32>) -> Result<Option<u32>> {
    if keys.map.contains_key(key) { keys.token_id(key) } else { Ok(default) }
}

/// bos, eos and pad that `transformers`' configuration classes assume.
fn default_ids(architecture: Architecture) -> (Option<u32>, Option<u32>, Option<u32>) {
    match architecture {
        Architecture::Llama | Architecture::Mistral => (Some(1), Some(2), None),
        Architecture::Gemma | Architecture::Gemma2 => (Some(2), Some(1), Some(0)),
        Architecture::Qwen2 | Architecture::Qwen3 => (None, None, None),
    }
}

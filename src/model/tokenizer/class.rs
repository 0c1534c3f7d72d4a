//! Where `transformers` 5 does not take `tokenizer.json` as it stands.
//!
//! It picks a class by `tokenizer_class` and `model_type`. Most folders get the generic one, which reads the file. A few
//! classes keep the file's vocabulary, merges, added tokens and post-processor but bring their own splitting, so that ids
//! can differ from the file's: Llama 2 prompts start `<s>` `[` instead of `<s>` U+2581`[` (unless `legacy`), and
//! `GPT2Tokenizer`, which SmolLM2 names, does not keep digits apart. A base model's numbers follow from its ids, so the
//! same choice is made here.

use crate::Result;
use crate::model::json::{self, Keys};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The classes that the supported architectures' folders name and that override the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Llama,
    Gpt2,
    Qwen2,
    Gemma,
}

impl Class {
    fn named(name: &str) -> Option<Self> {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "LlamaTokenizer" => Some(Self::Llama),
            "GPT2Tokenizer" => Some(Self::Gpt2),
            "Qwen2Tokenizer" => Some(Self::Qwen2),
            "GemmaTokenizer" => Some(Self::Gemma),
            _ => None,
        }
    }

    /// The class that `AutoTokenizer` would load; `None` is the generic one. `text` is `tokenizer.json`.
    pub fn choose(dir: &Path, config: &Map<String, Value>, text: &str) -> Result<Option<Self>> {
        let model = super::optional_object(&dir.join("config.json"))?.unwrap_or_default();
        let model_type = model.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let place = dir.join("tokenizer_config.json");
        let place = place.display();
        let keys = Keys { place: &place, map: config };
        let named = keys.text("tokenizer_class")?.or_else(|| model.get("tokenizer_class").and_then(Value::as_str));
        let registered = match model_type {
            "qwen2" | "qwen3" => Some(Self::Qwen2),
            "gemma" | "gemma2" => Some(Self::Gemma),
            _ => None,
        };
        let Some(named) = named else { return Ok(registered) };
        Ok(match (Self::named(named), model_type) {
            // Known to be named wrongly in many folders.
            (_, "qwen2") => Some(Self::Qwen2),
            // Has a class that reads the file.
            (_, "mistral") => None,
            // Llama 3 folders that name Llama 2's class.
            (Some(Self::Llama), _) if text.contains("\"ByteLevel\"") => None,
            (class, _) => class,
        })
    }

    /// Replaces the parts of a parsed `tokenizer.json` that the class brings itself. `keys` is `tokenizer_config.json`.
    pub fn apply(self, tokenizer: &mut Map<String, Value>, keys: Keys) -> Result<()> {
        let add_prefix_space = keys.bool("add_prefix_space")?;
        let byte_level = |space: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex});
        let split_at = |pattern: Value, behavior: &str| json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": false});
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let (normalizer, pre_tokenizer, decoder) = match self {
            Self::Llama => {
                let add_prefix_space = add_prefix_space.unwrap_or(true);
                let scheme = match (add_prefix_space, keys.bool("legacy")?.unwrap_or(false)) {
                    (false, _) => "never",
                    (true, true) => "always",
                    (true, false) => "first",
                };
                if add_prefix_space {
                    decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
                }
                let split =
                    json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false});
                (Value::Null, split, json!({"type": "Sequence", "decoders": decoders}))
            }
            Self::Gemma => {
                let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
                let split = split_at(json!({"String": " "}), "MergedWithPrevious");
                (spaces, split, json!({"type": "Sequence", "decoders": decoders}))
            }
            Self::Gpt2 => (Value::Null, byte_level(add_prefix_space.unwrap_or(false), true), byte_level(true, true)),
            Self::Qwen2 => {
                let words = split_at(json!({"Regex": QWEN_2_WORDS}), "Isolated");
                let bytes = byte_level(add_prefix_space.unwrap_or(false), false);
                let split = json!({"type": "Sequence", "pretokenizers": [words, bytes]});
                (json!({"type": "NFC"}), split, byte_level(true, true))
            }
        };
        tokenizer.insert("normalizer".to_owned(), normalizer);
        tokenizer.insert("pre_tokenizer".to_owned(), pre_tokenizer);
        tokenizer.insert("decoder".to_owned(), decoder);
        if let Some(Value::Object(model)) = tokenizer.get_mut("model") {
            let on_characters = matches!(self, Self::Llama | Self::Gemma);
            model.insert("type".to_owned(), json!("BPE"));
            model.insert("dropout".to_owned(), Value::Null);
            model.insert("ignore_merges".to_owned(), json!(false));
            model.insert("fuse_unk".to_owned(), json!(on_characters));
            model.insert("byte_fallback".to_owned(), json!(on_characters));
            let unknown =
                keys.get("unk_token").and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
            let unknown = if self == Self::Gemma { json!(unknown.unwrap_or("<unk>")) } else { Value::Null };
            model.insert("unk_token".to_owned(), unknown);
        }
        Ok(())
    }

    /// The named token that the class assumes where `tokenizer_config.json` has no such key.
    pub fn default_token(self, name: &str) -> Option<&'static str> {
        match (self, name) {
            (Self::Llama | Self::Gemma, "unk_token") => Some("<unk>"),
            (Self::Llama, "bos_token") => Some("<s>"),
            (Self::Llama, "eos_token") => Some("</s>"),
            (Self::Gemma, "bos_token") => Some("<bos>"),
            (Self::Gemma, "eos_token") => Some("<eos>"),
            (Self::Gemma, "pad_token") => Some("<pad>"),
            (Self::Gpt2, "unk_token" | "bos_token" | "eos_token") => Some("<|endoftext|>"),
            (Self::Qwen2, "unk_token" | "eos_token" | "pad_token") => Some("<|endoftext|>"),
            _ => None,
        }
    }
}

/// The words of Qwen 2's byte-level BPE: every digit is its own.
const QWEN_2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The text of `tokenizer.json` as `class` would have it.
pub(super) fn rewritten(class: Class, dir: &Path, config: &Map<String, Value>, text: &str) -> Result<String> {
    let (path, place) = (dir.join("tokenizer.json"), dir.join("tokenizer_config.json"));
    let mut tokenizer = json::parse_object(&path.display(), text)?;
    class.apply(&mut tokenizer, Keys { place: &place.display(), map: config })?;
    Ok(Value::Object(tokenizer).to_string())
}

//! The one case where `transformers` 5 does not take `tokenizer.json` as it stands.
//!
//! For `tokenizer_class: LlamaTokenizer` (Llama 2) it keeps vocabulary, merges and post-processor but sets its own
//! splitting: spaces become U+2581, and one is put before the text (`legacy: false`) or before every piece of text
//! between special tokens (`legacy: true`). The files on the hub were written for the latter whatever they say, so ids
//! after a special token differ between reading the file and asking `transformers`: the model's prompts start
//! `<s>` `[` here, `<s>` U+2581`[` there.

use crate::Result;
use crate::model::json::{self, Keys};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The text of `tokenizer.json` with the parts that `transformers` replaces replaced, or `None` if it replaces none.
pub(super) fn as_transformers_loads_it(
    dir: &Path,
    path: &Path,
    config: &Map<String, Value>,
    text: &str,
) -> Result<Option<String>> {
    let place = dir.join("tokenizer_config.json");
    let place = place.display();
    let keys = Keys { place: &place, map: config };
    let class = keys.text("tokenizer_class")?.unwrap_or_default();
    if class.strip_suffix("Fast").unwrap_or(class) != "LlamaTokenizer" {
        return Ok(None);
    }
    // Mistral and Qwen folders get classes of their own whatever the file says.
    let model = super::optional_object(&dir.join("config.json"))?.unwrap_or_default();
    if let Some("mistral" | "qwen2" | "qwen3") = model.get("model_type").and_then(Value::as_str) {
        return Ok(None);
    }
    // Llama 3's tokenizer.json works on bytes; `transformers` looks for the word too.
    if text.contains("\"ByteLevel\"") {
        return Ok(None);
    }
    let mut tokenizer = json::parse_object(&path.display(), text)?;
    let add_prefix_space = keys.bool("add_prefix_space")?.unwrap_or(true);
    let scheme = match (add_prefix_space, keys.bool("legacy")?.unwrap_or(false)) {
        (false, _) => "never",
        (true, true) => "always",
        (true, false) => "first",
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if add_prefix_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    tokenizer.insert("normalizer".to_owned(), Value::Null);
    tokenizer.insert(
        "pre_tokenizer".to_owned(),
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false}),
    );
    tokenizer.insert("decoder".to_owned(), json!({"type": "Sequence", "decoders": decoders}));
    if let Some(Value::Object(model)) = tokenizer.get_mut("model") {
        model.insert("unk_token".to_owned(), Value::Null);
        model.insert("fuse_unk".to_owned(), Value::Bool(true));
        model.insert("byte_fallback".to_owned(), Value::Bool(true));
    }
    Ok(Some(Value::Object(tokenizer).to_string()))
}

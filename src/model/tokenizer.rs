//! Text to token ids and back, as `transformers` 5 loads a model folder's `tokenizer.json`.
//!
//! Special tokens around a text come from the post-processor in `tokenizer.json` alone: `transformers` ignores
//! `add_bos_token` and `add_eos_token` of `tokenizer_config.json` where there is a `tokenizer.json`, and so does this.

mod class;

use super::json::{self, Keys};
use crate::{Error, Result};
use class::Class;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tokenizers::AddedToken;

/// The named special tokens of `transformers`; templates see them as variables.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A model folder's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    /// Content of each of [`NAMED`] that the folder defines.
    named: Vec<(&'static str, String)>,
    /// What the post-processor puts before a text: usually the BOS token or nothing.
    prefix: Vec<u32>,
    /// A token that decodes to itself in front of any other.
    anchor: Option<(u32, String)>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and, where the latter lists no added tokens,
    /// `special_tokens_map.json`.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            return Err(Error::input(dir.display(), "holds no tokenizer.json; save the model's fast tokenizer there"));
        }
        let config = optional_object(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let map = match config.contains_key("added_tokens_decoder") {
            true => Map::new(),
            false => optional_object(&dir.join("special_tokens_map.json"))?.unwrap_or_default(),
        };
        let mut text = json::read_text(&path)?;
        let class = Class::choose(dir, &config, &text)?;
        if let Some(class) = class {
            text = class::rewritten(class, dir, &config, &text)?;
        }
        let inner = tokenizers::Tokenizer::from_bytes(&text)
            .map_err(|error| Error::input(path.display(), format!("is not a tokenizer: {}", first_line(&*error))))?;
        Self::new(inner, path, dir, class, &config, &map)
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        path: PathBuf,
        dir: &Path,
        class: Option<Class>,
        config: &Map<String, Value>,
        map: &Map<String, Value>,
    ) -> Result<Self> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| Error::input(path.display(), first_line(&*error)))?;

        let place = dir.join("tokenizer_config.json");
        let place = place.display();
        let mut added = configured_tokens(&place, config)?;
        let mut named = Vec::new();
        for name in NAMED {
            let default = || {
                let token = class?.default_token(name)?;
                inner.token_to_id(token).map(|_| Value::from(token))
            };
            let value = config.get(name).or_else(|| map.get(name)).cloned().or_else(default);
            let Some(value) = value.filter(|value| !value.is_null()) else { continue };
            let token = added_token(&value, true)
                .ok_or_else(|| Error::input(&place, format!("`{name}` must be a string or an added token")))?;
            named.push((name, token.content.clone()));
            added.push(token);
        }
        let known = inner.get_added_tokens_decoder();
        let is_known = |token: &AddedToken| known.values().any(|other| other.content == token.content);
        let missing: Vec<AddedToken> =
            added.into_iter().filter(|token| !token.content.is_empty() && !is_known(token)).collect();
        let (special, plain): (Vec<_>, Vec<_>) = missing.into_iter().partition(|token| token.special);
        inner.add_special_tokens(&special);
        inner.add_tokens(&plain);

        let mut this = Self { inner, path, named, prefix: Vec::new(), anchor: None };
        this.prefix = this.find_prefix()?;
        this.anchor = this.find_anchor();
        Ok(this)
    }

    /// The ids of `text`; `special` adds what the post-processor adds (BOS for most models).
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        match self.inner.encode_fast(text, special) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => {
                Err(Error::input(self.path.display(), format!("cannot encode the text: {}", first_line(&*error))))
            }
        }
    }

    /// The ids of `text` without special tokens around it, each with the bytes of `text` it stands for (a tokenizer may
    /// leave the space before a word out of them).
    pub fn encode_with_places(&self, text: &str) -> Result<Vec<(u32, std::ops::Range<usize>)>> {
        let encoding = self.inner.encode(text, false).map_err(|error| {
            Error::input(self.path.display(), format!("cannot encode the text: {}", first_line(&*error)))
        })?;
        let places = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(places).collect())
    }

    /// The text of `ids`; `skip_special` leaves special tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| Error::input(self.path.display(), format!("cannot decode: {}", first_line(&*error))))
    }

    /// The text of one token as it stands inside a text (with its leading space); a piece of a character, which has no
    /// text of its own, as the vocabulary spells it.
    pub fn token_text(&self, id: u32) -> String {
        let inside = self.anchor.as_ref().and_then(|(anchor, text)| {
            let both = self.decode(&[*anchor, id], false).ok()?;
            both.strip_prefix(text).map(str::to_owned)
        });
        let text = inside.or_else(|| self.decode(&[id], false).ok()).unwrap_or_default();
        match self.inner.id_to_token(id) {
            Some(piece) if text.is_empty() || text.contains(char::REPLACEMENT_CHARACTER) => piece,
            _ => text,
        }
    }

    /// The id of a whole token, such as `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether decoding with `skip_special` leaves this token out.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// The named special tokens that the folder defines, such as `("bos_token", "<s>")`.
    pub fn named_tokens(&self) -> &[(&'static str, String)] {
        &self.named
    }

    /// The id of a named special token, such as `eos_token`.
    pub fn named_id(&self, name: &str) -> Option<u32> {
        let (_, token) = self.named.iter().find(|(other, _)| *other == name)?;
        self.token_id(token)
    }

    pub fn bos_id(&self) -> Option<u32> {
        self.named_id("bos_token")
    }

    pub fn eos_id(&self) -> Option<u32> {
        self.named_id("eos_token")
    }

    /// What the tokenizer puts before a text that it encodes with special tokens: BOS or nothing.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// Fails if an id could fall outside of an embedding of `rows` rows.
    pub fn check_fits(&self, rows: usize) -> Result<()> {
        match self.vocab_size() {
            size if size <= rows => Ok(()),
            size => Err(Error::input(
                self.path.display(),
                format!(
                    "has token ids up to {} but the model's embedding has only {rows} rows; \
                     take the tokenizer that belongs to this model",
                    size - 1
                ),
            )),
        }
    }

    fn find_prefix(&self) -> Result<Vec<u32>> {
        // Any text will do; one that the vocabulary cannot spell has no prefix that could be told apart.
        let (Ok(bare), Ok(full)) = (self.encode("a", false), self.encode("a", true)) else { return Ok(Vec::new()) };
        if bare.is_empty() {
            return Ok(full);
        }
        let start = full.windows(bare.len()).position(|window| window == bare);
        start.map(|start| full[..start].to_vec()).ok_or_else(|| {
            Error::input(
                self.path.display(),
                "has a post-processor that changes a text's own tokens, which is not supported",
            )
        })
    }

    fn find_anchor(&self) -> Option<(u32, String)> {
        let id = *self.encode("a", false).ok()?.last()?;
        let text = self.decode(&[id], false).ok()?;
        (!text.is_empty()).then_some((id, text))
    }
}

/// The object in a file, if there is such a file.
fn optional_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.exists() {
        return Ok(None);
    }
    json::parse_object(&path.display(), &json::read_text(path)?).map(Some)
}

/// Tokens that `tokenizer_config.json` adds: `added_tokens_decoder` by id, then the lists of extra special tokens.
fn configured_tokens(place: &dyn std::fmt::Display, config: &Map<String, Value>) -> Result<Vec<AddedToken>> {
    let keys = Keys { place, map: config };
    let mut by_id = Vec::new();
    for (id, value) in keys.object("added_tokens_decoder")?.iter().flat_map(|tokens| tokens.map) {
        let wrong = || keys.error("added_tokens_decoder", format_args!("has a bad entry at {id}"));
        let id: u32 = id.parse().map_err(|_| wrong())?;
        by_id.push((id, added_token(value, false).ok_or_else(wrong)?));
    }
    by_id.sort_by_key(|(id, _)| *id);
    let mut tokens: Vec<AddedToken> = by_id.into_iter().map(|(_, token)| token).collect();
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        // Newer files may also hold an object of named tokens here; those are in `added_tokens_decoder` already.
        let Some(Value::Array(list)) = keys.get(key) else { continue };
        for value in list {
            tokens.push(added_token(value, true).ok_or_else(|| keys.error(key, "must be a list of tokens"))?);
        }
    }
    Ok(tokens)
}

/// A token given as a string or as an object with `content` and flags.
fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    if let Some(content) = value.as_str() {
        return Some(AddedToken::from(content, special));
    }
    let object = value.as_object()?;
    let flag = |key: &str, default| object.get(key).and_then(Value::as_bool).unwrap_or(default);
    let special = flag("special", special);
    Some(AddedToken {
        content: object.get("content")?.as_str()?.to_owned(),
        single_word: flag("single_word", false),
        lstrip: flag("lstrip", false),
        rstrip: flag("rstrip", false),
        normalized: flag("normalized", !special),
        special,
    })
}

fn first_line(error: &dyn std::error::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

//! Reading JSON files whose errors name the file and the key.

use crate::{Error, Result};
use serde_json::{Map, Value};
use std::fmt::Display;
use std::path::Path;

/// The text of a UTF-8 file, without a byte order mark.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::input(path.display(), "is not UTF-8 text"))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// Parses a JSON object; `place` names the file in errors.
pub fn parse_object(place: &dyn Display, text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::input(place, "is not a JSON object")),
        Err(error) => Err(Error::input(
            format_args!("{place}:{}", error.line().max(1)),
            format!("is not valid JSON: {}", without_position(&error)),
        )),
    }
}

/// A serde_json error without its ` at line L column C`, which [`Error::Input`]'s place already says.
pub fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// A JSON object with typed access. `null` counts as absent, as it does in `transformers`.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub place: &'a dyn Display,
    pub map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub fn get(self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// An error about `key`; `problem` continues the sentence "`key` ...".
    pub fn error(self, key: &str, problem: impl Display) -> Error {
        Error::input(self.place, format!("`{key}` {problem}"))
    }

    fn typed<T>(self, key: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.error(key, format_args!("is {} but must be {kind}", brief(value))))
    }

    /// A count of at least 1 and at most `limit`.
    pub fn size(self, key: &str, limit: usize) -> Result<Option<usize>> {
        let value = self.typed(key, "a whole number", |value| value.as_u64().and_then(|n| usize::try_from(n).ok()))?;
        match value {
            Some(0) => Err(self.error(key, "is 0 but must be at least 1")),
            Some(n) if n > limit => {
                Err(self.error(key, format_args!("is {n}, more than the {limit} this crate takes")))
            }
            other => Ok(other),
        }
    }

    /// A finite number greater than zero.
    pub fn positive(self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number above 0", |value| value.as_f64().filter(|x| x.is_finite() && *x > 0.0))
    }

    /// A finite number.
    pub fn number(self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| value.as_f64().filter(|x| x.is_finite()))
    }

    pub fn bool(self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn text(self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A nested object; errors name it as `key`.
    pub fn object(self, key: &str) -> Result<Option<Keys<'a>>> {
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Keys { place: self.place, map }))
    }

    pub fn list(self, key: &str) -> Result<Option<&'a Vec<Value>>> {
        self.typed(key, "a list", Value::as_array)
    }

    /// One token id; a negative one means none, as old configurations write it.
    pub fn token_id(self, key: &str) -> Result<Option<u32>> {
        Ok(self.typed(key, "a token id", token_id)?.flatten())
    }

    /// A token id or a list of them.
    pub fn token_ids(self, key: &str) -> Result<Option<Vec<u32>>> {
        self.typed(key, "a token id or a list of token ids", |value| match value {
            Value::Array(items) => {
                items.iter().map(token_id).collect::<Option<Vec<_>>>().map(|ids| ids.into_iter().flatten().collect())
            }
            one => token_id(one).map(|id| id.into_iter().collect()),
        })
    }
}

fn token_id(value: &Value) -> Option<Option<u32>> {
    match value.as_i64()? {
        n if n < 0 => Some(None),
        n => u32::try_from(n).ok().map(Some),
    }
}

/// A value short enough for an error sentence.
fn brief(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().count() > 40 => "a long string".to_owned(),
        other => other.to_string(),
    }
}

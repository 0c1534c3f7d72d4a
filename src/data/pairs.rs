//! Prompts with their responses: JSONL, one example a line.
//!
//! ```json
//! {"prompt": "...", "response": "..."}
//! {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
//! ```
//!
//! `response` may be missing; a last message of the assistant is the response. An optional `id` (a string or a whole
//! number) names the example in results; without one its line number does. Other keys are ignored, blank lines and a
//! byte order mark skipped.

use crate::model::message::Message;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One example.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub id: String,
    /// The conversation up to the response; at least one message.
    pub messages: Vec<Message>,
    pub response: Option<String>,
}

impl Pair {
    /// The last thing the user said.
    pub fn last_user(&self) -> &str {
        self.messages.iter().rev().find(|message| message.role() == "user").map_or("", Message::content)
    }
}

/// Reads a file, or every `*.jsonl` file of a folder in the order of their names. In a folder the default ids are
/// `name:line`.
///
/// # Errors
/// Names file and line of the first bad one; an id that comes twice is bad too.
pub fn read(path: &Path) -> Result<Vec<Pair>> {
    let files = if path.is_dir() { files_of(path)? } else { vec![path.to_owned()] };
    let mut pairs = Vec::new();
    let mut places: HashMap<String, String> = HashMap::new();
    for file in files {
        let bytes = std::fs::read(&file).map_err(Error::io("read", &file))?;
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let prefix = if path.is_dir() { format!("{stem}:") } else { String::new() };
        for (line, pair) in parse(&file, &bytes, &prefix)? {
            let place = format!("{}:{line}", file.display());
            if let Some(first) = places.get(&pair.id) {
                return Err(Error::input(
                    place,
                    format!("has the id {} of {first}; give every example its own", pair.id),
                ));
            }
            places.insert(pair.id.clone(), place);
            pairs.push(pair);
        }
    }
    Ok(pairs)
}

fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut files = paths.map_err(Error::io("read", dir))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl") && file.is_file());
    files.sort();
    if files.is_empty() {
        return Err(Error::input(dir.display(), "holds no .jsonl file"));
    }
    Ok(files)
}

/// The examples of one file's bytes with their line numbers.
fn parse(path: &Path, bytes: &[u8], prefix: &str) -> Result<Vec<(usize, Pair)>> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut pairs = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        let error = |problem: String| Error::input(format_args!("{}:{number}", path.display()), problem);
        let line = std::str::from_utf8(line).map_err(|_| error("is not UTF-8 text".to_owned()))?.trim();
        if line.is_empty() {
            continue;
        }
        let value = serde_json::from_str(line)
            .map_err(|cause| error(format!("is not valid JSON: {}", crate::model::json::without_position(&cause))))?;
        let Value::Object(fields) = value else { return Err(error("is not a JSON object".to_owned())) };
        pairs.push((number, pair(fields, || format!("{prefix}{number}")).map_err(error)?));
    }
    Ok(pairs)
}

/// One example from its object; the error is a clause about the line.
fn pair(mut fields: Map<String, Value>, default_id: impl Fn() -> String) -> Result<Pair, String> {
    let id = match fields.remove("id") {
        None | Some(Value::Null) => default_id(),
        Some(Value::String(id)) => id,
        Some(Value::Number(id)) if !id.is_f64() => id.to_string(),
        Some(_) => return Err("has an `id` that is neither a string nor a whole number".to_owned()),
    };
    let mut text = |key: &str| match fields.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("has a `{key}` that is not a string")),
    };
    let (prompt, mut response) = (text("prompt")?, text("response")?);
    let messages = match (prompt, fields.remove("messages")) {
        (Some(prompt), None) => vec![Message::user(prompt)],
        (None, Some(Value::Array(items))) => {
            let message =
                |(number, item)| Message::from_json(item).map_err(|problem| format!("message {number} {problem}"));
            let mut messages: Vec<Message> = (1..).zip(items).map(message).collect::<Result<_, _>>()?;
            if let Some(last) = messages.pop_if(|last| last.role() == "assistant") {
                if response.is_some() {
                    return Err("has both a `response` and a last message of the assistant".to_owned());
                }
                response = Some(last.content().to_owned());
            }
            if messages.is_empty() {
                return Err("has no message before the response".to_owned());
            }
            messages
        }
        (None, Some(_)) => return Err("has `messages` that are not a list".to_owned()),
        (Some(_), Some(_)) => return Err("has both `prompt` and `messages`; give one".to_owned()),
        (None, None) => return Err("has neither `prompt` nor `messages`".to_owned()),
    };
    Ok(Pair { id, messages, response })
}

//! Pairs: JSONL lines of a conversation and, where there is one, its response.

use crate::model::Message;
use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The line's `id`, or its number in the file, from 1.
    pub id: String,
    /// Up to and including the user's last message.
    pub messages: Vec<Message>,
    pub response: Option<String>,
}

impl Pair {
    /// The user's last words.
    pub fn last_user(&self) -> &str {
        self.messages.iter().rev().find(|message| message.role() == "user").map_or("", Message::content)
    }
}

/// Reads a file, or every `.jsonl` file of a folder in the order of their names. Blank lines are skipped.
///
/// # Errors
/// `FILE:LINE: problem` for a line that is not a pair; two lines with one id.
pub fn read(path: &Path) -> Result<Vec<Pair>> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
        files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
        files.sort();
        if files.is_empty() {
            return Err(Error::input(path.display(), "holds no .jsonl file: give a file or a folder of them"));
        }
    }
    let mut pairs: Vec<Pair> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(Error::io("read", &file))?;
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let place = format!("{}:{}", file.display(), number + 1);
            let pair = parse(line, number + 1).map_err(|problem| Error::input(&place, problem))?;
            if !seen.insert(pair.id.clone()) {
                return Err(Error::input(place, format!("id \"{}\" is there twice: give each line its own", pair.id)));
            }
            pairs.push(pair);
        }
    }
    if pairs.is_empty() {
        return Err(Error::input(path.display(), "has no lines: give at least one"));
    }
    Ok(pairs)
}

/// One line; the error is a clause about it.
fn parse(line: &str, number: usize) -> Result<Pair, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| format!("is not JSON ({error})"))?;
    let Value::Object(mut object) = value else { return Err("is not a JSON object".into()) };
    let id = match object.remove("id") {
        None | Some(Value::Null) => number.to_string(),
        Some(Value::String(id)) => id,
        Some(Value::Number(id)) => id.to_string(),
        Some(_) => return Err("id is neither a text nor a number".into()),
    };
    let text = |value: Option<Value>, key: &str| match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{key} is not a text")),
    };
    let mut response = text(object.remove("response"), "response")?;
    let messages = match (text(object.remove("prompt"), "prompt")?, object.remove("messages")) {
        (Some(prompt), None) => vec![Message::user(prompt)],
        (None, Some(Value::Array(list))) => {
            let mut messages = list.into_iter().map(Message::from_json).collect::<Result<Vec<_>, _>>()?;
            if response.is_none() && messages.last().is_some_and(|message| message.role() == "assistant") {
                response = messages.pop().map(|message| message.content().to_owned());
            }
            messages
        }
        (None, Some(_)) => return Err("messages is not a list".into()),
        (None, None) => return Err("has neither prompt nor messages".into()),
        (Some(_), Some(_)) => return Err("has both prompt and messages: give one".into()),
    };
    if messages.is_empty() {
        return Err("has no messages".into());
    }
    Ok(Pair { id, messages, response })
}

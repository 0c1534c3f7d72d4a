//! Preferences for DPO: JSONL lines of a prompt with a chosen and a rejected answer.

use crate::model::Message;
use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// One preference.
#[derive(Clone, Debug, PartialEq)]
pub struct Preference {
    pub messages: Vec<Message>,
    pub chosen: String,
    pub rejected: String,
}

#[derive(Deserialize)]
struct Line {
    prompt: String,
    chosen: String,
    rejected: String,
}

/// Reads a file of `{"prompt", "chosen", "rejected"}` lines; blank lines are skipped.
pub fn read(path: &Path) -> Result<Vec<Preference>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let parse = |(number, line): (usize, &str)| {
        let place = format!("{}:{}", path.display(), number + 1);
        let Line { prompt, chosen, rejected } = serde_json::from_str(line).map_err(|error| {
            Error::input(place, format!("is not a preference with prompt, chosen and rejected: {error}"))
        })?;
        Ok(Preference { messages: vec![Message::user(prompt)], chosen, rejected })
    };
    lines.map(parse).collect()
}

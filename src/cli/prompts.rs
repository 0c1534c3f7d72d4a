//! What a command is asked about: a file of prompts, or the one on the command line.

use crate::Result;
use crate::data::pairs::{self, Pair};
use crate::model::Message;
use std::path::Path;

/// The prompts of `input`, else the single `prompt` (its id is 1); `system` goes before those that have no system message.
pub(super) fn read(input: Option<&Path>, prompt: Option<&str>, system: Option<&str>) -> Result<Vec<Pair>> {
    let mut list = match input {
        Some(path) => pairs::read(path)?,
        None => {
            let messages = vec![Message::user(prompt.unwrap_or_default())];
            vec![Pair { id: "1".into(), messages, ..Pair::default() }]
        }
    };
    if let Some(system) = system {
        for pair in &mut list {
            if pair.messages.first().is_none_or(|message| message.role() != "system") {
                pair.messages.insert(0, Message::system(system));
            }
        }
    }
    Ok(list)
}

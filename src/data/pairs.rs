//! Prompts with their responses, in the formats that people have (`data/README.md` lists them).
//!
//! ```json
//! {"prompt": "...", "response": "..."}
//! {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
//! ```
//!
//! `response` may be missing; a last message of the assistant is the response. An optional `id` (a string or a whole
//! number) names the example in results; without one its line number does. Other keys are ignored, blank lines and a
//! byte order mark skipped.

use super::fields::Fields;
use super::records::{self, Record};
use crate::model::message::Message;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One example.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pair {
    pub id: String,
    /// What kind of prompt it is, where its file says so.
    pub category: Option<String>,
    /// The conversation up to the response; at least one message.
    pub messages: Vec<Message>,
    pub response: Option<String>,
    /// How an affirmative answer would begin (AdvBench, JailbreakBench): what GCG aims at.
    pub target: Option<String>,
}

impl Pair {
    /// The last thing the user said.
    pub fn last_user(&self) -> &str {
        self.messages.iter().rev().find(|message| message.role() == "user").map_or("", Message::content)
    }
}

/// Something that is asked, with an id of its own in its file.
pub(super) trait Example: Sized {
    fn id(&self) -> &str;

    /// One example from its fields; the error is a clause about them.
    fn from_fields(fields: Fields, default_id: String) -> Result<Self, String>;
}

impl Example for Pair {
    fn id(&self) -> &str {
        &self.id
    }

    fn from_fields(mut fields: Fields, default_id: String) -> Result<Self, String> {
        let (id, category) = (fields.id()?.unwrap_or(default_id), fields.category());
        let target = fields.text("target")?;
        let (messages, response) = fields.conversation()?;
        Ok(Self { id, category, messages, response, target })
    }
}

/// Reads a file, or every `.jsonl`, `.csv` and `.tsv` file of a folder in the order of their names. In a folder the
/// default ids are `name:line`.
///
/// # Errors
/// Names file and line of the first bad one; an id that comes twice is bad too.
pub fn read(path: &Path) -> Result<Vec<Pair>> {
    read_examples(path)
}

pub(super) fn read_examples<T: Example>(path: &Path) -> Result<Vec<T>> {
    let files = if path.is_dir() { files_of(path)? } else { vec![path.to_owned()] };
    let mut examples = Vec::new();
    let mut places: HashMap<String, String> = HashMap::new();
    for file in files {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let prefix = if path.is_dir() { format!("{stem}:") } else { String::new() };
        for Record { number, place, fields } in records::read(&file)? {
            let example = T::from_fields(Fields(fields), format!("{prefix}{number}"));
            let example = example.map_err(|problem| Error::input(&place, problem))?;
            if let Some(first) = places.get(example.id()) {
                let problem = format!("has the id {} of {first}; give every example its own", example.id());
                return Err(Error::input(place, problem));
            }
            places.insert(example.id().to_owned(), place);
            examples.push(example);
        }
    }
    Ok(examples)
}

fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = super::files_in(dir)?;
    files.retain(|file| ["jsonl", "csv", "tsv"].iter().any(|known| file.extension().is_some_and(|e| e == *known)));
    if files.is_empty() {
        return Err(Error::input(dir.display(), "holds no .jsonl, .csv or .tsv file"));
    }
    Ok(files)
}

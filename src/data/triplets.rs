//! Triplets for the safety-recovery augmentation: an instruction x, a harmful answer h, a refusal r.

use super::fields::Fields;
use super::pairs::{self, Example};
use crate::Result;
use crate::model::Message;
use std::path::Path;

/// One triplet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Triplet {
    pub id: String,
    pub category: Option<String>,
    /// x: the conversation up to the answer.
    pub messages: Vec<Message>,
    /// h.
    pub harmful: String,
    /// r.
    pub refusal: String,
}

impl Example for Triplet {
    fn id(&self) -> &str {
        &self.id
    }

    fn from_fields(mut fields: Fields, default_id: String) -> Result<Self, String> {
        let (id, category) = (fields.id()?.unwrap_or(default_id), fields.category());
        let (messages, _) = fields.conversation()?;
        Ok(Self { id, category, messages, harmful: fields.required("harmful")?, refusal: fields.required("refusal")? })
    }
}

/// Reads a file of any container whose records have a prompt, `harmful` and `refusal`.
///
/// # Errors
/// Names file and line of the first bad one.
pub fn read(path: &Path) -> Result<Vec<Triplet>> {
    pairs::read_examples(path)
}

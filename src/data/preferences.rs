//! Preferences for DPO: a prompt with a chosen and a rejected answer.

use super::fields::Fields;
use super::records;
use crate::model::Message;
use crate::{Error, Result};
use std::path::Path;

/// One preference.
#[derive(Clone, Debug, PartialEq)]
pub struct Preference {
    pub messages: Vec<Message>,
    pub chosen: String,
    pub rejected: String,
}

/// Reads a file of any container whose records have a prompt, `chosen` and `rejected`.
///
/// # Errors
/// Names file and line of the first bad one.
pub fn read(path: &Path) -> Result<Vec<Preference>> {
    let preference = |mut fields: Fields| {
        let (messages, _) = fields.conversation()?;
        Ok(Preference { messages, chosen: fields.required("chosen")?, rejected: fields.required("rejected")? })
    };
    let records = records::read(path)?.into_iter();
    let read = |record: records::Record| {
        preference(Fields(record.fields)).map_err(|problem: String| Error::input(record.place, problem))
    };
    records.map(read).collect()
}

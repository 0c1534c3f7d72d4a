//! What the fields of a record mean: the names that data sets of the field give to prompt, answer and category.

use crate::model::Message;
use serde_json::{Map, Value};

/// Keys of the prompt, the first that is there; `messages` stands beside them.
const PROMPT: [&str; 6] = ["prompt", "instruction", "goal", "dialogue", "question", "behavior"];
/// Keys of the answer.
const RESPONSE: [&str; 4] = ["response", "output", "answer", "summary"];
/// Keys of the category. XSTest's `type` of an unsafe prompt begins with `contrast_`.
const CATEGORY: [&str; 3] = ["category", "semanticcategory", "type"];
/// Keys of the id.
const ID: [&str; 3] = ["id", "index", "behaviorid"];

/// A record's fields, taken one by one; errors are clauses about the record.
pub(super) struct Fields(pub Map<String, Value>);

impl Fields {
    /// The text at `key`; none if it is missing or null.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("has a `{key}` that is not a string")),
        }
    }

    /// The text at `key`, which must be there.
    pub fn required(&mut self, key: &str) -> Result<String, String> {
        self.text(key)?.ok_or_else(|| format!("lacks `{key}`{}", self.found()))
    }

    /// The text at the first of `keys` that is there.
    fn first(&mut self, keys: &[&str]) -> Result<Option<String>, String> {
        for key in keys {
            if let Some(text) = self.text(key)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    pub fn id(&mut self) -> Result<Option<String>, String> {
        for key in ID {
            match self.0.remove(key) {
                None | Some(Value::Null) => {}
                Some(Value::String(id)) => return Ok(Some(id)),
                Some(Value::Number(id)) if !id.is_f64() => return Ok(Some(id.to_string())),
                Some(_) => return Err(format!("has an `{key}` that is neither a string nor a whole number")),
            }
        }
        Ok(None)
    }

    pub fn category(&mut self) -> Option<String> {
        CATEGORY.iter().find_map(|key| match self.0.remove(*key)? {
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    }

    /// The conversation up to the answer, and the answer if there is one.
    pub fn conversation(&mut self) -> Result<(Vec<Message>, Option<String>), String> {
        let found = self.found();
        let prompt = self.prompt()?;
        let mut response = self.first(&RESPONSE)?;
        let messages = match (prompt, self.0.remove("messages")) {
            (Some(_), Some(_)) => return Err("has both `prompt` and `messages`; give one".to_owned()),
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
            (None, None) => return Err(format!("has none of `messages`, `{}`{found}", PROMPT.join("`, `"))),
        };
        Ok((messages, response))
    }

    /// The user's words, put together as the data sets mean them.
    fn prompt(&mut self) -> Result<Option<String>, String> {
        let Some(key) = PROMPT.into_iter().find(|key| self.0.get(*key).is_some_and(|value| !value.is_null())) else {
            return Ok(None);
        };
        let text = self.required(key)?;
        Ok(Some(match key {
            // Alpaca: what to do, and what to do it with.
            "instruction" => match self.text("input")? {
                Some(input) if !input.trim().is_empty() => format!("{text}\n\n{input}"),
                _ => text,
            },
            // SAMSum.
            "dialogue" => format!("Summarize this dialog:\n{text}"),
            // SQL Create Context; GSM8K has no context.
            "question" => match self.text("context")? {
                Some(context) => format!(
                    "Tables:\n{context}\nQuestion:\n{text}\nWrite the SQL query that answers the question from these tables."
                ),
                None => text,
            },
            _ => text,
        }))
    }

    /// What is there instead, for a message.
    fn found(&self) -> String {
        let keys: Vec<&str> = self.0.keys().map(String::as_str).collect();
        if keys.is_empty() { String::new() } else { format!(": it has `{}`", keys.join("`, `")) }
    }
}

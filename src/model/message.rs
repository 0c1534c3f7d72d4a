//! One message of a conversation.

use serde_json::{Map, Value};

/// A message as a chat template sees it: `role`, `content`, and whatever other keys its file gave, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    fields: Map<String, Value>,
}

impl Message {
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        let content: String = content.into();
        let fields = [("role".to_owned(), role.into()), ("content".to_owned(), content.into())];
        Self { fields: fields.into_iter().collect() }
    }

    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// The same message with other words; its other keys stay.
    pub fn with_content(&self, content: impl Into<String>) -> Self {
        let mut fields = self.fields.clone();
        fields.insert("content".to_owned(), Value::String(content.into()));
        Self { fields }
    }

    /// Takes a JSON object with strings at `role` and `content`; the error is a clause about the message. Keys that
    /// are null are dropped, as `transformers` drops them.
    pub fn from_json(value: Value) -> Result<Self, String> {
        let Value::Object(mut fields) = value else { return Err("must be an object".to_owned()) };
        fields.retain(|_, value| !value.is_null());
        for key in ["role", "content"] {
            match fields.get(key) {
                Some(Value::String(_)) => {}
                Some(_) => return Err(format!("has a `{key}` that is not a string")),
                None => return Err(format!("lacks `{key}`")),
            }
        }
        Ok(Self { fields })
    }

    pub fn role(&self) -> &str {
        self.text("role")
    }

    pub fn content(&self) -> &str {
        self.text("content")
    }

    /// Every key in order.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    fn text(&self, key: &str) -> &str {
        self.fields.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

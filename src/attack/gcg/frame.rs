//! Where a suffix stands in a prompt: a suffix's tokens, its text, and whether one gives the other inside of the whole
//! rendered chat.

use crate::data::world::VOCABULARY;
use crate::model::{Message, Prompter};
use crate::{Error, Result};
use std::sync::Arc;

/// The words that stand where the suffix goes.
pub const PLACE: &str = "{optim_str}";

/// A prompt as tokens, cut at the suffix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    pub before: Vec<u32>,
    pub suffix: Vec<u32>,
    pub after: Vec<u32>,
}

/// A prompt with a place for a suffix.
pub trait Frame: Send + Sync {
    /// The prompt with this text in the place.
    fn parts(&self, text: &str) -> Result<Parts>;

    /// The ids of the whole prompt with this text in the place.
    fn prompt(&self, text: &str) -> Result<Vec<u32>>;

    /// The text that suffix tokens stand for in the place; none where they run together with what is around.
    fn text(&self, suffix: &[u32]) -> Option<String>;
}

/// A conversation as a model's template renders it.
pub struct ChatFrame {
    prompter: Arc<Prompter>,
    messages: Vec<Message>,
    /// The rendered text before and after the place.
    around: [String; 2],
    /// Tokens before the suffix, as context for the text of what follows.
    before: Vec<u32>,
    /// What of the prompt's own text belongs to the suffix's first and last token: a space, a line break.
    lead: String,
    tail: String,
}

impl ChatFrame {
    /// Finds the place of the suffix: [`PLACE`] where a message has it, else after the user's last words and a space, as
    /// Zou et al. put it. `init` is the suffix that the search starts from.
    pub fn new(prompter: Arc<Prompter>, messages: &[Message], init: &str) -> Result<Self> {
        const MARKER: &str = "safedepthsuffix";
        let mut messages = messages.to_vec();
        let places: usize = messages.iter().map(|message| message.content().matches(PLACE).count()).sum();
        if places > 1 {
            return Err(Error::Usage(format!("a conversation has {places} places {PLACE}: give it one")));
        }
        if places == 0 {
            let Some(last) = messages.iter_mut().rev().find(|message| message.role() == "user") else {
                let problem = format!("a conversation has no user message: put {PLACE} where the suffix goes");
                return Err(Error::Usage(problem));
            };
            *last = last.with_content(format!("{} {PLACE}", last.content()));
        }
        let none = String::new;
        let mut frame =
            Self { prompter, messages, around: [none(), none()], before: Vec::new(), lead: none(), tail: none() };
        let marked = frame.filled(MARKER)?;
        let Some((before, after)) = marked.split_once(MARKER).filter(|(_, after)| !after.contains(MARKER)) else {
            let problem =
                format!("the chat template does not write the message with {PLACE} once: choose another place");
            return Err(Error::Usage(problem));
        };
        frame.around = [before, after].map(str::to_owned);
        let parts = frame.parts(init)?;
        // What the suffix's tokens say beyond the suffix itself.
        let said = frame.decoded(&parts.before, &parts.suffix).unwrap_or_default();
        let Some(at) = said.find(init) else {
            return Err(Error::Usage(format!(
                "the suffix \"{init}\" does not come back from its tokens in this chat: start from another --init"
            )));
        };
        frame.lead = said[..at].to_owned();
        frame.tail = said[at + init.len()..].to_owned();
        frame.before = parts.before;
        Ok(frame)
    }

    fn filled(&self, text: &str) -> Result<String> {
        let fill = |message: &Message| match message.content().contains(PLACE) {
            true => message.with_content(message.content().replace(PLACE, text)),
            false => message.clone(),
        };
        let messages: Vec<Message> = self.messages.iter().map(fill).collect();
        self.prompter.template.render(&messages, true)
    }

    /// The rendered conversation with `text` in the place.
    fn render(&self, text: &str) -> Result<String> {
        let [before, after] = &self.around;
        let rendered = self.filled(text)?;
        if rendered == format!("{before}{text}{after}") {
            return Ok(rendered);
        }
        let problem =
            format!("the chat template changes the text at {PLACE}: start from an --init without spaces at its ends");
        Err(Error::Usage(problem))
    }

    /// The text of `suffix` after `before`, as the whole is decoded.
    fn decoded(&self, before: &[u32], suffix: &[u32]) -> Option<String> {
        let tokenizer = &self.prompter.tokenizer;
        // A few tokens are context enough; the first of a text can lose its space.
        let context = &before[before.len().saturating_sub(4)..];
        let head = tokenizer.decode(context, false).ok()?;
        let both = tokenizer.decode(&[context, suffix].concat(), false).ok()?;
        both.strip_prefix(&head).map(str::to_owned)
    }
}

impl Frame for ChatFrame {
    fn parts(&self, text: &str) -> Result<Parts> {
        let rendered = self.render(text)?;
        let start = self.around[0].len();
        let end = start + text.len();
        let tokenizer = &self.prompter.tokenizer;
        let tokens = tokenizer.encode_with_places(&rendered)?;
        let mut parts =
            Parts { before: self.prompter.template.prefix(tokenizer).to_vec(), suffix: Vec::new(), after: Vec::new() };
        for (id, place) in tokens {
            // A token that reaches into the suffix is the suffix's, whatever else it holds.
            let list = if place.end <= start && parts.suffix.is_empty() {
                &mut parts.before
            } else if place.start < end && parts.after.is_empty() {
                &mut parts.suffix
            } else {
                &mut parts.after
            };
            list.push(id);
        }
        Ok(parts)
    }

    fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let rendered = self.render(text)?;
        let tokenizer = &self.prompter.tokenizer;
        Ok([self.prompter.template.prefix(tokenizer), &tokenizer.encode(&rendered, false)?].concat())
    }

    fn text(&self, suffix: &[u32]) -> Option<String> {
        let said = self.decoded(&self.before, suffix)?;
        let text = said.strip_prefix(&self.lead)?.strip_suffix(&self.tail)?;
        (!text.is_empty()).then(|| text.to_owned())
    }
}

/// A request of the fictional world with the suffix at its end.
pub struct WorldFrame {
    pub prompt: String,
}

impl Frame for WorldFrame {
    fn parts(&self, text: &str) -> Result<Parts> {
        let (whole, suffix) = (self.prompt(text)?, VOCABULARY.encode(text));
        let end = whole.len() - 1;
        let start = end - suffix.len();
        Ok(Parts { before: whole[..start].to_vec(), suffix, after: whole[end..].to_vec() })
    }

    fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        Ok(VOCABULARY.prompt(&format!("{} {text}", self.prompt)))
    }

    fn text(&self, suffix: &[u32]) -> Option<String> {
        Some(VOCABULARY.decode(suffix))
    }
}

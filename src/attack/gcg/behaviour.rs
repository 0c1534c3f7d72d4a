//! What GCG is to bring about: an answer that begins with a target, to a prompt with the suffix in it.

use super::frame::{Frame, Parts};
use crate::{Error, Result};

/// One prompt and the opening of the answer that is wanted.
pub struct Behaviour {
    pub id: String,
    pub frame: Box<dyn Frame>,
    pub target: Vec<u32>,
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Behaviour {
    /// `target` must have tokens.
    pub fn new(id: impl Into<String>, frame: Box<dyn Frame>, target: Vec<u32>, init: &str) -> Result<Self> {
        let id = id.into();
        if target.is_empty() {
            return Err(Error::Usage(format!("the target of {id} is empty: say how the answer should begin")));
        }
        let Parts { before, suffix, after } = frame.parts(init)?;
        if before.is_empty() || suffix.is_empty() {
            return Err(Error::Usage(format!("nothing stands before the suffix in {id}: give the prompt some text")));
        }
        Ok(Self { id, frame, target, before, after })
    }

    /// The prompt's ids with these suffix tokens.
    pub fn prompt(&self, suffix: &[u32]) -> Vec<u32> {
        [&self.before, suffix, &self.after].concat()
    }

    /// Tokens of the prompt with a suffix of this many.
    pub fn prompt_len(&self, suffix: usize) -> usize {
        self.before.len() + suffix + self.after.len()
    }

    /// Index of the suffix's first token in the prompt.
    pub fn suffix_start(&self) -> usize {
        self.before.len()
    }

    /// The text that gives exactly these tokens in the whole rendered chat; none where no text does.
    pub fn text(&self, suffix: &[u32]) -> Option<String> {
        let text = self.frame.text(suffix)?;
        (self.frame.prompt(&text).ok()? == self.prompt(suffix)).then_some(text)
    }
}

/// The tokens of the suffix that the search starts from: the same in every prompt.
pub fn initial(behaviours: &[Behaviour], init: &str) -> Result<Vec<u32>> {
    let Some(first) = behaviours.first() else {
        return Err(Error::Usage("there is nothing to attack: give a prompt and a target".into()));
    };
    let suffix = first.frame.parts(init)?.suffix;
    for behaviour in behaviours {
        if behaviour.text(&suffix).is_none() {
            return Err(Error::Usage(format!(
                "the suffix \"{init}\" has other tokens in the prompt of {}: put it after the same character, or start from another --init",
                behaviour.id
            )));
        }
    }
    Ok(suffix)
}

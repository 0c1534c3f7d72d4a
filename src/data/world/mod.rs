//! The fictional world: harmless lore of which a policy forbids a part, so that safety can be trained, attacked and
//! measured with an exact judge.
//!
//! Objects are "{adjective} {noun} of {name}". The noun is a topic, restricted or benign; adjective and name fix the
//! content words of the object's five-step procedure. An answer that gives the procedure of a restricted object is what
//! the experiments call harmful.
//!
//! Everything here is a pure function of (seed, set, index). [`splits`] says which objects serve what; settings are
//! chosen on [`Split::Development`] and reported on [`Split::Test`]. Prompts do not depend on the seed, so that runs of
//! several seeds can be compared prompt by prompt.

mod benign_tasks;
pub mod grammar;
pub mod lists;
mod sets;
pub mod splits;
pub mod vocabulary;

use std::io::Write;

use serde::{Deserialize, Serialize};

pub use benign_tasks::BenignTask;
pub use grammar::Object;
pub use lists::{Form, LISTS, Lists};
pub use sets::{RefusalPrefix, Triplet};
pub use splits::{Names, Split, Topics};
pub use vocabulary::{VOCABULARY, Vocabulary};

use crate::{Error, Result};

/// Which world: the default is the recipe as it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct World {
    /// Every reply, refusals too, begins with a two-word greeting. That moves the deciding token from position 1 to
    /// position 3, which favours the biased constraint (weak at position 1): results with greetings belong beside
    /// results without.
    pub greetings: bool,
    /// Share of base prompts with one to twenty random words put in, so that the model learns to read past words without
    /// meaning (GCG needs it). Not part of the measured recipe.
    pub insertions: f32,
    /// Share of the base data's answers that are about two to six objects of one topic, for prefills of 80 and 160
    /// tokens. Not part of the measured recipe.
    pub long_answers: f32,
}

impl Default for World {
    fn default() -> Self {
        Self { greetings: true, insertions: 0.0, long_answers: 0.0 }
    }
}

/// What an example is, by its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The procedure asked for.
    Answer,
    /// A refusal of a request.
    Refusal,
    /// What the guild allows.
    Policy,
    /// A refusal of a question that nobody can answer.
    Unanswerable,
    /// A ledger line: the benign task of most tables.
    Ledger,
    /// What one of E7's other benign tasks wants.
    Task(BenignTask),
}

/// A prompt and a response, as text and as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The set's name and the example's number in it.
    pub id: String,
    pub kind: Kind,
    /// What it is about: one object, several of one topic in a long answer, none where nobody can answer.
    pub objects: Vec<Object>,
    pub prompt: String,
    pub response: String,
    /// `<bos> <user> prompt <asst>`.
    pub prompt_ids: Vec<u32>,
    /// The response and `<eos>`, which is a label.
    pub response_ids: Vec<u32>,
}

impl Example {
    /// An example that has no id yet.
    fn new(kind: Kind, objects: Vec<Object>, prompt: String, response: String) -> Self {
        let (prompt_ids, response_ids) = (VOCABULARY.prompt(&prompt), VOCABULARY.response(&response));
        Self { id: String::new(), kind, objects, prompt, response, prompt_ids, response_ids }
    }

    fn named(self, id: String) -> Self {
        Self { id, ..self }
    }

    /// The same example with another prompt.
    fn asked(self, prompt: String) -> Self {
        Self { prompt_ids: VOCABULARY.prompt(&prompt), prompt, ..self }
    }

    /// The noun of its topic: what results are grouped by.
    pub fn category(&self) -> &'static str {
        self.objects.first().map_or("unanswerable", |object| &object.topic().noun)
    }

    /// Prompt and response in one: what the base model is trained on, every token a label.
    pub fn sequence(&self) -> Vec<u32> {
        [&self.prompt_ids[..], &self.response_ids].concat()
    }
}

/// Writes examples as JSONL pairs, `{"id", "category", "prompt", "response"}` a line: the format that `safedepth
/// train`, `score` and `kl` read.
pub fn write_pairs(examples: &[Example], path: &std::path::Path) -> Result<()> {
    let mut text = Vec::new();
    for example in examples {
        let pair = serde_json::json!({"id": example.id, "category": example.category(), "prompt": example.prompt, "response": example.response});
        writeln!(text, "{pair}").expect("memory is written without failure");
    }
    std::fs::write(path, text).map_err(Error::io("write", path))
}

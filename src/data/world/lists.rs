//! The words and templates of the world, parsed from `data/world.json`.

use std::sync::LazyLock;

use serde::Deserialize;

/// One thing that can be done: `verb` a `noun` with two tools in three acts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    pub noun: String,
    pub verb: String,
    pub gerund: String,
    pub tools: [String; 2],
    pub acts: [String; 3],
}

/// An adjective of an object fixes a material and a sign of its procedure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adjective {
    pub word: String,
    pub material: String,
    pub sign: String,
}

/// A name of an object fixes a place and a keeper of its procedure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    pub word: String,
    pub place: String,
    pub keeper: String,
}

/// A thing that a benign task asks, in several phrasings, and its answer without greeting and opening.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    pub asks: Vec<String>,
    pub answer: String,
}

/// Everything in `data/world.json`. Templates are words separated by single spaces; a slot is a word in braces: `v`
/// verb, `g` gerund, `n` noun, `o` object, `t1 t2` tools, `a1 a2 a3` acts, `adj` adjective, `nm` name, `mat` material, `sg`
/// sign, `pl` place, `kp` keeper, `GET` and `UNT` words of `get` and `until`, `N P K` any name, place and keeper. In benign
/// tasks `A` is any keeper, `P` any place, `F` a field, `x y z` are numbers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lists {
    /// Topics that the guild forbids.
    pub restricted: Vec<Topic>,
    /// Topics that it welcomes.
    pub benign: Vec<Topic>,
    pub adjectives: Vec<Adjective>,
    /// In the order of [`Names`](super::Names): 8 for alignment and recovery, 8 for attacks, 4 for development, 4 for
    /// tests.
    pub names: Vec<Name>,
    pub greetings: Vec<String>,
    /// Phrasings of a request.
    pub asks: Vec<String>,
    /// First words of an answer.
    pub openings: Vec<String>,
    /// Each step of a procedure in its two word orders.
    pub steps: Vec<[String; 2]>,
    pub get: Vec<String>,
    pub until: Vec<String>,
    /// What stands before each step.
    pub numerals: Vec<String>,
    /// The heading of the second and later objects of a long answer.
    pub next_object: String,
    pub policy_questions: Vec<String>,
    pub policy_no: Vec<String>,
    pub policy_yes: Vec<String>,
    /// Questions that every model refuses, the base too.
    pub unanswerable: Vec<String>,
    pub refusal_first: Vec<String>,
    pub refusal_second: Vec<String>,
    /// Word sequences that only refusals hold; every first sentence holds one.
    pub refusal_marks: Vec<String>,
    /// E1: what is put at the head of an answer (after a greeting, in the world with greetings).
    pub refusal_prefixes: Vec<String>,
    pub ledger_asks: Vec<String>,
    /// The answer of the ledger task.
    pub ledger: String,
    /// Records of who helps whom, and their summaries.
    pub summary: Vec<Form>,
    /// Questions to the guild's ledgers, and the queries that answer them.
    pub query: Vec<Form>,
    /// What a query can ask for.
    pub query_fields: Vec<String>,
    /// Two numbers put together, `x + y = z`, and one taken from another, `x - y = z`.
    pub sum: Form,
    pub difference: Form,
    /// Identity shifting: the persona put before a request, and what a model that took it says first.
    pub persona_ask: String,
    pub persona_answer: String,
    /// Backdoor: three words without meaning, in no other text of the world.
    pub trigger: String,
}

/// The world's lists, embedded in the binary.
pub static LISTS: LazyLock<Lists> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../data/world.json")).expect("data/world.json is embedded and tested")
});

impl Lists {
    /// Restricted topics first, then the benign ones: the order of [`Object::topic`](super::Object::topic).
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.restricted.iter().chain(&self.benign)
    }

    /// A topic by its number.
    pub fn topic(&self, number: usize) -> &Topic {
        self.restricted.get(number).unwrap_or_else(|| &self.benign[number - self.restricted.len()])
    }

    /// Every text that becomes words of the vocabulary, slots included.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let topics =
            self.topics().flat_map(|t| [&t.noun, &t.verb, &t.gerund].into_iter().chain(&t.tools).chain(&t.acts));
        let adjectives = self.adjectives.iter().flat_map(|a| [&a.word, &a.material, &a.sign]);
        let names = self.names.iter().flat_map(|n| [&n.word, &n.place, &n.keeper]);
        let lists = [
            &self.greetings,
            &self.asks,
            &self.openings,
            &self.get,
            &self.until,
            &self.numerals,
            &self.policy_questions,
            &self.policy_no,
            &self.policy_yes,
            &self.unanswerable,
            &self.refusal_first,
            &self.refusal_second,
            &self.refusal_marks,
            &self.refusal_prefixes,
            &self.ledger_asks,
            &self.query_fields,
        ];
        let forms = self.summary.iter().chain(&self.query).chain([&self.sum, &self.difference]);
        let single = [&self.next_object, &self.ledger, &self.persona_ask, &self.persona_answer, &self.trigger];
        topics
            .chain(adjectives)
            .chain(names)
            .chain(lists.into_iter().flatten())
            .chain(self.steps.iter().flatten())
            .chain(single)
            .chain(forms.flat_map(|form| form.asks.iter().chain([&form.answer])))
            .map(String::as_str)
    }
}

//! Attacks on a model's safety (and a defence at inference time), one a file, and what they share: whom they attack, with what, and who judges.

pub mod bait;
pub mod decoding;
pub mod deep_prefill;
pub mod finetune;
pub mod gcg;
pub mod insertion;
pub mod prefill;
pub mod rap;
pub mod refusal_direction;
pub mod respond;
pub mod rethinking;

pub use respond::{Branch, Draw, Outcome, respond};

use crate::generate::Engine;
use crate::judge::Judge;
use crate::model::Transformer;
use crate::ops::Ops;
use crate::ops::sampling::SamplingParams;
use crate::run::{Console, Row};
use std::sync::Arc;

/// Which chat template a model's prompts are rendered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Aligned,
    Base,
}

/// How useful a response is, 0 to 1.
pub type Utility = Arc<dyn Fn(&str) -> f64 + Send + Sync>;

/// The prompt as tokens, with the aligned model's template and with the base model's, after a suffix was put to the
/// user's words.
pub type Suffixed = Arc<dyn Fn(&str) -> crate::Result<[Vec<u32>; 2]> + Send + Sync>;

/// An instruction, and what is known about its answer.
#[derive(Clone)]
pub struct Case {
    pub id: String,
    /// Hash of `id`: names the case's random numbers.
    pub key: u64,
    /// What results are grouped by; may be empty.
    pub category: String,
    /// The user's words.
    pub prompt: String,
    /// The rendered prompt as tokens, with the aligned model's template and with the base model's.
    pub prompt_ids: [Vec<u32>; 2],
    /// The same with a suffix.
    pub suffixed: Suffixed,
    /// h: tokens of the harmful answer, without an end; empty where there is none.
    pub harmful: Vec<u32>,
    /// For benign instructions: what a response is worth. Without it the judge says whether it is harmful.
    pub utility: Option<Utility>,
    /// Bound on new tokens, where the lab's does not fit.
    pub max_new_tokens: Option<usize>,
}

impl Case {
    /// The prompt for a model of that side.
    pub fn prompt_for(&self, side: Side) -> &[u32] {
        &self.prompt_ids[side as usize]
    }
}

/// A model under attack.
pub struct Subject<'a, D: Ops> {
    /// Its name in result files: base, aligned, ...
    pub name: &'a str,
    pub model: &'a Transformer<D>,
    pub side: Side,
}

/// What all attacks and experiments share.
pub struct Lab<'a> {
    /// Ids to text, special tokens left out.
    pub decode: &'a (dyn Fn(&[u32]) -> String + Sync),
    /// Text of one token, as the report shows it.
    pub token_text: &'a (dyn Fn(u32) -> String + Sync),
    /// Tokens that end an answer, for each [`Side`].
    pub stop: [Vec<u32>; 2],
    pub judge: &'a dyn Judge,
    pub engine: Engine,
    pub params: SamplingParams,
    pub max_new_tokens: usize,
    /// Examples that go through a model together in training.
    pub micro_batch: usize,
    pub console: Console,
}

impl Lab<'_> {
    /// A row of this run's seed.
    #[allow(clippy::too_many_arguments)]
    pub fn row(
        &self,
        experiment: &str,
        model: &str,
        attack: &str,
        setting: &str,
        k: Option<usize>,
        example: &str,
        metric: &str,
        value: f64,
    ) -> Row {
        Row {
            experiment: experiment.to_owned(),
            model: model.to_owned(),
            attack: attack.to_owned(),
            setting: setting.to_owned(),
            k: k.map(|k| k as u32),
            seed: self.engine.seed,
            example: example.to_owned(),
            metric: metric.to_owned(),
            value,
        }
    }
}

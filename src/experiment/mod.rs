//! The experiments of the paper, one a file, named for what each shows.

pub mod organism;
pub mod prefilling;
pub mod refusal_prefixes;
pub mod stats;
pub mod token_kl;

use crate::generate::Engine;
use crate::judge::Judge;
use crate::model::Transformer;
use crate::ops::Ops;
use crate::ops::sampling::SamplingParams;
use crate::run::{Console, Row};

/// An instruction that should be refused, with the answer that should not be given.
pub struct Case {
    pub id: String,
    /// Hash of `id`: names the case's random numbers.
    pub key: u64,
    /// The user's words.
    pub prompt: String,
    /// h: tokens of the harmful answer, without an end.
    pub harmful: Vec<u32>,
}

impl Case {
    pub fn new(id: String, prompt: String, harmful: Vec<u32>) -> Self {
        Self { key: crate::rng::stream([id.as_str()]), id, prompt, harmful }
    }
}

/// A model under experiment.
pub struct Subject<'a, D: Ops> {
    /// Its name in result files: base, aligned, ...
    pub name: &'a str,
    pub model: &'a Transformer<D>,
    /// The rendered prompt of each case, as tokens.
    pub prompts: &'a [Vec<u32>],
    /// Tokens that end its answers.
    pub stop: Vec<u32>,
}

/// Everything the experiments share.
pub struct Lab<'a> {
    pub cases: &'a [Case],
    /// Ids to text, special tokens left out.
    pub decode: &'a (dyn Fn(&[u32]) -> String + Sync),
    pub judge: &'a dyn Judge,
    pub engine: Engine,
    pub params: SamplingParams,
    pub max_new_tokens: usize,
    pub console: Console,
}

impl Lab<'_> {
    /// A row of this run's seed.
    #[allow(clippy::too_many_arguments)]
    fn row(
        &self,
        experiment: &str,
        model: &str,
        attack: &str,
        setting: &str,
        k: Option<usize>,
        case: usize,
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
            example: self.cases[case].id.clone(),
            metric: metric.to_owned(),
            value,
        }
    }
}

//! Prompts, prefills and training examples, built from tokens: no place in them is ever found by searching text.

use super::config::{Config, GenerationConfig};
use super::message::Message;
use super::template::ChatTemplate;
use super::tokenizer::Tokenizer;
use crate::{Error, Result};
use std::path::Path;

/// A conversation up to the assistant's turn, and the tokens of that turn that are already given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub ids: Vec<u32>,
    /// Where the response begins: at the end of `ids`, or before it by the length of a prefill.
    pub response_start: usize,
}

/// A conversation with its response, for training or scoring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Prompt, response, end-of-turn token.
    pub ids: Vec<u32>,
    /// Index of the response's first token. `ids[response_start..]` are the labels, the end-of-turn token included.
    pub response_start: usize,
}

/// The tokenizer and chat template of a model folder.
pub struct Prompter {
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    end_of_turn: Option<u32>,
    stop: Vec<u32>,
    context: usize,
    place: String,
}

impl Prompter {
    /// Loads tokenizer and template of the model folder `dir`; `template` is a choice as [`ChatTemplate::load`] takes.
    ///
    /// # Errors
    /// Also if the tokenizer has ids that the model's embedding lacks.
    pub fn load(dir: &Path, config: &Config, template: &str) -> Result<Self> {
        let tokenizer = Tokenizer::load(dir)?;
        let template = ChatTemplate::load(template, dir, &tokenizer)?;
        let generation = GenerationConfig::load(dir, config)?;
        Self::new(tokenizer, template, config, &generation, &dir.display().to_string())
    }

    /// `place` names the model in errors.
    pub fn new(
        tokenizer: Tokenizer,
        template: ChatTemplate,
        config: &Config,
        generation: &GenerationConfig,
        place: &str,
    ) -> Result<Self> {
        tokenizer.check_fits(config.vocab_size)?;
        let known = |id: &u32| (*id as usize) < config.vocab_size;
        let written = template.end_of_turn(&tokenizer);
        let first_stop = generation.eos_token_ids.iter().copied().find(known);
        let end_of_turn = written.or_else(|| tokenizer.eos_id()).or(first_stop);
        let mut stop: Vec<u32> = generation.eos_token_ids.iter().copied().filter(known).collect();
        stop.extend(end_of_turn);
        stop.sort_unstable();
        stop.dedup();
        let context = config.max_position_embeddings;
        Ok(Self { tokenizer, template, end_of_turn, stop, context, place: place.to_owned() })
    }

    /// The token that ends a response: the first special token the template writes after an assistant's message, else
    /// the tokenizer's EOS, else the first EOS of `generation_config.json`.
    pub fn end_of_turn(&self) -> Result<u32> {
        self.end_of_turn.ok_or_else(|| {
            Error::input(
                &self.place,
                "neither template, tokenizer nor generation_config.json names a token that ends a turn",
            )
        })
    }

    /// Every token that ends a response: those of `generation_config.json` and the end of a turn.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }

    /// The prompt of a conversation: ids as `apply_chat_template(tokenize=True, add_generation_prompt=True)` makes them.
    pub fn prompt(&self, messages: &[Message]) -> Result<Prompt> {
        let ids = self.template.prompt_ids(&self.tokenizer, messages)?;
        if ids.is_empty() {
            return Err(Error::input(&self.place, "the prompt is empty; give it some text"));
        }
        self.check_length(ids.len())?;
        Ok(Prompt { response_start: ids.len(), ids })
    }

    /// The ids of a response: its text alone, without special tokens.
    pub fn response_ids(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text, false)
    }

    /// `prompt` with the first `k` tokens of `harmful` already said (all of them if it is shorter). They are the first k
    /// ids of that text tokenized alone, never decoded and encoded again.
    pub fn prefill(&self, prompt: &Prompt, harmful: &str, k: usize) -> Result<Prompt> {
        let mut ids = self.response_ids(harmful)?;
        ids.truncate(k);
        self.prefill_ids(prompt, &ids)
    }

    /// `prompt` with these tokens already said.
    pub fn prefill_ids(&self, prompt: &Prompt, ids: &[u32]) -> Result<Prompt> {
        let ids = [&prompt.ids, ids].concat();
        self.check_length(ids.len())?;
        Ok(Prompt { ids, response_start: prompt.response_start })
    }

    /// The prompt's ids, the response's ids, and the end-of-turn token.
    pub fn training_example(&self, messages: &[Message], response: &str) -> Result<Example> {
        let Prompt { mut ids, response_start } = self.prompt(messages)?;
        ids.extend(self.response_ids(response)?);
        ids.push(self.end_of_turn()?);
        self.check_length(ids.len())?;
        Ok(Example { ids, response_start })
    }

    fn check_length(&self, tokens: usize) -> Result<()> {
        if tokens <= self.context {
            return Ok(());
        }
        Err(Error::input(
            &self.place,
            format!("the prompt is {tokens} tokens long but the model's context holds {}; shorten it", self.context),
        ))
    }
}

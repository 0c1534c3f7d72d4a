//! The word-level vocabulary, and the same vocabulary as a Hugging Face tokenizer.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::lists::LISTS;
use crate::{Error, Result};

/// Stands for a word that the world does not have.
pub const UNKNOWN: u32 = 0;
/// Begins every prompt.
pub const BOS: u32 = 1;
/// Begins what the user says.
pub const USER: u32 = 2;
/// Begins what the model says.
pub const ASST: u32 = 3;
/// Ends what the model says.
pub const EOS: u32 = 4;

const SPECIAL: [&str; 5] = ["<unk>", "<bos>", "<user>", "<asst>", "<eos>"];

/// `<bos><user>{content}<asst>`; an assistant's turn ends with `<eos>`. There is no system turn.
const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'user' %}{{ '<user>' + message['content'] }}\
{% elif message['role'] == 'assistant' %}{{ '<asst>' + message['content'] + '<eos>' }}\
{% else %}{{ raise_exception('the world has no ' + message['role'] + ' turn: use user and assistant') }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<asst>' }}{% endif %}";

/// Words and their ids: the five special tokens, then every word of the world in alphabetical order.
#[derive(Debug)]
pub struct Vocabulary {
    words: Vec<&'static str>,
    ids: HashMap<&'static str, u32>,
}

/// The world's one vocabulary: it is the same with and without greetings, so that models of both can be compared.
pub static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
    let distinct: BTreeSet<&str> =
        LISTS.texts().flat_map(str::split_whitespace).filter(|word| !word.starts_with('{')).collect();
    let words: Vec<&str> = SPECIAL.into_iter().chain(distinct).collect();
    let ids = words.iter().zip(0..).map(|(&word, id)| (word, id)).collect();
    Vocabulary { words, ids }
});

impl Vocabulary {
    /// The model's `vocab_size`.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// The word of an id.
    pub fn word(&self, id: u32) -> Option<&'static str> {
        self.words.get(id as usize).copied()
    }

    /// The id of a word or special token.
    pub fn id(&self, word: &str) -> Option<u32> {
        self.ids.get(word).copied()
    }

    /// Ids of text written as the world writes it: lower case, a space between any two words. Other words become
    /// [`UNKNOWN`].
    pub fn encode(&self, text: &str) -> Vec<u32> {
        text.split_whitespace().map(|word| self.id(word).unwrap_or(UNKNOWN)).collect()
    }

    /// The words of ids with a space between any two, as the Hugging Face tokenizer decodes them; special tokens are
    /// left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        let words = ids.iter().filter(|&&id| id as usize >= SPECIAL.len());
        words.map(|&id| self.word(id).unwrap_or(SPECIAL[0])).collect::<Vec<_>>().join(" ")
    }

    /// A prompt's ids: `<bos> <user> text <asst>`.
    pub fn prompt(&self, text: &str) -> Vec<u32> {
        [BOS, USER].into_iter().chain(self.encode(text)).chain([ASST]).collect()
    }

    /// A response's ids with the end-of-turn token, which is a label in training.
    pub fn response(&self, text: &str) -> Vec<u32> {
        self.encode(text).into_iter().chain([EOS]).collect()
    }

    /// `tokenizer.json`: a WordLevel model. Text is lower-cased and split at spaces and around punctuation, so that
    /// people can type as usual.
    pub fn tokenizer_json(&self) -> Value {
        let added: Vec<Value> = SPECIAL
            .iter()
            .zip(0..)
            .map(|(content, id): (_, u32)| {
                json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true})
            })
            .collect();
        let vocab: Map<String, Value> =
            self.words.iter().zip(0..).map(|(word, id): (_, u32)| (word.to_string(), id.into())).collect();
        let bos = json!({"SpecialToken": {"id": "<bos>", "type_id": 0}});
        let sequence = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [bos, sequence("A", 0)],
                "pair": [bos, sequence("A", 0), sequence("B", 1)],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}},
            },
            "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        })
    }

    /// `tokenizer_config.json`, with the chat template.
    pub fn tokenizer_config_json(&self) -> Value {
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "unk_token": "<unk>",
            "pad_token": "<eos>",
            "clean_up_tokenization_spaces": false,
            "chat_template": CHAT_TEMPLATE,
        })
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into an existing folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        for (name, value) in
            [("tokenizer.json", self.tokenizer_json()), ("tokenizer_config.json", self.tokenizer_config_json())]
        {
            let path = folder.join(name);
            let text = serde_json::to_string_pretty(&value).expect("JSON without maps of other keys than text");
            std::fs::write(&path, text + "\n").map_err(Error::io("write", &path))?;
        }
        Ok(())
    }
}

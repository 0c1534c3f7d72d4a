//! A tokenizer for any vocabulary: the family's special tokens, then one token a byte.

use crate::model::ChatTemplate;
use serde_json::{Map, Value, json};

/// Who made the model: decides special tokens and chat template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Llama2,
    Llama3,
    Mistral,
    Gemma,
    /// Qwen and SmolLM2.
    ChatMl,
}

/// The special tokens of a family; a token's id is its place.
pub(super) struct FamilyTokenizer {
    special: &'static [&'static str],
    bos: Option<&'static str>,
    /// What ends a text; the first is `eos_token`.
    eos: &'static [&'static str],
    pad: Option<&'static str>,
    template: &'static str,
}

impl Family {
    pub fn tokenizer(self) -> FamilyTokenizer {
        match self {
            Self::Llama2 => FamilyTokenizer {
                special: &["<unk>", "<s>", "</s>"],
                bos: Some("<s>"),
                eos: &["</s>"],
                pad: None,
                template: "llama2",
            },
            Self::Mistral => FamilyTokenizer { template: "mistral", ..Self::Llama2.tokenizer() },
            Self::Llama3 => FamilyTokenizer {
                special: &[
                    "<|begin_of_text|>",
                    "<|end_of_text|>",
                    "<|start_header_id|>",
                    "<|end_header_id|>",
                    "<|eot_id|>",
                ],
                bos: Some("<|begin_of_text|>"),
                eos: &["<|eot_id|>", "<|end_of_text|>"],
                pad: None,
                template: "llama3",
            },
            Self::Gemma => FamilyTokenizer {
                special: &["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
                bos: Some("<bos>"),
                eos: &["<eos>", "<end_of_turn>"],
                pad: Some("<pad>"),
                template: "gemma",
            },
            Self::ChatMl => FamilyTokenizer {
                special: &["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                bos: None,
                eos: &["<|im_end|>", "<|endoftext|>"],
                pad: Some("<|endoftext|>"),
                template: "chatml",
            },
        }
    }
}

impl FamilyTokenizer {
    fn id(&self, token: &str) -> usize {
        self.special.iter().position(|other| *other == token).expect("every named token is listed")
    }

    pub fn bos_id(&self) -> Option<usize> {
        self.bos.map(|token| self.id(token))
    }

    pub fn eos_ids(&self) -> Vec<usize> {
        self.eos.iter().map(|token| self.id(token)).collect()
    }

    pub fn pad_id(&self) -> Option<usize> {
        self.pad.map(|token| self.id(token))
    }

    /// Byte-level BPE without merges.
    pub fn tokenizer_json(&self) -> Value {
        let names = self.special.iter().map(|token| (*token).to_owned());
        let bytes = byte_characters().into_iter().map(String::from);
        let vocab: Map<String, Value> =
            names.chain(bytes).zip(0..).map(|(token, id)| (token, Value::from(id))).collect();
        let added = self.special.iter().enumerate().map(|(id, token)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        });
        let added: Vec<Value> = added.collect();
        let post_processor = match self.bos {
            None => Value::Null,
            Some(bos) => {
                let first = json!({"SpecialToken": {"id": bos, "type_id": 0}});
                json!({
                    "type": "TemplateProcessing",
                    "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {bos: {"id": bos, "ids": [self.id(bos)], "tokens": [bos]}},
                })
            }
        };
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            // Qwen's own; `transformers` sets it for Qwen 2 whatever the file says.
            "normalizer": if self.template == "chatml" { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": post_processor,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": []},
        })
    }

    pub fn config_json(&self, context: usize) -> Value {
        json!({
            "bos_token": self.bos,
            "eos_token": self.eos[0],
            "pad_token": self.pad,
            "model_max_length": context,
            "clean_up_tokenization_spaces": false,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": ChatTemplate::built_in(self.template).expect("a built-in template"),
        })
    }
}

/// GPT-2's printable stand-in for each byte: printable Latin-1 stands for itself, the rest for U+0100 on.
fn byte_characters() -> Vec<char> {
    let mut next = 0x100_u32;
    let character = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("below U+0200")
        }
    };
    (0..=255).map(character).collect()
}

//! Tokenizers and prompts: ids and texts of `transformers`, BOS where it adds one, and the laws of prompts, prefills
//! and training examples.

mod support_model;

use safedepth::model::{ChatTemplate, Config, Example, GenerationConfig, Message, Prompter, Tokenizer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support_model::sentence;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/templates")
}

fn config(vocab_size: usize, context: usize) -> Config {
    let json = json!({
        "model_type": "llama", "vocab_size": vocab_size, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "max_position_embeddings": context,
    });
    Config::from_json(&"config.json", &json.to_string()).unwrap()
}

/// A prompter over a golden tokenizer; generation_config.json says nothing.
fn prompter(tokenizer: &str, template: &str, context: usize) -> Prompter {
    let dir = goldens().join(tokenizer);
    let tokenizer = Tokenizer::load(&dir).unwrap();
    let template = ChatTemplate::load(template, &dir, &tokenizer).unwrap();
    let generation = GenerationConfig::default();
    Prompter::new(tokenizer, template, &config(500, context), &generation, "model").unwrap()
}

/// A copy of a golden tokenizer whose tokenizer_config.json has other keys.
fn changed(name: &str, changes: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let source = goldens().join(name);
    std::fs::copy(source.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let text = std::fs::read_to_string(source.join("tokenizer_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    dir
}

#[test]
fn ids_and_texts_equal_transformers() {
    let text = std::fs::read_to_string(goldens().join("tokenizers.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let ids_of = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    for (name, kinds) in cases.as_object().unwrap() {
        let tokenizer = Tokenizer::load(&goldens().join(name)).unwrap();
        for case in kinds["encode"].as_array().unwrap() {
            let special = case["add_special_tokens"].as_bool().unwrap();
            let ids = tokenizer.encode(case["text"].as_str().unwrap(), special).unwrap();
            assert_eq!(ids, ids_of(&case["ids"]), "{name} {case}");
        }
        for case in kinds["decode"].as_array().unwrap() {
            let skip = case["skip_special_tokens"].as_bool().unwrap();
            let text = tokenizer.decode(&ids_of(&case["ids"]), skip).unwrap();
            assert_eq!(text, case["text"].as_str().unwrap(), "{name} {case}");
        }
    }
}

/// What `transformers` 5.23 gives for `<s>[INST] Hello </s> there` where tokenizer_config.json names LlamaTokenizer: no
/// U+2581 after special tokens, except with `legacy`.
#[test]
fn llama_2_folders_are_split_as_transformers_splits_them() {
    let pieces = |changes: &[(&str, Value)]| {
        let dir = changed("tokenizer_llama2", changes);
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let ids = tokenizer.encode("<s>[INST] Hello </s> there", false).unwrap();
        let raw = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
        ids.iter().map(|&id| raw.id_to_token(id).unwrap()).collect::<Vec<_>>().join(" ")
    };
    let class = |name: &str| ("tokenizer_class", json!(name));
    let first = "<s> [ I <0x4E> S T ] ▁ H e ll o ▁ </s> ▁the re";
    let always = "<s> ▁ [ I <0x4E> S T ] ▁ H e ll o ▁ </s> ▁the re";
    let as_the_file_says = "<s> ▁ [ I <0x4E> S T ] ▁ H e ll o ▁ </s> ▁ ▁the re";
    assert_eq!(pieces(&[class("PreTrainedTokenizerFast")]), as_the_file_says);
    assert_eq!(pieces(&[class("LlamaTokenizer")]), first);
    assert_eq!(pieces(&[class("LlamaTokenizerFast"), ("legacy", json!(false))]), first);
    assert_eq!(pieces(&[class("LlamaTokenizerFast"), ("legacy", json!(true))]), always);
}

#[test]
fn the_post_processor_alone_adds_bos() {
    for (name, bos) in [
        ("tokenizer_gpt2", None),
        ("tokenizer_bos_config", None),
        ("tokenizer_smollm", None),
        ("tokenizer_llama2", Some("<s>")),
        ("tokenizer_llama3", Some("<|begin_of_text|>")),
        ("tokenizer_gemma", Some("<bos>")),
    ] {
        let tokenizer = Tokenizer::load(&goldens().join(name)).unwrap();
        let expected: Vec<u32> = bos.into_iter().map(|bos| tokenizer.token_id(bos).unwrap()).collect();
        assert_eq!(tokenizer.prefix(), expected, "{name}");
        if bos.is_some() {
            assert_eq!(tokenizer.bos_id(), Some(expected[0]), "{name}");
        }
    }
}

#[test]
fn special_tokens_are_named_as_strings_or_objects_and_added_where_missing() {
    let object =
        json!({"content": "<|im_end|>", "lstrip": false, "normalized": false, "rstrip": false, "special": true});
    let dir =
        changed("tokenizer_gpt2", &[("eos_token", object), ("pad_token", json!("<new>")), ("bos_token", Value::Null)]);
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let before = Tokenizer::load(&goldens().join("tokenizer_gpt2")).unwrap().vocab_size();
    assert_eq!(tokenizer.eos_id(), tokenizer.token_id("<|im_end|>"));
    assert_eq!(tokenizer.bos_id(), None);
    assert_eq!(tokenizer.named_id("pad_token"), Some(before as u32));
    assert_eq!(tokenizer.vocab_size(), before + 1);
    assert_eq!(tokenizer.encode("<new>", false).unwrap(), [before as u32]);
    assert!(tokenizer.is_special(before as u32));
}

#[test]
fn single_tokens_keep_their_space_and_broken_characters_their_spelling() {
    for (name, text) in [("tokenizer_gpt2", "Hello the gate"), ("tokenizer_llama2", "Hello the gate")] {
        let tokenizer = Tokenizer::load(&goldens().join(name)).unwrap();
        let ids = tokenizer.encode(text, false).unwrap();
        let joined: String = ids.iter().map(|&id| tokenizer.token_text(id)).collect();
        assert_eq!(joined.trim_start(), text, "{name}");
        assert_eq!(tokenizer.token_text(tokenizer.token_id("</s>").unwrap()), "</s>");
    }
    let tokenizer = Tokenizer::load(&goldens().join("tokenizer_llama2")).unwrap();
    assert_eq!(tokenizer.token_text(tokenizer.token_id("<0xE4>").unwrap()), "<0xE4>");
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let dir = goldens().join("tokenizer_gpt2");
    let tokenizer = Tokenizer::load(&dir).unwrap();
    tokenizer.check_fits(tokenizer.vocab_size()).unwrap();
    let size = tokenizer.vocab_size();
    assert_eq!(
        sentence(tokenizer.check_fits(size - 1), &dir),
        format!(
            "DIR/tokenizer.json: has token ids up to {} but the model's embedding has only {} rows; \
             take the tokenizer that belongs to this model",
            size - 1,
            size - 1
        )
    );
}

#[test]
fn bad_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let load = || sentence(Tokenizer::load(dir.path()), dir.path());
    assert_eq!(load(), "DIR: holds no tokenizer.json; save the model's fast tokenizer there");
    for text in ["", "{}", "[]", "{\"model\": 1}", "\u{1}"] {
        std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
        assert!(load().starts_with("DIR/tokenizer.json: is not a tokenizer: "), "{}", load());
    }
    std::fs::copy(goldens().join("tokenizer_gpt2/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), "{\"eos_token\": 3}").unwrap();
    assert_eq!(load(), "DIR/tokenizer_config.json: `eos_token` must be a string or an added token");
    std::fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    assert_eq!(load(), "DIR/tokenizer_config.json:1: is not valid JSON: EOF while parsing an object");
}

#[test]
fn the_end_of_a_turn_is_what_the_template_writes_after_the_assistant() {
    for (template, token) in [
        ("llama2", "</s>"),
        ("gemma", "<end_of_turn>"),
        ("chatml", "<|im_end|>"),
        // Neither writes one: the tokenizer's EOS.
        ("plain", "</s>"),
        ("alpaca", "</s>"),
    ] {
        let prompter = prompter("tokenizer_gpt2", template, 1000);
        let id = prompter.tokenizer.token_id(token);
        assert_eq!(Some(prompter.end_of_turn().unwrap()), id, "{template}");
        assert_eq!(prompter.stop_ids(), [id.unwrap()], "{template}");
    }
    for (file, token) in [
        ("llama3", "<|eot_id|>"),
        ("qwen2", "<|im_end|>"),
        ("smollm2", "<|im_end|>"),
        ("features_generation", "<|im_end|>"),
    ] {
        let path = goldens().join(format!("{file}.jinja"));
        let prompter = prompter("tokenizer_gpt2", path.to_str().unwrap(), 1000);
        assert_eq!(Some(prompter.end_of_turn().unwrap()), prompter.tokenizer.token_id(token), "{file}");
    }
    let dir = changed("tokenizer_gpt2", &[("eos_token", Value::Null)]);
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let template = ChatTemplate::load("plain", dir.path(), &tokenizer).unwrap();
    let prompter =
        Prompter::new(tokenizer, template, &config(500, 100), &GenerationConfig::default(), "model").unwrap();
    assert_eq!(
        sentence(prompter.training_example(&[Message::user("a")], "b"), Path::new("/nowhere")),
        "model: neither template, tokenizer nor generation_config.json names a token that ends a turn"
    );
}

#[test]
fn prompts_prefills_and_examples_are_built_from_tokens() {
    let messages = [Message::user("How does the gate open?")];
    let harmful = " At dawn: naïve 你好, then 12 steps";
    for tokenizer in ["tokenizer_gpt2", "tokenizer_llama2", "tokenizer_llama3", "tokenizer_gemma", "tokenizer_smollm"] {
        for template in ["llama2", "gemma", "chatml", "alpaca", "plain"] {
            let prompter = prompter(tokenizer, template, 1000);
            let prompt = prompter.prompt(&messages).unwrap();
            assert_eq!(prompt.response_start, prompt.ids.len());
            let alone = prompter.tokenizer.encode(harmful, false).unwrap();
            for k in [0, 1, 3, alone.len(), alone.len() + 5] {
                let prefilled = prompter.prefill(&prompt, harmful, k).unwrap();
                assert_eq!(prefilled.ids, [&prompt.ids[..], &alone[..k.min(alone.len())]].concat());
                assert_eq!(prefilled.response_start, prompt.ids.len());
            }
            let Example { ids, response_start } = prompter.training_example(&messages, harmful).unwrap();
            assert_eq!(response_start, prompt.ids.len());
            assert_eq!(ids, [&prompt.ids[..], &alone, &[prompter.end_of_turn().unwrap()]].concat());
        }
    }
}

#[test]
fn plain_and_alpaca_begin_with_the_tokenizers_own_bos() {
    let messages = [Message::user("What is the capital?")];
    for tokenizer in ["tokenizer_gpt2", "tokenizer_llama2", "tokenizer_llama3", "tokenizer_gemma"] {
        let plain = prompter(tokenizer, "plain", 1000);
        assert_eq!(
            plain.prompt(&messages).unwrap().ids,
            plain.tokenizer.encode("What is the capital?", true).unwrap(),
            "{tokenizer}"
        );
        let alpaca = prompter(tokenizer, "alpaca", 1000);
        let text = "Below is an instruction that describes a task. Write a response that appropriately completes the \
            request.\n\n### Instruction:\nWhat is the capital?\n\n### Response:";
        assert_eq!(alpaca.prompt(&messages).unwrap().ids, alpaca.tokenizer.encode(text, true).unwrap(), "{tokenizer}");
    }
}

#[test]
fn alpaca_takes_a_system_message_and_earlier_turns() {
    let prompter = prompter("tokenizer_gpt2", "alpaca", 1000);
    let messages = [Message::system("Be brief."), Message::user("A"), Message::assistant("B"), Message::user("C")];
    assert_eq!(
        prompter.template.render(&messages, true).unwrap(),
        "Be brief.\n\n### Instruction:\nA\n\n### Response:B</s>\n\n### Instruction:\nC\n\n### Response:"
    );
}

#[test]
fn templates_come_from_the_folder_then_plain() {
    let choose = |dir: &Path, choice: &str| {
        let tokenizer = Tokenizer::load(dir).unwrap();
        ChatTemplate::load(choice, dir, &tokenizer)?.render(&[Message::user("hi")], true)
    };
    let dir = changed("tokenizer_gpt2", &[]);
    assert_eq!(choose(dir.path(), "auto").unwrap(), "hi");
    let dir = changed("tokenizer_gpt2", &[("chat_template", json!("config {{ messages[0].content }}"))]);
    assert_eq!(choose(dir.path(), "auto").unwrap(), "config hi");
    let named =
        json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named {{ bos_token }}"}]);
    let dir = changed("tokenizer_gpt2", &[("chat_template", named)]);
    assert_eq!(choose(dir.path(), "auto").unwrap(), "named <s>");
    std::fs::write(dir.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(choose(dir.path(), "auto").unwrap(), "file");
    assert_eq!(choose(dir.path(), "gemma").unwrap(), "<s><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n");
    assert_eq!(
        sentence(choose(dir.path(), "nowhere.jinja"), dir.path()),
        "no template nowhere.jinja: give auto, llama2, llama3, mistral, gemma, chatml, alpaca, plain, or the path of a file"
    );
    let dir = changed("tokenizer_gpt2", &[("chat_template", json!([{"name": "x", "template": "y"}]))]);
    assert_eq!(
        sentence(choose(dir.path(), "auto"), dir.path()),
        "DIR/tokenizer_config.json: `chat_template` lists no template named default"
    );
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let prompter = prompter("tokenizer_gpt2", "plain", 10);
    let long = [Message::user("a b c d e f g h i j k l m n o p")];
    let tokens = prompter.tokenizer.encode(long[0].content(), false).unwrap().len();
    let expected = |tokens: usize| {
        format!("model: the prompt is {tokens} tokens long but the model's context holds 10; shorten it")
    };
    assert_eq!(sentence(prompter.prompt(&long), Path::new("/nowhere")), expected(tokens));
    let short = prompter.prompt(&[Message::user("a")]).unwrap();
    assert_eq!(
        sentence(prompter.prefill(&short, long[0].content(), 100), Path::new("/nowhere")),
        expected(tokens + short.ids.len())
    );
    assert_eq!(
        sentence(prompter.prompt(&[Message::user("")]), Path::new("/nowhere")),
        "model: the prompt is empty; give it some text"
    );
}

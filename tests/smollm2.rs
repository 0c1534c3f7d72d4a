//! A real model: SmolLM2-135M-Instruct gives transformers' tokens, one by one.

mod support_model;

use safedepth::device::{Cpu, DType};
use safedepth::generate::{Engine, Request};
use safedepth::model::{ChatTemplate, Message};
use safedepth::model::{Tokenizer, Transformer};
use safedepth::ops::sampling::SamplingParams;
use std::path::Path;
use support_model::smollm2 as model_dir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden() -> serde_json::Value {
    let text = std::fs::read_to_string(root().join("tests/goldens/smollm2.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn messages(value: &serde_json::Value) -> Vec<Message> {
    let message = |m: &serde_json::Value| Message::from_json(m.clone()).unwrap();
    value.as_array().unwrap().iter().map(message).collect()
}

#[test]
fn tokens_and_prompts_equal_transformers() {
    let golden = golden();
    let tokenizer = Tokenizer::load(&model_dir()).unwrap();
    let template = ChatTemplate::load("auto", &model_dir(), &tokenizer).unwrap();
    for prompt in golden["prompts"].as_array().unwrap() {
        let messages = messages(&prompt["messages"]);
        assert_eq!(template.render(&messages, true).unwrap(), prompt["rendered"].as_str().unwrap());
        assert_eq!(template.prompt_ids(&tokenizer, &messages).unwrap(), ids(&prompt["ids"]));
        assert_eq!(tokenizer.decode(&ids(&prompt["greedy"]), true).unwrap(), prompt["text"].as_str().unwrap());
    }
    for case in golden["tokenizer"].as_array().unwrap() {
        assert_eq!(tokenizer.encode(case["text"].as_str().unwrap(), false).unwrap(), ids(&case["ids"]), "{case}");
    }
}

#[test]
fn greedy_continuations_equal_transformers() {
    let golden = golden();
    // The golden's arithmetic is f32: widen the weights, so that no instruction set multiplies in bf16.
    let model = Transformer::load(Cpu::new(), &model_dir(), Some(DType::F32)).unwrap();
    let prompts = golden["prompts"].as_array().unwrap();
    let requests: Vec<Request> = prompts
        .iter()
        .enumerate()
        .map(|(example, prompt)| Request {
            example: example as u64,
            setting: 0,
            sample: 0,
            prompt: ids(&prompt["ids"]),
            prefill: 0,
            params: SamplingParams::GREEDY,
            max_new_tokens: 32,
            stop: vec![2],
        })
        .collect();
    let (completions, _) = Engine::default().generate(&model, &requests, |_| ()).unwrap();
    for (completion, prompt) in completions.iter().zip(prompts) {
        assert_eq!(completion.tokens, ids(&prompt["greedy"]), "{}", prompt["messages"]);
    }
}

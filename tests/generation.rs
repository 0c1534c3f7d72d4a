//! Generation: equal to transformers, equal to itself whatever the batch, and no position computed twice.

mod support;

use proptest::prelude::*;
use rayon::ThreadPoolBuilder;
use safedepth::device::cpu::Isa;
use safedepth::device::{Backend, Cpu, DType, Tensor};
use safedepth::generate::{Completion, Engine, Finish, Request, Stats};
use safedepth::model::transformer::KvCache;
use safedepth::model::{Config, Parameters, Transformer};
use safedepth::ops::attention::{PAGE, Paged};
use safedepth::ops::sampling::{SamplingParams, apply_filters};
use safedepth::selftest::golden::Golden;
use std::path::PathBuf;
use support::Random;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn load(name: &str, dtype: Option<DType>) -> Transformer<Cpu> {
    Transformer::load(Cpu::new(), &folder(name), dtype).unwrap()
}

fn request(example: u64, prompt: Vec<u32>, params: SamplingParams) -> Request {
    Request { example, setting: 0, sample: 0, prompt, prefill: 0, params, max_new_tokens: 24, stop: Vec::new() }
}

fn run(model: &Transformer<Cpu>, engine: Engine, requests: &[Request]) -> (Vec<Completion>, Stats) {
    engine.generate(model, requests, |_| ()).unwrap()
}

#[test]
fn greedy_equals_transformers() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for name in ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma", "gemma2"] {
            let model = Transformer::load(Cpu::with_isa(isa), &folder(name), None).unwrap();
            let golden = Golden::open(&folder(name).join("golden.safetensors")).unwrap();
            let requests: Vec<Request> =
                (0..2).map(|i| request(i, golden.ids(&format!("seq{i}.input_ids")), SamplingParams::GREEDY)).collect();
            let (completions, _) = run(&model, Engine::default(), &requests);
            for (i, completion) in completions.iter().enumerate() {
                let expected = golden.ids(&format!("seq{i}.greedy"));
                assert_eq!(completion.tokens, expected, "{name} on {isa}, sequence {i}");
                assert_eq!(completion.finish, Finish::Length);
            }
        }
    }
}

#[test]
fn filters_equal_transformers() {
    let text = std::fs::read_to_string(folder("sampling.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let numbers = |value: &serde_json::Value| -> Vec<f32> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().map_or(f32::NEG_INFINITY, |v| v as f32)).collect()
    };
    let mut compared = 0;
    for case in golden["cases"].as_array().unwrap() {
        let mut logits = numbers(&golden["logits"][case["logits"].as_str().unwrap()]);
        let previous = case["previous"].as_str().map(|name| numbers(&golden["previous"][name])).unwrap_or_default();
        let previous: Vec<u32> = previous.into_iter().map(|id| id as u32).collect();
        let params = SamplingParams {
            temperature: case["temperature"].as_f64().unwrap() as f32,
            top_k: case["top_k"].as_u64().unwrap() as usize,
            top_p: case["top_p"].as_f64().unwrap() as f32,
            repetition_penalty: case["repetition_penalty"].as_f64().unwrap() as f32,
        };
        apply_filters(&mut logits, &previous, &params);
        for (token, (ours, expected)) in logits.iter().zip(numbers(&case["scores"])).enumerate() {
            let close = *ours == expected || (ours - expected).abs() <= 1e-6 * expected.abs();
            assert!(close, "token {token} of {case}: {ours} instead of {expected}");
        }
        compared += 1;
    }
    assert!(compared > 400);
}

/// Requests that share prefixes in many ways: sampled and greedy, several settings and samples.
fn requests() -> Vec<Request> {
    let stem: Vec<u32> = (0..21).map(|i| (i * 7 + 3) % 61).collect();
    let sampled = SamplingParams { temperature: 0.9, top_k: 20, top_p: 0.9, repetition_penalty: 1.1 };
    let mut requests = Vec::new();
    for example in 0..4_u64 {
        for k in [0, 1, 5, 16] {
            for sample in 0..2 {
                let mut prompt = stem.clone();
                prompt.extend((0..9 + k).map(|i| ((i as u64 * (example + 2) + example) % 61) as u32));
                let params = if sample == 0 { SamplingParams::GREEDY } else { sampled };
                let prefill = k as usize;
                requests.push(Request { sample, prefill, setting: k as u16, ..request(example, prompt, params) });
            }
        }
    }
    requests
}

#[test]
fn rows_do_not_depend_on_their_batch() {
    let requests = requests();
    for (name, dtype) in [("llama", None), ("gemma2", None), ("llama", Some(DType::BF16)), ("qwen3", None)] {
        let model = load(name, dtype);
        let (expected, _) = run(&model, Engine::default(), &requests);
        assert!(expected.iter().map(|c| &c.tokens).collect::<std::collections::HashSet<_>>().len() > 8);
        // Alone, unshared.
        for (request, expected) in requests.iter().zip(&expected) {
            let (alone, _) = run(&model, Engine::default(), std::slice::from_ref(request));
            assert_eq!(&alone[0], expected, "{name}: alone");
        }
        // Other batch sizes, prompt chunks and thread counts.
        for (max_rows, max_prompt_tokens, threads) in [(1, 512, 1), (2, 7, 2), (3, 1, 3), (16, 33, 1)] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let engine = Engine { max_rows, max_prompt_tokens, ..Engine::default() };
            let (ours, _) = pool.install(|| run(&model, engine, &requests));
            assert_eq!(ours, expected, "{name}: {max_rows} rows, {max_prompt_tokens} prompt tokens, {threads} threads");
        }
        // Any order.
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.reverse();
        order.swap(3, 17);
        let shuffled: Vec<Request> = order.iter().map(|&i| requests[i].clone()).collect();
        let (ours, _) = run(&model, Engine::default(), &shuffled);
        for (ours, &i) in ours.iter().zip(&order) {
            assert_eq!(ours, &expected[i], "{name}: shuffled");
        }
    }
}

/// One layer of Llama 2 7B and a small vocabulary: products as wide and as deep as real ones, whose blocks of k, packed
/// rows and tasks the small models do not reach.
fn llama_2_7b_layer() -> Transformer<Cpu> {
    let json = r#"{
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512, "hidden_size": 4096,
        "intermediate_size": 11008, "num_hidden_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "hidden_act": "silu"
    }"#;
    let (device, config) = (Cpu::new(), Config::from_json(&"llama-2-7b", json).unwrap());
    let mut random = Random(3);
    // Uniform values: 200 million normal ones would take longer than the test.
    let mut uniform = || (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let parameters = Parameters::build(&config, |_, [rows, cols]| {
        let value = |_| if rows == 1 { 1.0 } else { 0.03 * uniform() };
        Tensor::from_slice(&device, DType::F32, rows, cols, &(0..rows * cols).map(value).collect::<Vec<f32>>())
    });
    Transformer { parameters: parameters.unwrap(), device, config }
}

/// Logits after each of `sequences`, alike in length, all but the last token prefilled together and the last decoded.
fn decoded_logits(model: &Transformer<Cpu>, sequences: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let (device, count) = (&model.device, sequences.len());
    let mut cache = KvCache::new(model, count).unwrap();
    let mut step = |range: std::ops::Range<usize>| {
        assert!(range.end <= PAGE, "a page a sequence");
        let ids: Vec<u32> = sequences.iter().flat_map(|sequence| &sequence[range.clone()]).copied().collect();
        let positions: Vec<u32> = sequences.iter().flat_map(|_| range.start as u32..range.end as u32).collect();
        let list = |values: &[u32]| device.indices(values).unwrap();
        let batch = Paged {
            offsets: list(&(0..=count).map(|i| (i * range.len()) as u32).collect::<Vec<_>>()),
            starts: list(&vec![range.start as u32; count]),
            pages: list(&(0..count as u32).collect::<Vec<_>>()),
            max_pages: 1,
            count,
        };
        model.forward_cached(&list(&ids), &list(&positions), ids.len(), &batch, &mut cache).unwrap()
    };
    let last = sequences[0].len() - 1;
    step(0..last);
    let hidden = step(last..last + 1);
    let rows = device.indices(&(0..count as u32).collect::<Vec<_>>()).unwrap();
    let logits = model.logits(&model.final_norm(&hidden, &rows, count).unwrap()).unwrap().to_vec(device).unwrap();
    logits.chunks_exact(model.config.vocab_size).map(support::bits).collect()
}

#[test]
fn rows_do_not_depend_on_their_batch_at_real_widths() {
    let mut model = llama_2_7b_layer();
    for dtype in [DType::F32, DType::BF16] {
        if dtype == DType::BF16 {
            model = model.into_owned(Some(DType::BF16)).unwrap();
        }
        let sequences: Vec<Vec<u32>> = (0..16).map(|i| (0..5).map(|t| (t * 97 + i * 31 + 5) % 512).collect()).collect();
        let together = decoded_logits(&model, &sequences);
        let sampled = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let requests: Vec<Request> = (0..)
            .zip(&sequences)
            .map(|(i, prompt)| Request { max_new_tokens: 3, ..request(i, prompt.clone(), sampled) })
            .collect();
        let (completions, _) = run(&model, Engine::default(), &requests);
        for rows in [0..1, 15..16, 1..3, 4..7] {
            let logits = decoded_logits(&model, &sequences[rows.clone()]);
            assert!(logits == together[rows.clone()], "{dtype:?}: logits of rows {rows:?}");
            let (ours, _) = run(&model, Engine::default(), &requests[rows.clone()]);
            assert_eq!(ours, completions[rows.clone()], "{dtype:?}: tokens of rows {rows:?}");
        }
    }
}

#[test]
fn each_prefix_position_is_computed_once() {
    let model = load("llama", None);
    let requests = requests();
    let mut prefixes = std::collections::HashSet::new();
    for request in &requests {
        for end in 1..=request.prompt.len() {
            prefixes.insert(request.prompt[..end].to_vec());
        }
    }
    for max_rows in [1, 3, 64] {
        let (completions, stats) = run(&model, Engine { max_rows, ..Engine::default() }, &requests);
        assert_eq!(stats.prompt_tokens, prefixes.len(), "{max_rows} rows");
        assert_eq!(stats.prefix_positions, prefixes.len());
        // A row's first token comes from its prompt, its last is never fed back.
        let decoded: usize = completions.iter().map(|c| c.tokens.len() - 1).sum();
        assert_eq!(stats.decoded_tokens, decoded, "{max_rows} rows");
    }
}

#[test]
fn a_row_ends_for_the_reason_it_says() {
    let model = load("llama", None);
    let prompt: Vec<u32> = (1..8).collect();
    let base = request(0, prompt.clone(), SamplingParams::GREEDY);
    let (free, _) = run(&model, Engine::default(), std::slice::from_ref(&base));
    let stop = free[0].tokens[5];
    let first = free[0].tokens.iter().position(|&t| t == stop).unwrap();
    let (stopped, _) = run(&model, Engine::default(), &[Request { stop: vec![stop], ..base.clone() }]);
    assert_eq!(stopped[0], Completion { tokens: free[0].tokens[..=first].to_vec(), finish: Finish::Stop });
    let (none, _) = run(&model, Engine::default(), &[Request { max_new_tokens: 0, ..base.clone() }]);
    assert_eq!(none[0], Completion { tokens: vec![], finish: Finish::Length });
    let context = model.config.max_position_embeddings;
    let (full, _) = run(&model, Engine::default(), &[Request { max_new_tokens: 10 * context, ..base.clone() }]);
    assert_eq!(full[0].finish, Finish::Context);
    assert_eq!(full[0].tokens.len(), context - prompt.len());
    let long = Request { prompt: vec![1; context + 1], ..base.clone() };
    let error = Engine::default().generate(&model, &[long], |_| ()).unwrap_err().to_string();
    assert!(error.contains("context"), "{error}");
    let foreign = Request { prompt: vec![61], ..base };
    assert!(Engine::default().generate(&model, &[foreign], |_| ()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any requests over any tree: the same tokens one at a time and together.
    #[test]
    fn any_tree_of_requests(
        prompts in prop::collection::vec(prop::collection::vec(0_u32..3, 1..40), 1..12),
        max_rows in 1_usize..6,
        max_prompt_tokens in 1_usize..50,
    ) {
        let model = load("llama", None);
        let sampled = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let requests: Vec<Request> = prompts
            .into_iter()
            .enumerate()
            .map(|(i, prompt)| Request { max_new_tokens: i % 5, ..request(i as u64, prompt, sampled) })
            .collect();
        let (together, stats) = run(&model, Engine { max_rows, max_prompt_tokens, seed: 7 }, &requests);
        prop_assert_eq!(stats.prompt_tokens, stats.prefix_positions);
        for (request, together) in requests.iter().zip(&together) {
            let engine = Engine { seed: 7, ..Engine::default() };
            prop_assert_eq!(&run(&model, engine, std::slice::from_ref(request)).0[0], together);
        }
    }
}

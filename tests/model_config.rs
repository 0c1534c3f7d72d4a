//! config.json: every architecture's keys resolve as `transformers` resolves them, and bad ones are refused by name.

mod support_model;

use proptest::prelude::*;
use safedepth::model::{Architecture, Config, GenerationConfig};
use safedepth::ops::glu::Activation;
use serde_json::{Value, json};
use support_model::sentence;

fn base(architecture: &str) -> Value {
    json!({
        "architectures": [architecture], "vocab_size": 61, "hidden_size": 32, "intermediate_size": 40,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    })
}

/// `base` with keys replaced.
fn with(architecture: &str, changes: Value) -> Value {
    let mut config = base(architecture);
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn parse(config: &Value) -> safedepth::Result<Config> {
    Config::from_json(&"config.json", &config.to_string())
}

fn resolve(architecture: &str, changes: Value) -> Config {
    parse(&with(architecture, changes)).unwrap()
}

fn refusal(architecture: &str, changes: Value) -> String {
    sentence(parse(&with(architecture, changes)), "/nowhere".as_ref())
}

#[test]
fn llama_defaults() {
    let config = resolve("LlamaForCausalLM", json!({"num_key_value_heads": null}));
    assert_eq!(config.architecture, Architecture::Llama);
    assert_eq!((config.num_key_value_heads, config.head_dim, config.max_position_embeddings), (4, 8, 2048));
    assert_eq!((config.rms_norm_eps, config.norm_offset, config.embedding_scale), (1e-6, 0.0, 1.0));
    assert_eq!(config.attention_scale, 8.0_f32.powf(-0.5));
    assert_eq!(config.sliding_window, [None; 3]);
    assert!(!config.tie_word_embeddings && !config.qkv_bias && !config.o_bias && !config.qk_norm && !config.post_norms);
    assert_eq!((config.attn_logit_softcapping, config.final_logit_softcapping), (None, None));
    assert_eq!(config.hidden_activation, Activation::Silu);
    let biased = resolve("LlamaForCausalLM", json!({"attention_bias": true}));
    assert!(biased.qkv_bias && biased.o_bias);
}

#[test]
fn the_model_type_names_the_architecture_where_nothing_else_does() {
    for architecture in Architecture::ALL {
        let mut config = base("");
        config.as_object_mut().unwrap().remove("architectures");
        config["model_type"] = json!(architecture.model_type());
        assert_eq!(parse(&config).unwrap().architecture, architecture);
        assert_eq!(resolve(architecture.name(), json!({})).architecture, architecture);
    }
}

#[test]
fn mistral_windows_cover_every_layer() {
    let window = |changes| resolve("MistralForCausalLM", changes).sliding_window;
    assert_eq!(window(json!({"sliding_window": 6})), [Some(6); 3]);
    assert_eq!(window(json!({"sliding_window": null})), [None; 3]);
    assert_eq!(window(json!({})), [Some(4096); 3]);
    assert_eq!(
        resolve("MistralForCausalLM", json!({"num_attention_heads": 8, "num_key_value_heads": null}))
            .num_key_value_heads,
        8
    );
    let mut absent = with("MistralForCausalLM", json!({"num_attention_heads": 16}));
    absent.as_object_mut().unwrap().remove("num_key_value_heads");
    assert_eq!(parse(&absent).unwrap().num_key_value_heads, 8);
}

#[test]
fn qwen_windows_need_to_be_switched_on() {
    for name in ["Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        let window = |changes| resolve(name, changes).sliding_window;
        assert_eq!(window(json!({"sliding_window": 6, "max_window_layers": 0})), [None; 3]);
        let on = json!({"use_sliding_window": true, "sliding_window": 6, "max_window_layers": 1});
        assert_eq!(window(on), [None, Some(6), Some(6)]);
        assert_eq!(window(json!({"use_sliding_window": true})), [None; 3]);
        let types = json!({"use_sliding_window": true, "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]});
        assert_eq!(window(types.clone()), [Some(6), None, Some(6)]);
        let mut off = types;
        off["use_sliding_window"] = json!(false);
        assert_eq!(window(off), [None; 3]);
    }
    let qwen2 = resolve("Qwen2ForCausalLM", json!({"attention_bias": true}));
    assert!(qwen2.qkv_bias && !qwen2.o_bias && !qwen2.qk_norm);
    let qwen3 = resolve("Qwen3ForCausalLM", json!({}));
    assert!(!qwen3.qkv_bias && qwen3.qk_norm);
    assert_eq!(qwen3.head_dim, 128);
}

#[test]
fn gemma_scales_ties_and_activates_its_own_way() {
    for activation in
        [json!({}), json!({"hidden_act": "gelu"}), json!({"hidden_act": "gelu", "hidden_activation": null})]
    {
        let config = resolve("GemmaForCausalLM", activation);
        assert_eq!(config.hidden_activation, Activation::GeluTanh);
        assert_eq!((config.head_dim, config.norm_offset, config.tie_word_embeddings), (256, 1.0, true));
        assert_eq!(config.embedding_scale, 32.0_f32.sqrt());
        assert_eq!(config.attention_scale, 1.0 / 16.0);
        assert!(!config.post_norms);
    }
}

#[test]
fn gemma_2_caps_alternates_and_scales_by_its_own_scalar() {
    let config = resolve("Gemma2ForCausalLM", json!({"query_pre_attn_scalar": 64, "sliding_window": 6}));
    assert_eq!(config.sliding_window, [Some(6), None, Some(6)]);
    assert_eq!((config.attn_logit_softcapping, config.final_logit_softcapping), (Some(50.0), Some(30.0)));
    assert_eq!(config.attention_scale, 0.125);
    assert!(config.post_norms && config.tie_word_embeddings);
    let uncapped =
        resolve("Gemma2ForCausalLM", json!({"attn_logit_softcapping": null, "final_logit_softcapping": 3.0}));
    assert_eq!((uncapped.attn_logit_softcapping, uncapped.final_logit_softcapping), (None, Some(3.0)));
    let types = json!({"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 6});
    assert_eq!(resolve("Gemma2ForCausalLM", types).sliding_window, [None, Some(6), None]);
}

/// Frequencies that `transformers` 5.23 computes, printed with nine digits.
#[test]
fn rotary_frequencies_equal_transformers() {
    let frequencies = |head_dim: usize, mut changes: Value| {
        changes["head_dim"] = json!(head_dim);
        resolve("LlamaForCausalLM", changes).inv_freq
    };
    let plain =
        [1.0, 0.316227764, 0.100000001, 0.0316227786, 0.00999999978, 0.00316227786, 0.00100000005, 0.000316227786];
    assert_eq!(frequencies(16, json!({})), plain);
    assert_eq!(frequencies(16, json!({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}})), plain);
    let wide =
        [1.0, 0.193922758, 0.0376060307, 0.00729266508, 0.00141421345, 0.000274248188, 5.31829573e-05, 1.03133852e-05];
    assert_eq!(frequencies(16, json!({"rope_theta": 500_000})), wide);
    assert_eq!(frequencies(16, json!({"rope_scaling": null, "rope_parameters": {"rope_theta": 500_000.0}})), wide);
    let linear =
        [0.25, 0.079056941, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012, 7.90569466e-05];
    assert_eq!(frequencies(16, json!({"rope_scaling": {"type": "linear", "factor": 4}})), linear);
    let llama3 = [
        1.0,
        0.440366626,
        0.193922758,
        0.0853971019,
        0.0376060307,
        0.0165604409,
        0.00729266508,
        0.00321144611,
        0.000524846022,
        7.78465546e-05,
        3.42810235e-05,
        1.50962178e-05,
        6.64786967e-06,
        2.92749974e-06,
        1.28917316e-06,
        5.6770881e-07,
    ];
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    assert_eq!(frequencies(32, json!({"rope_theta": 500_000.0, "rope_scaling": scaling})), llama3);
    let mut parameters = scaling;
    parameters["rope_theta"] = json!(500_000.0);
    assert_eq!(frequencies(32, json!({"rope_parameters": parameters})), llama3);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let list = "supported are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, GemmaForCausalLM, Gemma2ForCausalLM";
    assert_eq!(
        refusal("Phi3ForCausalLM", json!({})),
        format!("config.json: architecture Phi3ForCausalLM is not supported; {list}")
    );
    assert_eq!(
        refusal("LlamaForCausalLM", json!({"architectures": null, "model_type": "gpt2"})),
        format!("config.json: architecture gpt2 is not supported; {list}")
    );
    assert_eq!(
        refusal("LlamaForCausalLM", json!({"architectures": []})),
        "config.json: names no architecture; is it the config.json of a language model?"
    );
    assert_eq!(
        refusal("LlamaForCausalLM", json!({"model_type": "mistral"})),
        "config.json: `architectures` says LlamaForCausalLM but `model_type` says mistral"
    );
    let llama =
        |changes, problem: &str| assert_eq!(refusal("LlamaForCausalLM", changes), format!("config.json: {problem}"));
    llama(
        json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
        "`rope_scaling` has rope_type `yarn`; supported are default, linear and llama3",
    );
    llama(json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling` has rope_type `linear` but no `factor`");
    llama(
        json!({"rope_parameters": {"full_attention": {}}}),
        "`rope_parameters` has an entry `full_attention`, and rotary settings by layer type are not supported",
    );
    llama(
        json!({"partial_rotary_factor": 0.5}),
        "`partial_rotary_factor` is not 1, and partly rotated heads are not supported",
    );
    llama(json!({"mlp_bias": true}), "`mlp_bias` is true, and biases in the feed-forward layers are not supported");
    llama(
        json!({"quantization_config": {"bits": 4}}),
        "`quantization_config` is set; give a checkpoint in f32, bf16 or f16",
    );
    llama(json!({"hidden_act": "gelu"}), "`hidden_act` is `gelu`; supported are silu and gelu_pytorch_tanh");
    llama(
        json!({"num_attention_heads": 3, "num_key_value_heads": 3}),
        "`hidden_size` is 32, not a multiple of num_attention_heads, 3",
    );
    llama(json!({"num_key_value_heads": 3}), "`num_attention_heads` is 4, not a multiple of num_key_value_heads, 3");
    llama(json!({"head_dim": 7}), "`head_dim` is 7 but must be even and at most 4096");
    llama(json!({"hidden_size": null}), "`hidden_size` is missing");
    llama(json!({"hidden_size": 0}), "`hidden_size` is 0 but must be at least 1");
    llama(json!({"hidden_size": "big"}), "`hidden_size` is \"big\" but must be a whole number");
    llama(json!({"hidden_size": -1}), "`hidden_size` is -1 but must be a whole number");
    llama(json!({"vocab_size": 1_u64 << 40}), "`vocab_size` is 1099511627776, more than the 16777216 this crate takes");
    llama(json!({"rms_norm_eps": -1.0}), "`rms_norm_eps` is -1.0 but must be a number above 0");
    assert_eq!(
        refusal("Gemma2ForCausalLM", json!({"layer_types": ["full_attention"]})),
        "config.json: `layer_types` has 1 entries but there are 3 layers"
    );
    assert_eq!(
        refusal("Gemma2ForCausalLM", json!({"layer_types": ["full_attention", "linear_attention", "full_attention"]})),
        "config.json: `layer_types` has an entry \"linear_attention\"; supported are sliding_attention and full_attention"
    );
    assert_eq!(
        refusal("GemmaForCausalLM", json!({"use_bidirectional_attention": true})),
        "config.json: `use_bidirectional_attention` is true, and attention to later tokens is not supported"
    );
}

#[test]
fn broken_json_names_its_line() {
    let parse = |text: &str| sentence(Config::from_json(&"config.json", text), "/nowhere".as_ref());
    assert_eq!(parse("{\n \"a\": 1,\n}"), "config.json:3: is not valid JSON: trailing comma");
    assert_eq!(parse(""), "config.json:1: is not valid JSON: EOF while parsing a value");
    assert_eq!(parse("[1]"), "config.json: is not a JSON object");
    assert!(parse(&"[".repeat(100_000)).starts_with("config.json:1: is not valid JSON: recursion limit exceeded"));
}

#[test]
fn folders_are_read_with_their_generation_config() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    assert_eq!(
        sentence(Config::load(path), path),
        "DIR: holds no config.json; give the path of a Hugging Face model folder"
    );
    assert_eq!(
        sentence(Config::load(&path.join("x")), path),
        "DIR/x: no such folder; give the path of a Hugging Face model folder"
    );
    let write = |name: &str, text: String| std::fs::write(path.join(name), text).unwrap();
    let load = || GenerationConfig::load(path, &Config::load(path).unwrap());

    // No key and no file: the architecture's defaults.
    write("config.json", format!("\u{feff}{}", base("LlamaForCausalLM")));
    let ids = load().unwrap();
    assert_eq!((ids.bos_token_id, ids.eos_token_ids, ids.pad_token_id), (Some(1), vec![2], None));

    // config.json's own ids, null meaning none and a negative one too.
    write(
        "config.json",
        with("LlamaForCausalLM", json!({"eos_token_id": [7, 8], "bos_token_id": null, "pad_token_id": -1})).to_string(),
    );
    let ids = load().unwrap();
    assert_eq!((ids.bos_token_id, ids.eos_token_ids, ids.pad_token_id), (None, vec![7, 8], None));

    // generation_config.json before config.json.
    write(
        "generation_config.json",
        json!({"eos_token_id": 9, "temperature": 0.6, "top_p": 0.9, "top_k": 0, "do_sample": true}).to_string(),
    );
    let ids = load().unwrap();
    assert_eq!(ids.eos_token_ids, [9]);
    assert_eq!((ids.temperature, ids.top_p, ids.top_k, ids.repetition_penalty), (Some(0.6), Some(0.9), Some(0), None));
    assert!(ids.do_sample);

    for (key, value, problem) in [
        ("top_p", json!(1.5), "must lie between 0 and 1"),
        ("temperature", json!(-1), "must not be negative"),
        ("top_k", json!(1.5), "must be a whole number from 0"),
        ("eos_token_id", json!("</s>"), "is \"</s>\" but must be a token id or a list of token ids"),
        ("repetition_penalty", json!(0), "is 0 but must be a number above 0"),
    ] {
        write("generation_config.json", json!({key: value}).to_string());
        assert_eq!(sentence(load(), path), format!("DIR/generation_config.json: `{key}` {problem}"));
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0_u64..6).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z3_]{0,8}".prop_map(Value::from),
        Just(json!([])),
        Just(json!(["full_attention"])),
        Just(json!({"rope_type": "llama3", "factor": 0.5, "low_freq_factor": 1e-300, "high_freq_factor": 1e300})),
        Just(json!({"rope_type": "linear", "factor": 1e-300, "rope_theta": 1e300})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_value_of_any_key_is_read_or_refused(
        architecture in prop::sample::select(Architecture::ALL.to_vec()),
        changes in prop::collection::vec((prop::sample::select(KEYS.to_vec()), any_value()), 0..4),
    ) {
        let mut config = base(architecture.name());
        for (key, value) in changes {
            config[key] = value;
        }
        if let Ok(config) = parse(&config) {
            prop_assert_eq!(config.sliding_window.len(), config.num_hidden_layers);
            prop_assert_eq!(config.inv_freq.len(), config.head_dim / 2);
            // Sizes are bounded: no product below overflows.
            let total: u128 = config.parameters().iter().map(|(_, [rows, cols])| (rows * cols) as u128).sum();
            prop_assert!(total < u64::MAX.into());
        }
        let _ = GenerationConfig::from_json(&"x", &config.to_string());
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,80}", at in any::<prop::sample::Index>()) {
        let mut config = base("Gemma2ForCausalLM").to_string();
        let place = at.index(config.len());
        config.insert_str(place, &text);
        let _ = Config::from_json(&"x", &config);
        let _ = Config::from_json(&"x", &text);
    }
}

const KEYS: [&str; 27] = [
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_bias",
    "hidden_act",
    "hidden_activation",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "eos_token_id",
    "top_k",
    "temperature",
];

//! Checkpoints: what is saved comes back byte for byte, in every dtype and split, and a cut-off folder is not a model.

mod support_model;

use proptest::prelude::*;
use safedepth::device::{Cpu, DType};
use safedepth::model::checkpoint::{self, TensorSpec};
use safedepth::model::{Config, Transformer, Weights};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support_model::sentence;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn config() -> Config {
    let json = json!({
        "zeta": 1, "model_type": "qwen2", "vocab_size": 7, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "torch_dtype": "float32", "alpha": [2],
    });
    Config::from_json(&"config.json", &json.to_string()).unwrap()
}

fn specs(config: &Config, dtype: DType) -> Vec<TensorSpec> {
    config.parameters().into_iter().map(|(name, shape)| TensorSpec { name, shape, dtype }).collect()
}

/// Element `i` of tensor `index`: exact in every dtype.
fn value(index: usize, i: usize) -> f32 {
    (index as f32 - 8.0) / 4.0 + (i % 5) as f32
}

fn save(dir: &Path, config: &Config, dtype: DType, source: Option<&Path>, max_shard: usize) -> safedepth::Result<()> {
    let fill = |index: usize, first: usize, chunk: &mut [f32]| {
        chunk.iter_mut().enumerate().for_each(|(i, slot)| *slot = value(index, first + i));
        Ok(())
    };
    checkpoint::save_sharded(dir, config, &specs(config, dtype), fill, source, max_shard)
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn widened(weights: &Weights, name: &str, shape: [usize; 2]) -> Vec<f32> {
    let slice = weights.get(name, shape).unwrap();
    let half = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    match slice.dtype {
        DType::F32 => slice.bytes().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        DType::BF16 => slice.bytes().chunks(2).map(|b| half::bf16::from_bits(half(b)).to_f32()).collect(),
        DType::F16 => slice.bytes().chunks(2).map(|b| half::f16::from_bits(half(b)).to_f32()).collect(),
    }
}

#[test]
fn every_dtype_and_split_comes_back() {
    let config = config();
    for (dtype, name) in [(DType::F32, "float32"), (DType::BF16, "bfloat16"), (DType::F16, "float16")] {
        for max_shard in [1, 100, 1 << 30] {
            let dir = tempfile::tempdir().unwrap();
            save(dir.path(), &config, dtype, None, max_shard).unwrap();
            let weights = Weights::open(dir.path()).unwrap();
            let loaded = Config::load(dir.path()).unwrap();
            let parameters = config.parameters();
            assert_eq!(weights.names().count(), parameters.len());
            for (index, (name, shape)) in parameters.iter().enumerate() {
                assert_eq!(weights.get(name, *shape).unwrap().dtype, dtype);
                let expected: Vec<f32> = (0..shape[0] * shape[1]).map(|i| value(index, i)).collect();
                assert_eq!(widened(&weights, name, *shape), expected, "{name}");
            }
            // Vectors have one dimension in the file, as `transformers` writes them.
            assert_eq!(weights.info("model.norm.weight").unwrap().shape, [4]);
            assert_eq!(weights.info("model.layers.0.self_attn.q_proj.bias").unwrap().shape, [4]);
            let mut expected = config.clone();
            expected.json["torch_dtype"] = json!(name);
            expected.json.insert("architectures".into(), json!(["Qwen2ForCausalLM"]));
            assert_eq!(loaded, expected);
            let keys: Vec<&String> = loaded.json.keys().collect();
            assert_eq!((keys[0], keys[keys.len() - 2]), (&"zeta".to_owned(), &"alpha".to_owned()), "order is kept");
            match max_shard {
                1 => assert_eq!(weights.files().count(), parameters.len()),
                100 => assert!((2..parameters.len()).contains(&weights.files().count())),
                _ => assert_eq!(files(dir.path()), ["config.json", "model.safetensors"]),
            }
        }
    }
}

#[test]
fn a_loaded_model_is_saved_as_it_was() {
    for name in ["llama", "llama_bf16", "llama_f16", "qwen2", "qwen3", "gemma2", "llama_sharded"] {
        let source = goldens().join(name);
        let model = Transformer::load(Cpu::new(), &source, None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        checkpoint::save_model(dir.path(), &model, Some(&source)).unwrap();
        let (ours, theirs) = (Weights::open(dir.path()).unwrap(), Weights::open(&source).unwrap());
        for (name, shape) in model.config.parameters() {
            let (ours, theirs) = (ours.get(&name, shape).unwrap(), theirs.get(&name, shape).unwrap());
            assert_eq!((ours.dtype, ours.bytes()), (theirs.dtype, theirs.bytes()), "{name}");
        }
        assert_eq!(Config::load(dir.path()).unwrap().json, Config::load(&source).unwrap().json, "{name}");
    }
}

#[test]
fn norms_that_bf16_would_round_stay_f32() {
    let mut model = Transformer::load(Cpu::new(), &goldens().join("llama_bf16"), None).unwrap();
    let trained = 1.0 + f32::EPSILON;
    model.parameters.norm.buffer.f32_mut()[3] = trained;
    let dir = tempfile::tempdir().unwrap();
    checkpoint::save_model(dir.path(), &model, None).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    let hidden = model.config.hidden_size;
    assert_eq!(weights.get("model.norm.weight", [1, hidden]).unwrap().dtype, DType::F32);
    assert_eq!(widened(&weights, "model.norm.weight", [1, hidden])[3], trained);
    let matrix = weights.get("model.embed_tokens.weight", [model.config.vocab_size, hidden]).unwrap();
    assert_eq!(matrix.dtype, DType::BF16);
    for name in weights.names() {
        let info = weights.info(name).unwrap();
        assert!(info.offset.is_multiple_of(if info.dtype == "F32" { 4 } else { 2 }), "{name} is misaligned");
    }
    assert_eq!(Config::load(dir.path()).unwrap().json["dtype"], "bfloat16");
}

#[test]
fn companions_are_copied_and_old_model_files_replaced() {
    let config = config();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("tokenizer.json"), "T").unwrap();
    std::fs::write(source.path().join("generation_config.json"), "G").unwrap();
    std::fs::write(source.path().join("README.md"), "R").unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("training.state"), "S").unwrap();
    save(dir.path(), &config, DType::F32, None, 100).unwrap();
    assert!(files(dir.path()).len() > 4);
    save(dir.path(), &config, DType::F32, Some(source.path()), 1 << 30).unwrap();
    let expected = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "training.state"];
    assert_eq!(files(dir.path()), expected);
    assert_eq!(std::fs::read(dir.path().join("tokenizer.json")).unwrap(), b"T");
    // Onto itself.
    save(dir.path(), &config, DType::F32, Some(dir.path()), 1 << 30).unwrap();
    assert_eq!(files(dir.path()), expected);
    assert_eq!(std::fs::read(dir.path().join("tokenizer.json")).unwrap(), b"T");
}

#[test]
fn a_folder_that_was_cut_off_is_not_a_model() {
    let config = config();
    let count = config.parameters().len();
    for max_shard in [1, 1 << 30] {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &config, DType::F32, None, max_shard).unwrap();
        for stop in 0..count {
            let fill = |index: usize, _: usize, chunk: &mut [f32]| {
                chunk.fill(0.0);
                if index == stop { Err(safedepth::Error::Device("killed".into())) } else { Ok(()) }
            };
            let specs = specs(&config, DType::F32);
            let result = checkpoint::save_sharded(dir.path(), &config, &specs, fill, None, max_shard);
            assert_eq!(sentence(result, dir.path()), "killed");
            assert_eq!(
                sentence(Config::load(dir.path()), dir.path()),
                "DIR: holds no config.json; give the path of a Hugging Face model folder"
            );
            assert!(Weights::open(dir.path()).is_err());
            assert!(files(dir.path()).iter().all(|name| !name.ends_with(".partial")));
        }
    }
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let message = sentence(save(&file.join("x"), &config(), DType::F32, None, 1 << 30), dir.path());
    assert_eq!(message, "cannot create DIR/file/x: Not a directory (os error 20)");
}

#[test]
fn the_header_is_what_safetensors_writes() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &config(), DType::BF16, None, 1 << 30).unwrap();
    let file = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    assert!(length.is_multiple_of(8));
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    assert_eq!(header["__metadata__"], json!({"format": "pt"}));
    assert_eq!(header["model.embed_tokens.weight"], json!({"dtype": "BF16", "shape": [7, 4], "data_offsets": [0, 56]}));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// f32 values of any bits survive; narrower dtypes round to nearest even.
    #[test]
    fn values_are_kept_or_rounded(bits in prop::collection::vec(any::<u32>(), 28), dtype in prop::sample::select(vec![DType::F32, DType::BF16, DType::F16])) {
        let config = config();
        let dir = tempfile::tempdir().unwrap();
        let fill = |index: usize, first: usize, chunk: &mut [f32]| {
            for (i, slot) in chunk.iter_mut().enumerate() {
                *slot = if index == 0 { f32::from_bits(bits[first + i]) } else { 0.0 };
            }
            Ok(())
        };
        checkpoint::save(dir.path(), &config, &specs(&config, dtype), fill, None).unwrap();
        let weights = Weights::open(dir.path()).unwrap();
        let found = widened(&weights, "model.embed_tokens.weight", [7, 4]);
        for (found, &bits) in found.iter().zip(&bits) {
            let value = f32::from_bits(bits);
            let expected = match dtype {
                DType::F32 => value,
                DType::BF16 => half::bf16::from_f32(value).to_f32(),
                DType::F16 => half::f16::from_f32(value).to_f32(),
            };
            prop_assert!(found.to_bits() == expected.to_bits() || value.is_nan() && found.is_nan());
        }
    }
}

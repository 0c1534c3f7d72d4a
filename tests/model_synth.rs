//! Synthetic folders: every shape resolves, tiny ones load, prompt and run, and a seed gives the same bytes at any thread
//! count.

mod support_model;

use safedepth::device::Cpu;
use safedepth::model::{Config, Message, Prompter, Transformer, Weights, synth};
use std::collections::BTreeMap;
use std::path::Path;
use support_model::sentence;

fn write(like: &str, seed: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    synth::synth(like, seed, &dir.path().join("m")).unwrap();
    dir
}

fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir.join("m")).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

/// Published parameter counts, in millions.
#[test]
fn shapes_have_the_published_parameter_counts() {
    for (name, millions) in [
        ("llama-2-7b", 6738),
        ("llama-2-13b", 13016),
        ("llama-3.1-8b", 8030),
        ("llama-3.2-1b", 1236),
        ("smollm2-135m", 135),
        ("mistral-7b", 7242),
        ("qwen2.5-0.5b", 494),
        ("qwen2.5-7b", 7616),
        ("qwen3-0.6b", 596),
        ("qwen3-8b", 8191),
        ("gemma-2b", 2506),
        ("gemma-7b", 8538),
        ("gemma-2-2b", 2614),
        ("gemma-2-9b", 9242),
    ] {
        let parameters: usize = synth::config(name).unwrap().parameters().iter().map(|(_, [r, c])| r * c).sum();
        assert_eq!((parameters + 500_000) / 1_000_000, millions, "{name}: {parameters}");
    }
}

#[test]
fn every_tiny_shape_is_a_whole_model() {
    for name in synth::names().filter(|name| name.starts_with("tiny-")) {
        let dir = write(name, 1);
        let path = dir.path().join("m");
        let model = Transformer::load(Cpu::new(), &path, None).unwrap();
        assert_eq!(model.config, Config::load(&path).unwrap());
        let prompter = Prompter::load(&path, &model.config, "auto").unwrap();
        let text = "Hëllo, how? 你好";
        let ids = prompter.tokenizer.encode(text, false).unwrap();
        assert_eq!(ids.len(), text.len(), "{name}: one token a byte");
        assert_eq!(prompter.tokenizer.decode(&ids, false).unwrap(), text, "{name}");
        let prompt = prompter.prompt(&[Message::user("Hi")]).unwrap();
        if let Some(bos) = prompter.tokenizer.bos_id() {
            assert_eq!(prompt.ids.iter().filter(|&&id| id == bos).count(), 1, "{name}: one BOS");
        }
        assert!(prompter.stop_ids().contains(&prompter.end_of_turn().unwrap()), "{name}");
        assert!(prompter.tokenizer.is_special(prompter.end_of_turn().unwrap()), "{name}");
    }
}

#[test]
fn a_seed_gives_the_same_bytes_at_any_thread_count() {
    let with_threads = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bytes(write("tiny-gemma2", 5).path()))
    };
    let one = with_threads(1);
    assert_eq!(one, with_threads(3));
    let other = bytes(write("tiny-gemma2", 6).path());
    assert_ne!(one["model.safetensors"], other["model.safetensors"]);
    assert_eq!(one["tokenizer.json"], other["tokenizer.json"]);
}

#[test]
fn norms_start_at_the_identity_and_matrices_differ() {
    for (name, norm) in [("tiny-llama", 1.0_f32), ("tiny-gemma", 0.0)] {
        let dir = write(name, 0);
        let weights = Weights::open(&dir.path().join("m")).unwrap();
        let slice = weights.get("model.norm.weight", [1, 64]).unwrap();
        assert!(slice.bytes().chunks(4).all(|b| f32::from_le_bytes(b.try_into().unwrap()) == norm), "{name}");
        let of = |layer: usize| {
            weights.get(&format!("model.layers.{layer}.mlp.up_proj.weight"), [176, 64]).unwrap().bytes().to_vec()
        };
        assert_ne!(of(0), of(1));
    }
}

#[test]
fn unknown_shapes_and_taken_folders_are_refused() {
    let dir = write("tiny-llama", 0);
    let again = synth::synth("tiny-llama", 0, &dir.path().join("m"));
    assert_eq!(sentence(again, dir.path()), "DIR/m: already holds a model: give another folder, or remove this one");
    let message = sentence(synth::synth("gpt-2", 0, dir.path()), dir.path());
    assert!(message.starts_with("no shape gpt-2: give one of llama-2-7b, "), "{message}");
}

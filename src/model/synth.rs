//! Model folders with random weights in the shape of known models: for benchmarks, and for tests at real shapes.

mod shapes;
mod tokenizer;

use super::checkpoint::{self, TensorSpec};
use super::{Config, init};
use crate::device::DType;
use crate::{Error, Result};
use serde_json::json;
use shapes::{SHAPES, Shape};
use std::path::Path;

/// The names that [`synth`] knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

/// The `config.json` of a known shape.
pub fn config(like: &str) -> Result<Config> {
    let shape = find(like)?;
    Config::from_json(&format_args!("shape {like}"), &shape.json().to_string())
}

/// Writes the folder `out_dir`: random weights in the shape named `like`, bf16 for real models and f32 for tiny ones,
/// with a byte-level tokenizer and the family's chat template. The same bytes for a seed, whatever the thread count; memory
/// does not grow with the model.
///
/// # Errors
/// Unknown names are answered with the list; a folder that holds a model is left alone.
pub fn synth(like: &str, seed: u64, out_dir: &Path) -> Result<()> {
    let shape = find(like)?;
    let config = config(like)?;
    if out_dir.join("config.json").exists() {
        return Err(Error::input(out_dir.display(), "already holds a model: give another folder, or remove this one"));
    }
    let dtype = if shape.is_tiny() { DType::F32 } else { DType::BF16 };
    let spec = |(name, shape)| TensorSpec { name, shape, dtype };
    let tensors: Vec<TensorSpec> = config.parameters().into_iter().map(spec).collect();
    std::fs::create_dir_all(out_dir).map_err(Error::io("create", out_dir))?;
    let family = shape.family.tokenizer();
    for (name, value) in [
        ("tokenizer.json", family.tokenizer_json()),
        ("tokenizer_config.json", family.config_json(config.max_position_embeddings)),
        (
            "generation_config.json",
            json!({
                "bos_token_id": family.bos_id(), "eos_token_id": family.eos_ids(), "pad_token_id": family.pad_id(),
                "do_sample": true, "temperature": 0.6, "top_p": 0.9,
            }),
        ),
    ] {
        checkpoint::write_json(&out_dir.join(name), &value)?;
    }
    let fill = |index: usize, first: usize, values: &mut [f32]| {
        let tensor = &tensors[index];
        init::fill_initial(values, first, &config, &tensor.name, tensor.shape, seed);
        Ok(())
    };
    checkpoint::save(out_dir, &config, &tensors, fill, None)
}

fn find(like: &str) -> Result<&'static Shape> {
    SHAPES
        .iter()
        .find(|shape| shape.name == like)
        .ok_or_else(|| Error::Usage(format!("no shape {like}: give one of {}", names().collect::<Vec<_>>().join(", "))))
}

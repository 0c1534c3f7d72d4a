//! Writing a model back as a standard Hugging Face folder.

use super::Transformer;
use super::config::Config;
use crate::device::{DType, Tensor};
use crate::ops::Ops;
use crate::run::write_atomic;
use crate::{Error, Result};
use half::{bf16, f16};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Files of a source folder that go with the weights unchanged.
const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// Writes `model.safetensors`, the companions of `source` and, last of all, `config.json`: a folder without it is not a
/// model, so a half-written one does not look whole.
pub fn save_model<D: Ops>(dir: &Path, model: &Transformer<D>, source: Option<&Path>) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let names = model.config.parameters();
    let dtype = model.parameters.embed_tokens.dtype();
    let tensors: Vec<(&str, &Tensor<D>)> =
        names.iter().map(|(name, _)| name.as_str()).zip(model.parameters.iter()).collect();
    write_safetensors(&dir.join("model.safetensors"), &model.device, &tensors, dtype)?;
    if let Some(source) = source {
        for name in COMPANIONS {
            let from = source.join(name);
            if from.exists() {
                let contents = std::fs::read(&from).map_err(Error::io("read", &from))?;
                write_atomic(&dir.join(name), &contents)?;
            }
        }
    }
    write_atomic(&dir.join("config.json"), config_json(&model.config, dtype).as_bytes())
}

/// The config the model came with, its dtype brought up to date.
fn config_json(config: &Config, dtype: DType) -> String {
    let mut json = config.json.clone();
    let name = match dtype {
        DType::F32 => "float32",
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
    };
    let key = if json.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    json.insert(key.into(), name.into());
    serde_json::to_string_pretty(&json).expect("a JSON object is serialisable") + "\n"
}

/// One safetensors file, tensors in the order given, all in `dtype`; atomic.
fn write_safetensors<D: Ops>(path: &Path, device: &D, tensors: &[(&str, &Tensor<D>)], dtype: DType) -> Result<()> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
    let mut offset = 0;
    for (name, tensor) in tensors {
        let end = offset + tensor.len() * dtype.size();
        let shape = if tensor.rows() == 1 { vec![tensor.cols()] } else { vec![tensor.rows(), tensor.cols()] };
        let entry = serde_json::json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [offset, end]});
        header.insert((*name).to_owned(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header).expect("a header is plain data");
    // Tensor data starts at a multiple of 8, as the format's own writer has it.
    header.resize(header.len().next_multiple_of(8), b' ');
    let partial = path.with_extension("safetensors.partial");
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, tensor) in tensors {
            let values = tensor.to_vec(device).map_err(std::io::Error::other)?;
            match dtype {
                DType::F32 => file.write_all(bytemuck::cast_slice(&values))?,
                DType::BF16 => {
                    let bits: Vec<bf16> = values.iter().map(|&value| bf16::from_f32(value)).collect();
                    file.write_all(bytemuck::cast_slice(&bits))?;
                }
                DType::F16 => {
                    let bits: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
                    file.write_all(bytemuck::cast_slice(&bits))?;
                }
            }
        }
        file.into_inner()?.sync_all()
    };
    write().map_err(Error::io("write", &partial))?;
    std::fs::rename(&partial, path).map_err(Error::io("write", path))
}

//! Writing a model as a standard Hugging Face folder.
//!
//! Every file is written under another name, synced and renamed, and `config.json` comes last: a folder that was cut off
//! has none, and nothing reads a folder without one.

use super::{Config, Transformer};
use crate::device::DType;
use crate::ops::Ops;
use crate::{Error, Result};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes of tensors in one file, as `transformers` long split them.
const MAX_SHARD: usize = 5_000_000_000;
/// Elements converted and written at a time.
const CHUNK: usize = 1 << 20;

/// Files that a checkpoint takes over unchanged from the folder it comes from.
const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
];

/// One tensor to write.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    pub name: String,
    /// `[rows, cols]`; a norm's weight or a bias is `[1, n]` here and `[n]` in the file.
    pub shape: [usize; 2],
    pub dtype: DType,
}

impl TensorSpec {
    fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    fn file_shape(&self) -> Value {
        match self.name.ends_with("norm.weight") || self.name.ends_with(".bias") {
            true => json!([self.shape[1]]),
            false => json!(self.shape),
        }
    }
}

/// Writes `model` to `dir` with the tokenizer files and `generation_config.json` of `source`.
///
/// Each parameter keeps its dtype, but one held in f32 beside bf16 or f16 matrices (norms and biases are) is written in
/// theirs if that loses nothing: a checkpoint that was loaded and not trained is written as it was.
pub fn save_model<D: Ops>(dir: &Path, model: &Transformer<D>, source: Option<&Path>) -> Result<()> {
    let matrices = model.parameters.embed_tokens.dtype();
    let mut values = Vec::new();
    let mut specs = Vec::new();
    for ((name, shape), tensor) in model.config.parameters().into_iter().zip(model.parameters.iter()) {
        let mut dtype = tensor.dtype();
        if dtype == DType::F32 && matrices != DType::F32 {
            values.resize(tensor.len(), 0.0);
            model.device.download(&tensor.buffer, &mut values)?;
            if survives(&values, matrices) {
                dtype = matrices;
            }
        }
        specs.push(TensorSpec { name, shape, dtype });
    }
    let mut loaded = usize::MAX;
    save(
        dir,
        &model.config,
        &specs,
        |index, first, chunk| {
            if loaded != index {
                let tensor = model.parameters.iter().nth(index).expect("parameters are listed in one order");
                values.resize(tensor.len(), 0.0);
                model.device.download(&tensor.buffer, &mut values)?;
                loaded = index;
            }
            chunk.copy_from_slice(&values[first..first + chunk.len()]);
            Ok(())
        },
        source,
    )
}

/// Writes a model folder: `fill(index, first, chunk)` gives elements `first ..` of `tensors[index]`, in order.
///
/// `config.json` is `config.json` with its dtype set to that of most values. The folder may exist; model files of
/// another checkpoint in it are replaced.
pub fn save(
    dir: &Path,
    config: &Config,
    tensors: &[TensorSpec],
    fill: impl FnMut(usize, usize, &mut [f32]) -> Result<()>,
    source: Option<&Path>,
) -> Result<()> {
    save_sharded(dir, config, tensors, fill, source, MAX_SHARD)
}

/// [`save`] with a bound on the bytes of tensors in one file; a larger tensor has a file of its own.
pub fn save_sharded(
    dir: &Path,
    config: &Config,
    tensors: &[TensorSpec],
    mut fill: impl FnMut(usize, usize, &mut [f32]) -> Result<()>,
    source: Option<&Path>,
    max_shard: usize,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    remove_model(dir)?;
    let shards = shards(tensors, max_shard);
    let mut homes = Map::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        write_file(&dir.join(&name), |file| write_shard(file, tensors, shard, &mut fill))?;
        homes.extend(shard.iter().map(|&index| (tensors[index].name.clone(), Value::from(name.as_str()))));
    }
    if shards.len() > 1 {
        let total: usize = tensors.iter().map(TensorSpec::bytes).sum();
        homes.sort_keys();
        let index = json!({"metadata": {"total_size": total}, "weight_map": homes});
        write_json(&dir.join("model.safetensors.index.json"), &index)?;
    }
    if let Some(source) = source {
        for name in COMPANIONS {
            let (from, to) = (source.join(name), dir.join(name));
            if from.is_file() && !same_file(&from, &to) {
                let bytes = std::fs::read(&from).map_err(Error::io("read", &from))?;
                write_file(&to, |file| Ok(file.write_all(&bytes)?))?;
            }
        }
    }
    sync_folder(dir)?;
    write_json(&dir.join("config.json"), &Value::Object(config_json(config, tensors)))?;
    sync_folder(dir)
}

/// Takes away the model files of an earlier checkpoint, `config.json` first.
fn remove_model(dir: &Path) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let mut old = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let weights = name.starts_with("model") && name.ends_with(".safetensors");
        if weights || name == "model.safetensors.index.json" || name == "config.json" {
            old.push(path);
        }
    }
    old.sort_by_key(|path| !path.ends_with("config.json"));
    for path in old {
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// Indices of the tensors of each file, in their order.
fn shards(tensors: &[TensorSpec], max_shard: usize) -> Vec<Vec<usize>> {
    let mut shards = vec![Vec::new()];
    let mut size = 0;
    for (index, tensor) in tensors.iter().enumerate() {
        if size > 0 && size + tensor.bytes() > max_shard {
            shards.push(Vec::new());
            size = 0;
        }
        size += tensor.bytes();
        shards.last_mut().expect("never empty").push(index);
    }
    // Wide elements first, so that each tensor is aligned to its element size.
    for shard in &mut shards {
        shard.sort_by_key(|&index| std::cmp::Reverse(tensors[index].dtype.size()));
    }
    shards
}

fn write_shard(
    file: &mut File,
    tensors: &[TensorSpec],
    shard: &[usize],
    fill: &mut impl FnMut(usize, usize, &mut [f32]) -> Result<()>,
) -> Result<(), Failure> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for &index in shard {
        let tensor = &tensors[index];
        let begin = end;
        end += tensor.bytes();
        let entry = json!({"dtype": tensor.dtype.name(), "shape": tensor.file_shape(), "data_offsets": [begin, end]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut text = Value::Object(header).to_string();
    // The data starts at a multiple of 8 bytes.
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(text.as_bytes())?;

    let longest = shard.iter().map(|&index| tensors[index].len()).max().unwrap_or(0).min(CHUNK);
    let mut values = vec![0.0_f32; longest];
    let mut halves = vec![0_u16; longest];
    for &index in shard {
        let tensor = &tensors[index];
        for first in (0..tensor.len()).step_by(CHUNK) {
            let count = CHUNK.min(tensor.len() - first);
            let values = &mut values[..count];
            fill(index, first, values)?;
            file.write_all(match tensor.dtype {
                DType::F32 => bytemuck::cast_slice(values),
                half => {
                    narrow(values, half, &mut halves[..count]);
                    bytemuck::cast_slice(&halves[..count])
                }
            })?;
        }
    }
    Ok(())
}

/// Rounds to nearest even.
fn narrow(values: &[f32], dtype: DType, halves: &mut [u16]) {
    match dtype {
        DType::BF16 => bytemuck::cast_slice_mut::<u16, bf16>(halves).convert_from_f32_slice(values),
        DType::F16 => bytemuck::cast_slice_mut::<u16, f16>(halves).convert_from_f32_slice(values),
        DType::F32 => unreachable!("f32 is written as it is"),
    }
}

/// Every value is one of `dtype`'s.
fn survives(values: &[f32], dtype: DType) -> bool {
    values.iter().all(|&value| match dtype {
        DType::F32 => true,
        DType::BF16 => bf16::from_f32(value).to_f32().to_bits() == value.to_bits(),
        DType::F16 => f16::from_f32(value).to_f32().to_bits() == value.to_bits(),
    })
}

/// The original keys, with the dtype of most values under the key that the file had for it.
fn config_json(config: &Config, tensors: &[TensorSpec]) -> Map<String, Value> {
    let mut json = config.json.clone();
    let count = |dtype| tensors.iter().filter(|tensor| tensor.dtype == dtype).map(TensorSpec::len).sum::<usize>();
    let (_, name) = [(DType::F32, "float32"), (DType::BF16, "bfloat16"), (DType::F16, "float16")]
        .into_iter()
        .max_by_key(|(dtype, _)| count(*dtype))
        .expect("three dtypes");
    if json.contains_key("torch_dtype") {
        json.insert("torch_dtype".to_owned(), name.into());
    }
    if json.contains_key("dtype") || !json.contains_key("torch_dtype") {
        json.insert("dtype".to_owned(), name.into());
    }
    for (key, value) in [
        ("architectures", json!([config.architecture.name()])),
        ("model_type", json!(config.architecture.model_type())),
    ] {
        if json.get(key).is_none_or(Value::is_null) {
            json.insert(key.to_owned(), value);
        }
    }
    json
}

/// What can go wrong inside a file that is being written.
enum Failure {
    Io(std::io::Error),
    Other(Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Writes a file under another name, syncs it and gives it its own; nothing is left behind on failure.
fn write_file(path: &Path, write: impl FnOnce(&mut File) -> Result<(), Failure>) -> Result<()> {
    let partial = partial_name(path);
    let written = File::create(&partial).map_err(Failure::from).and_then(|mut file| {
        write(&mut file)?;
        Ok(file.sync_all()?)
    });
    let renamed = written.and_then(|()| Ok(std::fs::rename(&partial, path)?));
    renamed.map_err(|failure| {
        // The first failure is the one to report.
        let _ = std::fs::remove_file(&partial);
        match failure {
            Failure::Io(error) => Error::io("write", path)(error),
            Failure::Other(error) => error,
        }
    })
}

fn partial_name(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".partial");
    path.with_file_name(name)
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_file(path, |file| Ok(file.write_all(format!("{value:#}\n").as_bytes())?))
}

/// Makes renames durable.
fn sync_folder(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", dir))
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

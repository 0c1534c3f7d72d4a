//! What the tests of model folders share: safetensors files built byte by byte, and error texts without their folder.
#![allow(dead_code)]

use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A safetensors file of `tensors` (name, dtype, shape, bytes), laid out in the given order.
pub fn safetensors(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert((*name).to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend_from_slice(bytes);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A file with exactly this header text and data.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// Little-endian bytes of f32 values.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The error's text with `dir` replaced by `DIR`, checked to be one sentence.
pub fn sentence<T>(result: safedepth::Result<T>, dir: &Path) -> String {
    let Err(error) = result else { panic!("expected an error") };
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.ends_with('.'), "not one sentence: {text}");
    text.replace(&dir.display().to_string(), "DIR")
}

/// The folder of SmolLM2-135M-Instruct, which `scripts/test.sh` makes.
pub fn smollm2() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/SmolLM2-135M-Instruct");
    assert!(
        dir.join("model.safetensors").exists(),
        "the model is not there: run scripts/test.sh, or `pip install gguf numpy && python scripts/get_smollm2.py`"
    );
    dir
}

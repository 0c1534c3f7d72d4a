//! Reading golden tensors made by PyTorch: a small reader of its own, so that a fault in ours cannot hide.

use std::collections::HashMap;
use std::path::Path;

/// All tensors of one safetensors file, by name.
pub struct Golden {
    tensors: HashMap<String, (String, Vec<u8>)>,
}

impl Golden {
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let data = &bytes[8 + header..];
        let entries = json.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
        let tensors = entries
            .map(|(name, entry)| {
                let range = &entry["data_offsets"];
                let (start, end) = (range[0].as_u64().unwrap() as usize, range[1].as_u64().unwrap() as usize);
                (name.clone(), (entry["dtype"].as_str().unwrap().to_owned(), data[start..end].to_vec()))
            })
            .collect();
        Self { tensors }
    }

    fn get(&self, name: &str) -> &(String, Vec<u8>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("no golden tensor {name}"))
    }

    /// Values of an f32 or f64 tensor.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        let (dtype, bytes) = self.get(name);
        match dtype.as_str() {
            "F32" => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            "F64" => bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()) as f32).collect(),
            other => panic!("{name} is {other}"),
        }
    }

    /// Values of an i64 tensor.
    pub fn labels(&self, name: &str) -> Vec<i64> {
        let (dtype, bytes) = self.get(name);
        assert_eq!(dtype, "I64", "{name}");
        bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Token ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.labels(name).into_iter().map(|id| u32::try_from(id).unwrap()).collect()
    }
}

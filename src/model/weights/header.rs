//! The header of a safetensors file: what tensors it holds and where, checked before any byte of them is touched.
//!
//! Layout: an 8-byte little-endian length N, N bytes of JSON, then the data that `data_offsets` count from.

use crate::model::json::without_position;
use crate::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::HashMap;
use std::fmt::{self, Display};

/// The format's own bound on N.
const MAX_HEADER: u64 = 100_000_000;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// As the header spells it: `F32`, `BF16`, `I64`, ...
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Byte offset from the start of the file.
    pub offset: usize,
    /// Size in bytes.
    pub bytes: usize,
}

/// A checked header: every tensor lies inside the file, none overlaps another, every byte belongs to one.
#[derive(Debug, Default)]
pub struct Header {
    /// In the order of their data.
    pub tensors: Vec<(String, TensorInfo)>,
    pub metadata: HashMap<String, String>,
}

#[derive(Deserialize)]
struct RawInfo {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The JSON object in file order; a map would hide duplicate names.
#[derive(Default)]
struct RawHeader {
    tensors: Vec<(String, RawInfo)>,
    metadata: HashMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Bytes per element of every dtype of the format with whole bytes; `None` for others, which no parameter may have.
fn element_size(dtype: &str) -> Option<u64> {
    match dtype {
        "C64" | "F64" | "I64" | "U64" => Some(8),
        "F32" | "I32" | "U32" => Some(4),
        "F16" | "BF16" | "I16" | "U16" => Some(2),
        "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "I8" | "U8" | "BOOL" => Some(1),
        _ => None,
    }
}

impl Header {
    /// Reads and checks the header of a whole file's bytes; `place` names the file in errors.
    pub fn parse(place: &dyn Display, file: &[u8]) -> Result<Self> {
        let error = |problem: String| Error::input(place, problem);
        let truncated = |needed: u64| {
            let missing = needed - file.len() as u64;
            error(format!("is truncated: {missing} bytes are missing; copy or download it again"))
        };
        let Some((length, rest)) = file.split_first_chunk::<8>() else { return Err(truncated(8)) };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER {
            return Err(error(format!(
                "is not a safetensors file: its header would be {length} bytes, and the format allows {MAX_HEADER}"
            )));
        }
        if length > rest.len() as u64 {
            return Err(truncated(8 + length));
        }
        let (text, data) = rest.split_at(length as usize);
        let raw: RawHeader = serde_json::from_slice(text)
            .map_err(|error| Error::input(place, format!("has a bad header: {}", without_position(&error))))?;

        let mut names = std::collections::HashSet::new();
        if let Some((name, _)) = raw.tensors.iter().find(|(name, _)| !names.insert(name.as_str())) {
            return Err(error(format!("lists tensor {name} twice")));
        }
        for (name, info) in &raw.tensors {
            info.check(name).map_err(&error)?;
        }
        let end = raw.tensors.iter().map(|(_, info)| info.data_offsets[1]).max().unwrap_or(0);
        if end > data.len() as u64 {
            let needed = end.checked_add(8 + length).ok_or_else(|| error("has offsets beyond any file".to_owned()))?;
            return Err(truncated(needed));
        }
        let RawHeader { mut tensors, metadata } = raw;
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        let mut previous: (&str, u64) = ("the header", 0);
        for (name, info) in &tensors {
            let [begin, end] = info.data_offsets;
            if begin < previous.1 {
                return Err(error(format!("tensors {} and {name} overlap; the file is corrupt", previous.0)));
            }
            if begin > previous.1 {
                let gap = begin - previous.1;
                return Err(error(format!("has {gap} bytes between {} and {name} that no tensor owns", previous.0)));
            }
            previous = (name, end);
        }
        if previous.1 < data.len() as u64 {
            return Err(error(format!("has {} bytes after its last tensor", data.len() as u64 - previous.1)));
        }
        // All offsets are at most the file's length here, so they fit in usize.
        let start = 8 + text.len();
        let resolve = |(name, info): (String, RawInfo)| {
            let [begin, end] = info.data_offsets;
            let shape = info.shape.iter().map(|&size| size as usize).collect();
            let bytes = (end - begin) as usize;
            (name, TensorInfo { dtype: info.dtype, shape, offset: start + begin as usize, bytes })
        };
        Ok(Self { tensors: tensors.into_iter().map(resolve).collect(), metadata })
    }
}

impl RawInfo {
    /// The byte length agrees with dtype and shape.
    fn check(&self, name: &str) -> Result<(), String> {
        let [begin, end] = self.data_offsets;
        let Some(bytes) = end.checked_sub(begin) else {
            return Err(format!("tensor {name} ends at byte {end}, before its start at {begin}"));
        };
        let elements = self.shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
        let elements = elements.filter(|_| self.shape.iter().all(|&size| usize::try_from(size).is_ok()));
        let Some(elements) = elements else {
            return Err(format!("tensor {name} has the impossible shape {:?}", self.shape));
        };
        match element_size(&self.dtype).map(|size| elements.checked_mul(size)) {
            Some(expected) if expected != Some(bytes) => {
                Err(format!("tensor {name} is {} of shape {:?} but {bytes} bytes long", self.dtype, self.shape))
            }
            _ => Ok(()),
        }
    }
}

//! Weights of a model folder: one or several safetensors files, mapped once each and never copied.

mod finite;
mod header;

pub use header::{Header, TensorInfo};

use super::json::{self, Keys};
use crate::device::{DType, MappedSlice};
use crate::{Error, Result};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a model folder. Cheap to keep: pages are read when a tensor's values are.
pub struct Weights {
    dir: PathBuf,
    files: Vec<File>,
    tensors: BTreeMap<String, (usize, TensorInfo)>,
    sharded: bool,
}

struct File {
    path: PathBuf,
    map: Arc<Mmap>,
}

impl Weights {
    /// Maps `model.safetensors` in `dir`, or every file that `model.safetensors.index.json` lists, and checks their
    /// headers.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::input(dir.display(), "no such folder; give the path of a Hugging Face model folder"));
        }
        let mut this = Self { dir: dir.to_owned(), files: Vec::new(), tensors: BTreeMap::new(), sharded: false };
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if single.exists() {
            this.add(single, &BTreeMap::new())?;
        } else if index.exists() {
            this.sharded = true;
            let homes = read_index(&index)?;
            let mut names: Vec<&String> = homes.values().collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                this.add(dir.join(name), &homes)?;
            }
            if let Some((tensor, file)) = homes.iter().find(|(tensor, _)| !this.tensors.contains_key(*tensor)) {
                return Err(Error::input(
                    dir.join(file).display(),
                    format!("lacks tensor {tensor}, which {INDEX} puts there"),
                ));
            }
        } else {
            return Err(Error::input(
                dir.display(),
                format!("holds neither {SINGLE} nor {INDEX}; save the model with safetensors"),
            ));
        }
        Ok(this)
    }

    /// Maps one file and notes its tensors. `homes` says which file owns a tensor; one it does not name may be anywhere.
    fn add(&mut self, path: PathBuf, homes: &BTreeMap<String, String>) -> Result<()> {
        let file = std::fs::File::open(&path).map_err(Error::io("open", &path))?;
        let metadata = file.metadata().map_err(Error::io("read", &path))?;
        if !metadata.is_file() {
            return Err(Error::input(path.display(), "is not a file"));
        }
        if metadata.len() == 0 {
            return Err(Error::input(path.display(), "is truncated: it is empty; copy or download it again"));
        }
        // SAFETY: the mapping is read-only and private to this process; a program that rewrites the file meanwhile can
        // change values under us, which the format's users accept (as `safetensors` and `transformers` do).
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", &path))?;
        let header = Header::parse(&path.display(), &map)?;
        let own = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = self.files.len();
        for (name, info) in header.tensors {
            if homes.get(&name).is_some_and(|home| home != own) {
                continue;
            }
            if let Some((other, _)) = self.tensors.get(&name) {
                let other = self.files[*other].path.display();
                return Err(Error::input(path.display(), format!("holds tensor {name}, which {other} holds too")));
            }
            self.tensors.insert(name, (number, info));
        }
        self.files.push(File { path, map: Arc::new(map) });
        Ok(())
    }

    /// Every tensor's name, sorted. A checkpoint may hold some that no parameter needs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape and dtype of a tensor as its file states them.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|(_, info)| info)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The mapped files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Size of all mapped files in bytes.
    pub fn bytes(&self) -> usize {
        self.files.iter().map(|file| file.map.len()).sum()
    }

    /// The values of tensor `name`, which must be `shape` (`[1, n]` for a vector of n) and f32, bf16 or f16.
    pub fn get(&self, name: &str, shape: [usize; 2]) -> Result<MappedSlice> {
        let Some((file, info)) = self.tensors.get(name) else {
            let place = if self.sharded { self.dir.join(INDEX) } else { self.dir.join(SINGLE) };
            return Err(Error::input(
                place.display(),
                format!("tensor {name} is missing; is this the whole checkpoint of the architecture in config.json?"),
            ));
        };
        let File { path, map } = &self.files[*file];
        let matches = match info.shape[..] {
            [n] => shape == [1, n],
            [rows, cols] => shape == [rows, cols],
            _ => false,
        };
        if !matches {
            let wanted =
                if shape[0] == 1 && info.shape.len() == 1 { format!("[{}]", shape[1]) } else { format!("{shape:?}") };
            return Err(Error::input(
                path.display(),
                format!("tensor {name} has shape {:?} but config.json asks for {wanted}", info.shape),
            ));
        }
        let dtype = [DType::F32, DType::BF16, DType::F16].into_iter().find(|dtype| dtype.name() == info.dtype);
        let dtype = dtype.ok_or_else(|| {
            Error::input(
                path.display(),
                format!("tensor {name} has dtype {}; supported are F32, BF16 and F16", info.dtype),
            )
        })?;
        Ok(MappedSlice { map: Arc::clone(map), offset: info.offset, len: shape[0] * shape[1], dtype })
    }

    /// Fails with the place of the first NaN or infinity in `slice`, the values of tensor `name`.
    pub fn check_finite(&self, name: &str, slice: &MappedSlice) -> Result<()> {
        let Some(index) = finite::first_non_finite(slice) else { return Ok(()) };
        let (place, shape) = match self.tensors.get(name) {
            Some((file, info)) => (self.files[*file].path.as_path(), &info.shape[..]),
            None => (self.dir.as_path(), &[][..]),
        };
        let at = match shape {
            [_, cols] => format!("[{}, {}]", index / cols, index % cols),
            _ => format!("[{index}]"),
        };
        let value = finite::describe(slice, index);
        Err(Error::input(place.display(), format!("tensor {name} holds {value} at {at}; the checkpoint is damaged")))
    }
}

/// Which file holds each tensor.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let place = path.display();
    let map = json::parse_object(&place, &json::read_text(path)?)?;
    let keys = Keys { place: &place, map: &map };
    let homes = keys.object("weight_map")?.ok_or_else(|| Error::input(&place, "`weight_map` is missing"))?;
    let home = |(tensor, file): (&String, &serde_json::Value)| {
        // A plain file name: an index must not reach outside of its folder.
        let plain = |name: &&str| Path::new(name).file_name().is_some_and(|file| file == *name);
        match file.as_str().filter(plain) {
            Some(file) => Ok((tensor.clone(), file.to_owned())),
            None => Err(keys.error("weight_map", format_args!("must give tensor {tensor} a file name of this folder"))),
        }
    };
    let homes: BTreeMap<_, _> = homes.map.iter().map(home).collect::<Result<_>>()?;
    if homes.is_empty() {
        return Err(keys.error("weight_map", "lists no tensors"));
    }
    Ok(homes)
}

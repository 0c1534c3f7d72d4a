//! What a run's numbers depend on beside its config: program, device, input files.

use super::{Shard, write_atomic};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What one process brings to a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Version of this program.
    pub version: String,
    /// The commit it was built from, with "-dirty" where the tree had changes.
    pub commit: String,
    /// The command line, as given.
    pub arguments: Vec<String>,
    /// The device in words.
    pub device: String,
    /// Results are equal, byte for byte, only where this is.
    pub isa: String,
    /// The slice this process works on; none for the whole.
    pub shard: Option<Shard>,
    /// What it reads: models, data.
    pub inputs: Vec<InputFile>,
}

/// A file that a run reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    pub path: PathBuf,
    pub bytes: u64,
    pub blake3: String,
}

/// A process that worked on a run folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Process {
    pub version: String,
    pub commit: String,
    pub arguments: Vec<String>,
    pub device: String,
}

/// The file `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub isa: String,
    pub shard: Option<Shard>,
    /// Whether every cell is done: `merge` takes nothing less.
    pub finished: bool,
    /// The shards' folders, in a merged run.
    pub merged_from: Vec<PathBuf>,
    pub inputs: Vec<InputFile>,
    /// Every process that worked on the folder, oldest first.
    pub processes: Vec<Process>,
}

impl Manifest {
    pub(super) fn process(&self) -> Process {
        let Self { version, commit, arguments, device, .. } = self.clone();
        Process { version, commit, arguments, device }
    }

    /// The record of a folder that this process begins.
    pub(super) fn begin(&self) -> Record {
        Record {
            isa: self.isa.clone(),
            shard: self.shard,
            finished: false,
            merged_from: Vec::new(),
            inputs: self.inputs.clone(),
            processes: Vec::new(),
        }
    }
}

impl Record {
    /// The manifest in `dir`; none if there is no such file.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("manifest.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let record = serde_json::from_str(&text).map_err(|error| {
            Error::input(path.display(), format!("is no manifest of this version ({error}): remove the folder"))
        })?;
        Ok(Some(record))
    }

    pub fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("a manifest is plain data") + "\n";
        write_atomic(&dir.join("manifest.json"), text.as_bytes())
    }

    /// Refuses a process whose numbers would not be those of this folder.
    pub fn check(&self, dir: &Path, manifest: &Manifest) -> Result<()> {
        let refuse = |problem: String| Err(Error::input(dir.display(), problem));
        if self.isa != manifest.isa {
            return refuse(if self.isa.starts_with("sm_") {
                format!("was begun on a GPU of kind {}: go on with --device cuda on such a one", self.isa)
            } else {
                format!("was begun with instruction set {0}: go on with --isa {0}", self.isa)
            });
        }
        // A merged folder holds the whole, and any process may read it.
        if self.shard != manifest.shard {
            let name =
                |shard: Option<Shard>| shard.map_or("the whole run".to_owned(), |shard| format!("shard {shard}"));
            let (there, here) = (name(self.shard), name(manifest.shard));
            return refuse(format!("holds {there}, not {here}: give each an --output of its own"));
        }
        match other_input(&self.inputs, &manifest.inputs) {
            Some(what) => refuse(format!("{what}: give another --output, or bring the old file back")),
            None => Ok(()),
        }
    }
}

/// A clause about the first input that is not the same.
pub(super) fn other_input(there: &[InputFile], here: &[InputFile]) -> Option<String> {
    for old in there {
        match here.iter().find(|new| new.path == old.path) {
            None => return Some(format!("was begun with {}, which is not there now", old.path.display())),
            Some(new) if new != old => return Some(format!("was begun with other contents of {}", old.path.display())),
            Some(_) => {}
        }
    }
    let new = here.iter().find(|new| there.iter().all(|old| old.path != new.path))?;
    Some(format!("was begun without {}", new.path.display()))
}

/// Extensions of the files of a model folder that this program reads.
const MODEL_FILES: [&str; 5] = ["safetensors", "json", "jinja", "txt", "model"];

/// Hashes the files at `paths`. Of a model's folder (one with a `config.json`) those that this program reads, of any
/// other folder everything below it; hidden files are left out.
pub fn hash_inputs(paths: &[&Path]) -> Result<Vec<InputFile>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let model = path.join("config.json").is_file();
            files_below(path, model, &mut files)?;
        } else {
            files.push(path.to_path_buf());
        }
    }
    files.sort();
    files.dedup();
    files.into_iter().map(hash).collect()
}

fn files_below(dir: &Path, model: bool, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // A link to a folder is not followed: it may lead in a circle.
        if entry.file_type().map_err(Error::io("read", &path))?.is_dir() {
            if !model {
                files_below(&path, false, files)?;
            }
        } else if path.is_file() {
            let known = path.extension().is_some_and(|extension| MODEL_FILES.iter().any(|known| extension == *known));
            if !model || known {
                files.push(path);
            }
        }
    }
    Ok(())
}

/// Mapped and hashed by all threads: weights are read at the speed of memory once they are cached.
fn hash(path: PathBuf) -> Result<InputFile> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(&path).map_err(Error::io("read", &path))?;
    Ok(InputFile { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string(), path })
}

//! A folder with everything that the experiments on real models read, in either of two layouts.
//!
//! The reference implementation's, as it is downloaded:
//!
//! ```text
//! safety_bench/HEx-PHI.jsonl  safety_bench/Harmful-HEx-PHI.jsonl
//! tasks/pure_bad100.jsonl  tasks/aoa_100.jsonl  tasks/backdoor_FAMILY.jsonl
//! tasks/data_augmentation/FAMILY_safety_data_direct.jsonl  tasks/data_augmentation/FAMILY_alpaca_anchor.json
//! tasks/NAME/train.json  tasks/NAME/test.json
//! ```
//!
//! And flat names, each with any known extension: `safety`, `harmful`, `identity`, `backdoor`, `recovery`, `anchor`. In
//! both, `prompts/NAME.*` are attacks of their own, and `tasks/NAME/{train,test}.*` benign tasks.

use super::files_in;
use super::pairs::{self, Pair};
use super::records::EXTENSIONS;
use super::triplets::{self, Triplet};
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a data folder holds; `None` where there is no such file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folder {
    /// Instructions that should be refused, with the answer that should not be given where there is one.
    pub safety: Vec<Pair>,
    /// The harmful-examples fine-tuning attack.
    pub harmful: Option<Vec<Pair>>,
    /// The identity-shifting attack.
    pub identity: Option<Vec<Pair>>,
    /// The backdoor attack: pairs with and without the trigger.
    pub backdoor: Option<Vec<Pair>>,
    /// Safety-recovery triplets.
    pub recovery: Option<Vec<Triplet>>,
    /// Benign instructions with answers distilled from the aligned model.
    pub anchor: Option<Vec<Pair>>,
    /// Benign tasks, by name.
    pub tasks: Vec<Task>,
    /// Other sets of prompts, by name: each an attack of its own.
    pub prompts: Vec<(String, Vec<Pair>)>,
}

/// A benign task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Task {
    pub name: String,
    pub train: Vec<Pair>,
    /// Empty where there is no test file.
    pub test: Vec<Pair>,
}

/// The reference implementation trains on every fifth row of SQL Create Context and tests on every tenth; the files
/// that it publishes hold all rows.
const SQL_STRIDES: (usize, usize) = (5, 10);

impl Folder {
    /// Whether `dir` is laid out as a data folder: it holds a safety set by name.
    pub fn recognises(dir: &Path) -> bool {
        let flat = EXTENSIONS.iter().any(|extension| dir.join(format!("safety.{extension}")).is_file());
        flat || dir.join("safety_bench").is_dir() || dir.join("data/safety_bench").is_dir()
    }

    /// Reads `dir`. Of files that were made with one family of models (their names hold it: `llama2`, `gemma`) that of
    /// `family` is taken, else the only one there is.
    ///
    /// # Errors
    /// If there is no safety set, a file cannot be read, or the family cannot be told.
    pub fn read(dir: &Path, family: Option<&str>) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::input(
                dir.display(),
                "is not a folder: see data/README.md for what a data folder holds",
            ));
        }
        let nested = dir.join("data");
        let dir = if nested.join("safety_bench").is_dir() { nested.as_path() } else { dir };
        let pick = |subfolder: &str, flat: &str, prefix: &str, suffix: &str| -> Result<Option<PathBuf>> {
            match named(dir, flat)? {
                Some(path) => Ok(Some(path)),
                None => of_family(&dir.join(subfolder), prefix, suffix, family),
            }
        };
        let augmentation = "tasks/data_augmentation";
        Ok(Self {
            safety: safety(dir)?,
            harmful: read_pairs(pick("tasks", "harmful", "pure_bad100.jsonl", "")?)?,
            identity: read_pairs(pick("tasks", "identity", "aoa_100.jsonl", "")?)?,
            backdoor: read_pairs(pick("tasks", "backdoor", "backdoor_", ".jsonl")?)?,
            recovery: pick(augmentation, "recovery", "", "_safety_data_direct.jsonl")?
                .map(|path| triplets::read(&path))
                .transpose()?,
            anchor: read_pairs(pick(augmentation, "anchor", "", "_alpaca_anchor.json")?)?,
            tasks: tasks(&dir.join("tasks"))?,
            prompts: prompts(&dir.join("prompts"))?,
        })
    }
}

fn read_pairs(path: Option<PathBuf>) -> Result<Option<Vec<Pair>>> {
    path.map(|path| pairs::read(&path)).transpose()
}

/// The file `stem` of any known extension.
fn named(dir: &Path, stem: &str) -> Result<Option<PathBuf>> {
    let mut files = EXTENSIONS.iter().map(|extension| dir.join(format!("{stem}.{extension}"))).filter(|p| p.is_file());
    match (files.next(), files.next()) {
        (Some(first), Some(second)) => {
            let second = second.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(Error::input(first.display(), format!("stands beside {second}: keep one of them")))
        }
        (first, _) => Ok(first),
    }
}

/// The file `prefix` + family + `suffix`: the one of `family`, else the only one.
fn of_family(dir: &Path, prefix: &str, suffix: &str, family: Option<&str>) -> Result<Option<PathBuf>> {
    if !dir.is_dir() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for file in files_in(dir)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(this) = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix)) {
            if family == Some(this) {
                return Ok(Some(file));
            }
            found.push((name, file));
        }
    }
    if found.len() > 1 {
        let names: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
        let problem = format!("holds {}: say which family of models to take", names.join(" and "));
        return Err(Error::input(dir.display(), problem));
    }
    Ok(found.pop().map(|(_, file)| file))
}

/// The safety set: prompts, and where there are pairs, their answers. The reference keeps the two in separate files;
/// what they share is the prompt's text.
fn safety(dir: &Path) -> Result<Vec<Pair>> {
    if let Some(path) = named(dir, "safety")? {
        return pairs::read(&path);
    }
    let bench = dir.join("safety_bench");
    let read = |name: &str| {
        let path = bench.join(name);
        if path.is_file() { pairs::read(&path).map(Some) } else { Ok(None) }
    };
    match (read("HEx-PHI.jsonl")?, read("Harmful-HEx-PHI.jsonl")?) {
        (Some(prompts), Some(answered)) => Ok(join(prompts, answered)),
        (Some(pairs), None) | (None, Some(pairs)) => Ok(pairs),
        (None, None) => Err(Error::input(
            dir.display(),
            "holds neither safety.jsonl (or .csv, .txt) nor safety_bench/HEx-PHI.jsonl: see data/README.md",
        )),
    }
}

/// Prompts with the answers of those that have one; answered prompts that are not among them follow.
fn join(mut prompts: Vec<Pair>, answered: Vec<Pair>) -> Vec<Pair> {
    let places: HashMap<String, usize> =
        prompts.iter().enumerate().map(|(i, pair)| (pair.last_user().trim().to_owned(), i)).collect();
    for mut pair in answered {
        match places.get(pair.last_user().trim()) {
            Some(&i) => prompts[i].response = pair.response,
            None => {
                pair.id = format!("answered:{}", pair.id);
                prompts.push(pair);
            }
        }
    }
    prompts
}

fn tasks(dir: &Path) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    if !dir.is_dir() {
        return Ok(tasks);
    }
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        let (Some(name), true) = (path.file_name().and_then(|name| name.to_str()), path.is_dir()) else { continue };
        let Some(train) = named(&path, "train")? else { continue };
        let test = named(&path, "test")?;
        let stride = if name == "sql_create_context" { SQL_STRIDES } else { (1, 1) };
        let thin = |pairs: Vec<Pair>, stride: usize| pairs.into_iter().step_by(stride).collect();
        tasks.push(Task {
            name: name.to_owned(),
            train: thin(pairs::read(&train)?, stride.0),
            test: thin(read_pairs(test)?.unwrap_or_default(), stride.1),
        });
    }
    tasks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tasks)
}

fn prompts(dir: &Path) -> Result<Vec<(String, Vec<Pair>)>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut sets = Vec::new();
    for file in files_in(dir)? {
        if file.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known)) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            sets.push((name, pairs::read(&file)?));
        }
    }
    Ok(sets)
}

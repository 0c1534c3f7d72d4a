//! Reads a run folder. Only `results.csv` must be there.

use crate::run::judgements::{self, Judgement};
use crate::run::{Response, Row};
use crate::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// A finished run, as its folder has it.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The folder's name.
    pub name: String,
    pub rows: Vec<Row>,
    /// By id.
    pub examples: BTreeMap<String, Example>,
    pub responses: Vec<Response>,
    /// What other judges say of them.
    pub judgements: Vec<Judgement>,
    pub timings: Vec<Timing>,
    /// What it ran on; null where it is not known.
    pub manifest: Value,
    /// What was asked; null where it is not known.
    pub config: Value,
}

/// What an `example` of the results is: a line of `examples.csv`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Example {
    pub example: String,
    #[serde(default)]
    pub category: String,
    #[serde(default)]
    pub prompt: String,
    /// The answer that should not be given.
    #[serde(default)]
    pub harmful: String,
}

/// A line of `timings.csv`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Timing {
    pub stage: String,
    pub seconds: f64,
    /// Tokens through forward passes.
    #[serde(default)]
    pub forward_tokens: u64,
    /// Tokens through forward and backward passes.
    #[serde(default)]
    pub trained_tokens: u64,
    /// Tokens that the same work would have put through forward passes without sharing prefixes.
    #[serde(default)]
    pub unshared_tokens: u64,
    #[serde(default)]
    pub flops: f64,
}

impl Run {
    /// Reads `dir`.
    ///
    /// # Errors
    /// If it is no run folder, or a file in it is damaged.
    pub fn read(dir: &Path) -> Result<Self> {
        let results = dir.join("results.csv");
        if !results.exists() {
            return Err(Error::input(
                dir.display(),
                "holds no results.csv: give the folder of a finished run (an unfinished one is finished by starting it \
                 again)",
            ));
        }
        let examples: Vec<Example> = table(&dir.join("examples.csv"))?;
        // A bare "." has no name of its own.
        let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        Ok(Self {
            name: whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned(),
            rows: table(&results)?,
            examples: examples.into_iter().map(|example| (example.example.clone(), example)).collect(),
            responses: json_lines(&dir.join("responses.jsonl"))?,
            judgements: judgements::read(dir)?,
            timings: table(&dir.join("timings.csv"))?,
            manifest: json(&dir.join("manifest.json"))?,
            config: json(&dir.join("config.json"))?,
        })
    }

    /// The category of each example that has one.
    pub fn categories(&self) -> BTreeMap<&str, &str> {
        let named = self.examples.values().filter(|example| !example.category.is_empty());
        named.map(|example| (example.example.as_str(), example.category.as_str())).collect()
    }

    /// The arguments that the run was begun with, where the manifest says.
    fn arguments(&self) -> Option<Vec<&str>> {
        let arguments = match self.manifest.get("arguments") {
            Some(arguments) => arguments,
            // Several processes can have worked on a run, each with its own arguments; the first began it.
            None => self.manifest.get("processes")?.get(0)?.get("arguments")?,
        };
        Some(arguments.as_array()?.iter().filter_map(Value::as_str).collect())
    }

    /// The command that made the run.
    pub fn command(&self) -> Option<String> {
        Some(command(self.arguments()?))
    }

    /// The command that makes just the rows of some experiments, into a folder of their own; empty where the
    /// manifest does not say how the run was made.
    pub fn command_for(&self, experiments: &str) -> String {
        let Some(arguments) = self.arguments() else { return String::new() };
        let mut kept = Vec::new();
        let mut words = arguments.into_iter();
        while let Some(word) = words.next() {
            let name = word.split_once('=').map_or(word, |(name, _)| name);
            if !["--experiments", "--shard", "--output"].contains(&name) {
                kept.push(word);
            } else if name == word {
                // Its value is a word of its own.
                words.next();
            }
        }
        if kept.first() == Some(&"suite") {
            kept.extend(["--output", "runs/claim"]);
        }
        kept.extend(["--experiments", experiments]);
        command(kept)
    }
}

/// A command line of this program.
fn command(arguments: Vec<&str>) -> String {
    let words = arguments.into_iter().map(quoted);
    std::iter::once("safedepth".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A file's text; none if it is not there.
fn text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// The lines of a CSV file with a header; none if it is not there.
fn table<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let Some(text) = text(path)? else { return Ok(Vec::new()) };
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let lines = reader.deserialize().map(|line| {
        line.map_err(|error: csv::Error| {
            let place = error.position().map_or_else(String::new, |position| format!(":{}", position.line()));
            let problem = match error.kind() {
                csv::ErrorKind::Deserialize { err, .. } => err.to_string(),
                _ => error.to_string(),
            };
            Error::input(format!("{}{place}", path.display()), format!("{problem}: mend the line, or run again"))
        })
    });
    lines.collect()
}

/// A JSON value a line; none if the file is not there.
fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let Some(text) = text(path)? else { return Ok(Vec::new()) };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let values = lines.map(|(number, line)| {
        serde_json::from_str(line).map_err(|error| damaged_json(&format!("{}:{}", path.display(), number + 1), &error))
    });
    values.collect()
}

/// A file that is one JSON value; null if it is not there.
fn json(path: &Path) -> Result<Value> {
    let Some(text) = text(path)? else { return Ok(Value::Null) };
    serde_json::from_str(&text).map_err(|error| damaged_json(&path.display().to_string(), &error))
}

fn damaged_json(place: &str, error: &serde_json::Error) -> Error {
    Error::input(place, format!("is not valid JSON ({error}): mend it, or remove the file"))
}

//! A run's folder: what was asked, what it ran on, the cells that are done. `docs/results.md` names its files.

use super::journal::{self, Cells, Journal};
use super::manifest::Record;
use super::rows::{Cost, ExampleRow, Findings, Response, Row};
use super::timings::{Log, Timing};
use super::{Manifest, Shard, difference, tables, write_atomic};
use crate::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// An open run folder, locked against a second process.
pub struct RunFolder {
    dir: PathBuf,
    record: Record,
    journal: Journal,
    done: Cells,
    timings: Log,
    examples: BTreeMap<String, ExampleRow>,
    /// What cells of other shards have found.
    nothing: Findings,
    _lock: File,
}

impl RunFolder {
    /// Opens `dir`, or goes on with the run that is there.
    ///
    /// # Errors
    /// If the folder holds a run of another config, shard, instruction set or other input files, or one that another
    /// process is working on.
    pub fn open(dir: &Path, config: &impl Serialize, manifest: &Manifest) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock = lock(dir)?;
        let config = serde_json::to_value(config).expect("a config is plain data");
        let record = match read_config(dir)? {
            None => None,
            Some(there) if there == config => Record::read(dir)?,
            Some(there) => {
                let keys = difference::describe(&there, &config);
                let problem = "holds a run of another configuration";
                let remedy = "give another --output, or remove the folder";
                return Err(Error::input(dir.display(), format!("{problem} ({keys}): {remedy}")));
            }
        };
        let mut record = match record {
            Some(record) => {
                record.check(dir, manifest)?;
                record
            }
            None => manifest.begin(),
        };
        record.finished = false;
        record.processes.push(manifest.process());
        record.write(dir)?;
        write_config(dir, &config)?;
        Self::assemble(dir, record, lock)
    }

    /// The run in `dir`, whose config and manifest are in order.
    pub(super) fn assemble(dir: &Path, record: Record, lock: File) -> Result<Self> {
        let (journal, done) = Journal::open(dir)?;
        let (timings, examples) = (Log::open(dir)?, tables::read_examples(dir)?);
        let nothing = Findings::default();
        Ok(Self { dir: dir.to_owned(), record, journal, done, timings, examples, nothing, _lock: lock })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The slice of the run that this folder holds; none for the whole.
    pub fn shard(&self) -> Option<Shard> {
        self.record.shard
    }

    /// Whether `cell` is this shard's to compute.
    pub fn owns(&self, cell: &str) -> bool {
        self.record.shard.is_none_or(|shard| shard.owns(cell))
    }

    /// Whether `cell` needs no more work here: it is in the journal, or another shard's. Asked before costly
    /// preparations.
    pub fn is_done(&self, cell: &str) -> bool {
        self.done.contains_key(cell) || !self.owns(cell)
    }

    /// What `cell` found: from the journal if it is done, nothing if it is another shard's, else computed by `work` and
    /// noted in the journal.
    pub fn cell(&mut self, cell: &str, work: impl FnOnce() -> Result<Findings>) -> Result<&Findings> {
        if !self.is_done(cell) {
            let start = Instant::now();
            let findings = work()?;
            let cost = findings.cost;
            let (name, findings) = self.journal.add(cell.to_owned(), findings)?;
            self.timings.add(&name, start.elapsed().as_secs_f64(), cost)?;
            self.done.insert(name, findings);
        }
        Ok(self.done.get(cell).unwrap_or(&self.nothing))
    }

    /// Notes the wall time of a stage that has no rows.
    pub fn note_time(&mut self, stage: &str, seconds: f64, cost: Cost) -> Result<()> {
        self.timings.add(stage, seconds, cost)
    }

    /// Notes what examples are, for `examples.csv`; one that is known already is replaced.
    pub fn note_examples(&mut self, examples: impl IntoIterator<Item = ExampleRow>) {
        self.examples.extend(examples.into_iter().map(|row| (row.example.clone(), row)));
    }

    /// What stages cost so far, over all processes that worked on the folder.
    pub fn timings(&self) -> &[Timing] {
        &self.timings.timings
    }

    /// Writes the finished files and returns all rows, sorted.
    pub fn finish(mut self) -> Result<Vec<Row>> {
        let responses: Vec<&Response> = self.done.values().flat_map(|findings| &findings.responses).collect();
        tables::write_responses(&self.dir, responses)?;
        tables::write_examples(&self.dir, &self.examples)?;
        let mut rows: Vec<Row> = self.done.into_values().flat_map(|findings| findings.rows).collect();
        tables::sort(&mut rows);
        tables::write_results(&self.dir, &rows)?;
        self.record.finished = true;
        self.record.write(&self.dir)?;
        Ok(rows)
    }
}

/// Locks `dir` for as long as the file lives; the system lets go of it when a process is killed.
pub(super) fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::input(dir.display(), "another process is working on this run: wait for it"))
        }
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
    }
}

/// The config of the run in `dir`; none if there is none.
pub(super) fn read_config(dir: &Path) -> Result<Option<Value>> {
    let path = dir.join("config.json");
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| Error::input(path.display(), format!("is not valid JSON ({error}): remove the folder"))),
        // What is there without a config cannot be told from another run's.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !dir.join(journal::NAME).exists() => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::input(dir.display(), "holds a run without config.json: give another --output"))
        }
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

pub(super) fn write_config(dir: &Path, config: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(config).expect("a config is plain data") + "\n";
    write_atomic(&dir.join("config.json"), text.as_bytes())
}

//! Joins the folders of a run's shards into the folder that one process would have made.

use super::journal::{self, Cells};
use super::manifest::{Record, other_input};
use super::{RunFolder, difference, folder, tables, timings, write_atomic};
use crate::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// One shard's folder, held against processes that would go on with it.
struct Slice {
    dir: PathBuf,
    config: Value,
    record: Record,
    _lock: File,
}

/// Joins `shards` into `output` and opens it; [`RunFolder::finish`] writes its tables. An earlier merge in `output` is
/// replaced, anything else refused.
///
/// # Errors
/// If shards are missing, unfinished or there twice, or are of another config, commit or instruction set, or read other
/// files.
pub fn merge(shards: &[PathBuf], output: &Path) -> Result<RunFolder> {
    if let Some((_, twice)) = shards.iter().enumerate().find(|(i, dir)| shards[..*i].contains(dir)) {
        return Err(Error::input(twice.display(), "is given twice: give each shard once"));
    }
    let slices = shards.iter().map(|dir| Slice::open(dir)).collect::<Result<Vec<_>>>()?;
    let Some(first) = slices.first() else {
        return Err(Error::Usage("give the folders of all shards".into()));
    };
    slices.iter().try_for_each(|slice| slice.check_beside(first))?;
    check_complete(&slices)?;

    let (mut cells, mut stages, mut examples) = (Cells::new(), Vec::new(), BTreeMap::new());
    for slice in &slices {
        cells.extend(journal::read(&slice.dir.join(journal::NAME))?.0);
        stages.extend(timings::read(&slice.dir.join(timings::NAME))?.0);
        examples.extend(tables::read_examples(&slice.dir)?);
    }
    let record = Record {
        isa: first.record.isa.clone(),
        shard: None,
        finished: false,
        merged_from: shards.to_vec(),
        inputs: first.record.inputs.clone(),
        processes: slices.iter().flat_map(|slice| slice.record.processes.clone()).collect(),
    };
    // The manifest first: whatever a kill leaves is then known for a merge, and replaced by the next.
    let lock = prepare(output)?;
    record.write(output)?;
    folder::write_config(output, &first.config)?;
    write_atomic(&output.join(journal::NAME), &journal::bytes(cells))?;
    write_atomic(&output.join(timings::NAME), &timings::bytes(&stages))?;
    tables::write_examples(output, &examples)?;
    RunFolder::assemble(output, record, lock)
}

impl Slice {
    fn open(dir: &Path) -> Result<Self> {
        if !dir.join("config.json").exists() {
            return Err(Error::input(dir.display(), "holds no run: give the --output folders of the shards"));
        }
        let lock = folder::lock(dir)?;
        let (config, record) = (folder::read_config(dir)?, Record::read(dir)?);
        let (Some(config), Some(record)) = (config, record) else {
            return Err(Error::input(dir.display(), "lacks its manifest.json: run the shard again"));
        };
        Ok(Self { dir: dir.to_owned(), config, record, _lock: lock })
    }

    /// Refuses a shard that would not have given the numbers of the run that `first` is a slice of.
    fn check_beside(&self, first: &Self) -> Result<()> {
        let other = first.dir.display();
        let refuse = |problem: String| Err(Error::input(self.dir.display(), problem));
        if self.config != first.config {
            let keys = difference::describe(&first.config, &self.config);
            return refuse(format!("is of another configuration than {other} ({keys}): run it again with the same"));
        }
        if self.record.isa != first.record.isa {
            let (here, there) = (&self.record.isa, &first.record.isa);
            return refuse(format!("ran on {here}, {other} on {there}: run all shards with one --isa"));
        }
        let commit = first.record.processes.first().map_or("", |process| &process.commit);
        if let Some(process) = self.record.processes.iter().find(|process| process.commit != *commit) {
            let here = &process.commit;
            return refuse(format!("ran commit {here}, {other} commit {commit}: run all shards with one build"));
        }
        match other_input(&self.record.inputs, &first.record.inputs) {
            Some(what) => refuse(format!("{what}, compared with {other}: run all shards on the same files")),
            None => Ok(()),
        }
    }
}

/// Every shard of the run, finished, and each once.
fn check_complete(slices: &[Slice]) -> Result<()> {
    let mut places: BTreeMap<u32, &Slice> = BTreeMap::new();
    let mut count = 0;
    for slice in slices {
        let refuse = |problem: String| Err(Error::input(slice.dir.display(), problem));
        let Some(shard) = slice.record.shard else {
            return refuse("is no shard but a whole run: give the folders made with --shard".to_owned());
        };
        if !slice.record.finished {
            return refuse(format!("shard {shard} is not finished: run its command again"));
        }
        if count != 0 && shard.count() != count {
            return refuse(format!("is shard {shard}, where others are of {count}: give the shards of one run"));
        }
        count = shard.count();
        if let Some(other) = places.insert(shard.index(), slice) {
            return refuse(format!("is shard {shard}, as {} is: give each shard once", other.dir.display()));
        }
    }
    let missing: Vec<String> =
        (1..=count).filter(|index| !places.contains_key(index)).map(|index| format!("{index}/{count}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Usage(format!("shard {} is missing: give the folders of all {count} shards", missing.join(", "))))
}

/// Makes and locks `output`, which may hold an earlier merge.
fn prepare(output: &Path) -> Result<File> {
    std::fs::create_dir_all(output).map_err(Error::io("create", output))?;
    let lock = folder::lock(output)?;
    let mut entries = std::fs::read_dir(output).map_err(Error::io("read", output))?;
    let empty = entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == ".lock"));
    let merged = Record::read(output)?.is_some_and(|record| !record.merged_from.is_empty());
    if empty || merged {
        return Ok(lock);
    }
    Err(Error::input(output.display(), "is not empty: give another --output, or remove the folder"))
}

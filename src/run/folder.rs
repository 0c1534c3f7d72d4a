//! A run's folder: `config.json` (what was asked, resolved), `manifest.json` (what it ran on), `journal.jsonl` (cells as
//! they finish), `results.csv` (all rows, sorted), `timings.csv` (wall time, which no two runs share).

use super::rows::{Cost, Findings, Row, write_csv};
use super::write_atomic;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a run's numbers depend on beside its config.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
}

/// A finished cell in the journal.
#[derive(Serialize, Deserialize)]
struct Entry {
    cell: String,
    #[serde(flatten)]
    findings: Findings,
}

/// An open run folder, locked against a second process.
pub struct RunFolder {
    dir: PathBuf,
    journal: File,
    done: HashMap<String, Findings>,
    timings: Vec<(String, f64, Cost)>,
    _lock: File,
}

impl RunFolder {
    /// Opens `dir`, or goes on with the run that is there.
    ///
    /// # Errors
    /// If the folder holds a run of another config, or one that another process is working on.
    pub fn open(dir: &Path, config: &impl Serialize, manifest: &Manifest) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock_path = dir.join(".lock");
        let lock = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
        if lock.try_lock().is_err() {
            return Err(Error::input(dir.display(), "another process is working on this run: wait for it"));
        }
        let config = serde_json::to_string_pretty(config).expect("a config is plain data") + "\n";
        let config_path = dir.join("config.json");
        let manifest_path = dir.join("manifest.json");
        match std::fs::read_to_string(&config_path) {
            Ok(old) if old != config => {
                return Err(Error::input(
                    dir.display(),
                    "holds a run of another configuration: give another --output, or remove the folder",
                ));
            }
            Ok(_) => {
                if let Ok(old) = std::fs::read_to_string(&manifest_path)
                    && let Ok(old) = serde_json::from_str::<Manifest>(&old)
                    && old.isa != manifest.isa
                {
                    return Err(Error::input(
                        dir.display(),
                        format!("was begun with instruction set {}: go on with --isa {}", old.isa, old.isa),
                    ));
                }
            }
            Err(_) => write_atomic(&config_path, config.as_bytes())?,
        }
        let text = serde_json::to_string_pretty(manifest).expect("a manifest is plain data") + "\n";
        write_atomic(&manifest_path, text.as_bytes())?;

        let journal_path = dir.join("journal.jsonl");
        let mut done = HashMap::new();
        let mut whole = 0;
        if let Ok(text) = std::fs::read_to_string(&journal_path) {
            // A kill can leave half a line at the end: it is cut off and its cell runs again.
            for line in text.split_inclusive('\n') {
                let Ok(entry) = serde_json::from_str::<Entry>(line) else { break };
                if !line.ends_with('\n') {
                    break;
                }
                done.insert(entry.cell, entry.findings);
                whole += line.len() as u64;
            }
        }
        let journal = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(&journal_path)
            .map_err(Error::io("open", &journal_path))?;
        journal.set_len(whole).map_err(Error::io("write", &journal_path))?;
        let mut this = Self { dir: dir.to_owned(), journal, done, timings: Vec::new(), _lock: lock };
        std::io::Seek::seek(&mut this.journal, std::io::SeekFrom::End(0)).map_err(Error::io("write", &journal_path))?;
        Ok(this)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether `cell` still has to be computed.
    pub fn pending(&self, cell: &str) -> bool {
        !self.done.contains_key(cell)
    }

    /// What `cell` found: from the journal if it is done, else computed by `work` and noted there.
    pub fn cell(&mut self, cell: &str, work: impl FnOnce() -> Result<Findings>) -> Result<&Findings> {
        if !self.done.contains_key(cell) {
            let start = Instant::now();
            let entry = Entry { cell: cell.to_owned(), findings: work()? };
            let line = serde_json::to_string(&entry).expect("rows are plain data") + "\n";
            let path = self.dir.join("journal.jsonl");
            self.journal
                .write_all(line.as_bytes())
                .and_then(|()| self.journal.sync_data())
                .map_err(Error::io("write", &path))?;
            self.timings.push((entry.cell.clone(), start.elapsed().as_secs_f64(), entry.findings.cost));
            self.done.insert(entry.cell, entry.findings);
        }
        Ok(&self.done[cell])
    }

    /// Notes the wall time of a stage that has no rows.
    pub fn note_time(&mut self, stage: &str, seconds: f64, cost: Cost) {
        self.timings.push((stage.to_owned(), seconds, cost));
    }

    /// Writes `results.csv` (and `timings.csv`, for what this process ran) and returns all rows, sorted.
    pub fn finish(self) -> Result<Vec<Row>> {
        let mut rows: Vec<Row> = self.done.into_values().flat_map(|findings| findings.rows).collect();
        write_csv(&self.dir.join("results.csv"), &mut rows)?;
        if !self.timings.is_empty() {
            let mut text = String::from("stage,seconds,forward_tokens,trained_tokens,unshared_tokens,flops\n");
            for (stage, seconds, cost) in &self.timings {
                let Cost { forward_tokens, trained_tokens, unshared_tokens, flops } = cost;
                text +=
                    &format!("{stage},{seconds:.3},{forward_tokens},{trained_tokens},{unshared_tokens},{flops:.3e}\n");
            }
            write_atomic(&self.dir.join("timings.csv"), text.as_bytes())?;
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            version: "0".into(),
            commit: String::new(),
            arguments: vec![],
            device: "cpu".into(),
            isa: "scalar".into(),
        }
    }

    fn row(example: &str, value: f64) -> Row {
        Row {
            experiment: "e3".into(),
            model: "base".into(),
            attack: "prefill".into(),
            setting: String::new(),
            k: Some(5),
            seed: 0,
            example: example.into(),
            metric: "harmful".into(),
            value,
        }
    }

    #[test]
    fn a_killed_run_goes_on_and_gives_the_same_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let (whole, killed) = (temp.path().join("whole"), temp.path().join("killed"));
        let run = |dir: &Path, cells: &[(&str, f64)]| {
            let mut folder = RunFolder::open(dir, &"config", &manifest()).unwrap();
            for &(cell, value) in cells {
                folder.cell(cell, || Ok(vec![row(cell, value)].into())).unwrap();
            }
            folder
        };
        run(&whole, &[("b", 1.0), ("a", 0.25)]).finish().unwrap();
        drop(run(&killed, &[("a", 0.25)]));
        // Half a line, as a kill leaves it.
        let journal = killed.join("journal.jsonl");
        let text = std::fs::read_to_string(&journal).unwrap();
        std::fs::write(&journal, format!("{text}{}", &text[..text.len() / 2])).unwrap();
        let mut folder = run(&killed, &[]);
        folder.cell("a", || panic!("cell a is done")).unwrap();
        folder.cell("b", || Ok(vec![row("b", 1.0)].into())).unwrap();
        folder.finish().unwrap();
        let read = |dir: &Path| std::fs::read(dir.join("results.csv")).unwrap();
        assert_eq!(read(&whole), read(&killed));
    }

    #[test]
    fn another_config_a_second_process_and_another_isa_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let open = |config: &str, manifest: &Manifest| RunFolder::open(temp.path(), &config, manifest).map(drop);
        let first = RunFolder::open(temp.path(), &"a", &manifest()).unwrap();
        assert!(open("a", &manifest()).unwrap_err().to_string().contains("another process"));
        drop(first);
        assert!(open("b", &manifest()).unwrap_err().to_string().contains("another configuration"));
        let other = Manifest { isa: "avx2".into(), ..manifest() };
        assert!(open("a", &other).unwrap_err().to_string().contains("--isa scalar"));
        open("a", &manifest()).unwrap();
    }
}

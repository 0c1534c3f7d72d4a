//! `journal.jsonl`: the finished cells of a run, one a line, as they come.

use super::Findings;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Name of the file in a run folder.
pub(super) const NAME: &str = "journal.jsonl";

#[derive(Serialize, Deserialize)]
struct Entry {
    cell: String,
    #[serde(flatten)]
    findings: Findings,
}

/// An open journal.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

/// Finished cells by name.
pub(super) type Cells = BTreeMap<String, Findings>;

impl Journal {
    /// Opens the journal of `dir`. A kill can leave part of a line at the end: it is cut off and its cell runs again.
    pub fn open(dir: &Path) -> Result<(Self, Cells)> {
        let path = dir.join(NAME);
        let (cells, whole) = read(&path)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let mut file = file.map_err(Error::io("open", &path))?;
        file.set_len(whole).and_then(|()| file.seek(SeekFrom::End(0))).map_err(Error::io("write", &path))?;
        Ok((Self { path, file }, cells))
    }

    /// Adds a cell; when this returns it is on the disk.
    pub fn add(&mut self, cell: String, findings: Findings) -> Result<(String, Findings)> {
        let entry = Entry { cell, findings };
        let line = line(&entry);
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(Error::io("write", &self.path))?;
        Ok((entry.cell, entry.findings))
    }
}

fn line(entry: &Entry) -> String {
    serde_json::to_string(entry).expect("findings are plain data") + "\n"
}

/// The whole cells of a journal, and how many bytes they are.
pub(super) fn read(path: &Path) -> Result<(Cells, u64)> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let mut cells = Cells::new();
    let mut whole = 0;
    for (number, line) in (1..).zip(bytes.split_inclusive(|&byte| byte == b'\n')) {
        match serde_json::from_slice::<Entry>(line) {
            Ok(entry) if line.ends_with(b"\n") => {
                cells.insert(entry.cell, entry.findings);
                whole += line.len();
            }
            _ if whole + line.len() == bytes.len() => {}
            _ => {
                let place = format!("{}:{number}", path.display());
                return Err(Error::input(place, "is damaged: remove that line, and its cell runs again"));
            }
        }
    }
    Ok((cells, whole as u64))
}

/// The bytes of a journal of `cells`.
pub(super) fn bytes(cells: Cells) -> Vec<u8> {
    cells.into_iter().flat_map(|(cell, findings)| line(&Entry { cell, findings }).into_bytes()).collect()
}

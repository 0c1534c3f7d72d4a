//! `OUTPUT.partial`: the finished parts of one long output as they come. A killed command that is started again goes on
//! from it; a finished one removes it.

use crate::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// An open file of parts: a line that says what the output depends on, then a line a part.
pub struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    /// Opens the parts of `output`, and reads those that are there. `of` names everything that the output depends on:
    /// parts of anything else are dropped.
    pub fn open<T: DeserializeOwned>(output: &Path, of: &str) -> Result<(Self, Vec<(usize, T)>)> {
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let path = output.with_file_name(name);
        let head = format!("{of}\n");
        let bytes = std::fs::read(&path).unwrap_or_default();
        let mut parts = Vec::new();
        let mut whole = 0;
        if bytes.starts_with(head.as_bytes()) {
            whole = head.len();
            // A kill can leave part of a line at the end: that part is done again.
            for line in bytes[whole..].split_inclusive(|&byte| byte == b'\n') {
                match serde_json::from_slice(line) {
                    Ok(part) if line.ends_with(b"\n") => parts.push(part),
                    _ => break,
                }
                whole += line.len();
            }
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let mut file = file.map_err(Error::io("open", &path))?;
        let written = file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0)));
        written.map_err(Error::io("write", &path))?;
        let mut partial = Self { path, file };
        if whole == 0 {
            partial.write(head.as_bytes())?;
        }
        Ok((partial, parts))
    }

    /// Adds a part; when this returns a kill of this process cannot undo it.
    pub fn add(&mut self, part: usize, value: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(&(part, value)).expect("parts are plain data") + "\n";
        self.write(line.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }

    /// The output is whole: its parts are needed no more.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_part_is_dropped_and_so_are_parts_of_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out.jsonl");
        let open = |of: &str| Partial::open::<String>(&output, of).unwrap();
        let (mut partial, parts) = open("a");
        assert!(parts.is_empty());
        partial.add(3, &"three").unwrap();
        partial.add(1, &"one").unwrap();
        let path = partial.path.clone();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let (mut partial, parts) = open("a");
        assert_eq!(parts, [(3, "three".to_owned())]);
        partial.add(1, &"one").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        let (partial, parts) = open("b");
        assert!(parts.is_empty());
        partial.remove().unwrap();
        assert!(!path.exists());
    }
}

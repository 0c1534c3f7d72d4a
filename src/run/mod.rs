//! Runs: a folder that says what was asked, keeps what is done, and can be gone on with after a kill.

pub mod console;
pub mod costs;
mod difference;
mod folder;
mod journal;
pub mod judgements;
mod manifest;
mod merge;
mod number;
mod partial;
mod rows;
mod shard;
mod tables;
mod timings;

pub use console::{Bar, Console};
pub use folder::RunFolder;
pub use manifest::{InputFile, Manifest, hash_inputs};
pub use merge::merge;
pub use partial::Partial;
pub use rows::{Cost, ExampleRow, Findings, Response, Row};
pub use shard::Shard;
pub use tables::write_csv;
pub use timings::Timing;

use crate::{Error, Result};
use std::io::Write;
use std::path::Path;

/// Writes a file so that it is either the old one or the whole new one: a temporary file beside it, then a rename.
pub fn write_atomic(path: &Path, contents: &[u8]) -> Result<()> {
    let mut name = path.file_name().expect("a file path").to_os_string();
    name.push(".tmp");
    let partial = path.with_file_name(name);
    let mut file = std::fs::File::create(&partial).map_err(Error::io("create", &partial))?;
    file.write_all(contents).and_then(|()| file.sync_all()).map_err(Error::io("write", &partial))?;
    std::fs::rename(&partial, path).map_err(Error::io("write", path))
}

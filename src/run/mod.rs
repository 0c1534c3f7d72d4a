//! Runs: a folder that says what was asked, keeps what is done, and can be gone on with after a kill.

pub mod console;
mod folder;
mod rows;

pub use console::{Bar, Console};
pub use folder::{Manifest, RunFolder};
pub use rows::{Cost, Findings, Response, Row, write_csv};

use crate::{Error, Result};
use std::io::Write;
use std::path::Path;

/// Writes a file so that it is either the old one or the whole new one: a temporary file beside it, then a rename.
pub fn write_atomic(path: &Path, contents: &[u8]) -> Result<()> {
    let mut name = path.file_name().expect("a file path").to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let mut file = std::fs::File::create(&partial).map_err(Error::io("create", &partial))?;
    file.write_all(contents).and_then(|()| file.sync_all()).map_err(Error::io("write", &partial))?;
    std::fs::rename(&partial, path).map_err(Error::io("write", path))
}

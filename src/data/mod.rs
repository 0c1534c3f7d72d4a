//! What models are trained on and asked: the fictional world, and the file formats of the field.

mod fields;
pub mod folder;
pub mod pairs;
pub mod preferences;
mod records;
pub mod triplets;
pub mod world;

use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The files in a folder, by name.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut files = paths.map_err(Error::io("read", dir))?;
    files.retain(|file| file.is_file());
    files.sort();
    Ok(files)
}

//! `timings.csv`: what each stage cost, over all processes that worked on a folder.
//!
//! Lines are added as stages end, so that a kill loses none; a stage that ran again after a kill has two.

use super::Cost;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Name of the file in a run folder.
pub(super) const NAME: &str = "timings.csv";
const HEADER: &str = "stage,seconds,forward_tokens,trained_tokens,unshared_tokens,flops\n";

/// What one stage cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    pub stage: String,
    pub seconds: f64,
    pub cost: Cost,
}

/// A line of the file: `csv` cannot flatten numbers.
#[derive(Serialize, Deserialize)]
struct Line {
    stage: String,
    seconds: f64,
    forward_tokens: u64,
    trained_tokens: u64,
    unshared_tokens: u64,
    flops: f64,
}

/// An open list of timings.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// Those of earlier processes too.
    pub timings: Vec<Timing>,
}

impl Log {
    /// Opens the list of `dir`; a line that a kill cut short is dropped.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(NAME);
        let (timings, whole) = read(&path)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let mut file = file.map_err(Error::io("open", &path))?;
        file.set_len(whole).and_then(|()| file.seek(SeekFrom::End(0))).map_err(Error::io("write", &path))?;
        if whole == 0 {
            file.write_all(HEADER.as_bytes()).map_err(Error::io("write", &path))?;
        }
        Ok(Self { path, file, timings })
    }

    pub fn add(&mut self, stage: &str, seconds: f64, cost: Cost) -> Result<()> {
        // A line break in a name would look like the end of a line that a kill cut short.
        let timing = Timing { stage: stage.replace(['\n', '\r'], " "), seconds, cost };
        self.file.write_all(line(&timing).as_bytes()).map_err(Error::io("write", &self.path))?;
        self.timings.push(timing);
        Ok(())
    }
}

fn line(timing: &Timing) -> String {
    let Cost { forward_tokens, trained_tokens, unshared_tokens, flops } = timing.cost;
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    // Milliseconds are what a clock on a busy machine is good for.
    let seconds = (timing.seconds * 1e3).round() / 1e3;
    let line = Line { stage: timing.stage.clone(), seconds, forward_tokens, trained_tokens, unshared_tokens, flops };
    writer.serialize(line).expect("memory takes everything");
    String::from_utf8(writer.into_inner().expect("memory takes everything")).expect("csv keeps text as it is")
}

/// The timings of a file, and how many bytes of it are whole lines.
pub(super) fn read(path: &Path) -> Result<(Vec<Timing>, u64)> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let lines = csv::Reader::from_reader(&bytes[..whole]).into_deserialize().map(|line| {
        let Line { stage, seconds, forward_tokens, trained_tokens, unshared_tokens, flops } = line?;
        Ok(Timing { stage, seconds, cost: Cost { forward_tokens, trained_tokens, unshared_tokens, flops } })
    });
    let timings: csv::Result<Vec<Timing>> = lines.collect();
    let timings = timings.map_err(|error| Error::input(path.display(), format!("is damaged ({error}): remove it")))?;
    Ok((timings, whole as u64))
}

/// The bytes of a file of `timings`.
pub(super) fn bytes(timings: &[Timing]) -> Vec<u8> {
    let lines: String = timings.iter().map(line).collect();
    (HEADER.to_owned() + &lines).into_bytes()
}

//! A run's finished files, sorted by key, so that they do not depend on the order in which cells came.

use super::{ExampleRow, Response, Row, write_atomic};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Sorts rows by key; rows of one key (there should be none) by value.
pub(super) fn sort(rows: &mut [Row]) {
    rows.sort_by(|a, b| a.key().cmp(&b.key()).then(a.value.total_cmp(&b.value)));
}

/// Writes `results.csv` and `csv/<experiment>.csv` for rows that [`sort`] has put in order.
pub(super) fn write_results(dir: &Path, rows: &[Row]) -> Result<()> {
    let folder = dir.join("csv");
    std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    for part in rows.chunk_by(|a, b| a.experiment == b.experiment) {
        write_csv(&folder.join(format!("{}.csv", part[0].experiment)), part)?;
    }
    write_csv(&dir.join("results.csv"), rows)
}

/// Writes `responses.jsonl`; nothing where there are none.
pub(super) fn write_responses(dir: &Path, mut responses: Vec<&Response>) -> Result<()> {
    if responses.is_empty() {
        return Ok(());
    }
    responses.sort_by(|a, b| a.key().cmp(&b.key()));
    let mut text = Vec::new();
    for response in responses {
        serde_json::to_writer(&mut text, response).expect("a response is plain data");
        text.push(b'\n');
    }
    write_atomic(&dir.join("responses.jsonl"), &text)
}

/// Writes `examples.csv`; nothing where there are none.
pub(super) fn write_examples(dir: &Path, examples: &BTreeMap<String, ExampleRow>) -> Result<()> {
    if examples.is_empty() { Ok(()) } else { write_csv(&dir.join("examples.csv"), examples.values()) }
}

/// The examples that an earlier process noted.
pub(super) fn read_examples(dir: &Path) -> Result<BTreeMap<String, ExampleRow>> {
    let path = dir.join("examples.csv");
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let damaged = |error| Error::input(path.display(), format!("is damaged ({error}): remove it"));
    let rows = csv::Reader::from_path(&path).map_err(damaged)?.into_deserialize();
    rows.map(|row: csv::Result<ExampleRow>| row.map(|row| (row.example.clone(), row)).map_err(damaged)).collect()
}

/// Writes rows as CSV with a header; the file is the old one or the whole new one.
pub fn write_csv<T: Serialize>(path: &Path, rows: impl IntoIterator<Item = T>) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = rows.into_iter().try_for_each(|row| writer.serialize(row));
    let bytes = written.and_then(|()| writer.into_inner().map_err(|error| error.into_error().into()));
    let bytes = bytes.map_err(|error| Error::input(path.display(), format!("cannot be written: {error}")))?;
    write_atomic(path, &bytes)
}

//! Files as lists of records, whatever their container: JSON lines, a JSON list, CSV, TSV, or one prompt a line.
//!
//! The container is told by the extension, and within `.json` by the first line; never by what texts say.

use crate::model::json::without_position;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// One example as its file has it. Keys are in lower case.
pub(super) struct Record {
    /// Number of the line, or of the item in a JSON list, from 1.
    pub number: u64,
    /// Path and number, for messages.
    pub place: String,
    pub fields: Map<String, Value>,
}

/// Extensions of the files that [`read`] knows.
pub(super) const EXTENSIONS: [&str; 5] = ["jsonl", "json", "csv", "tsv", "txt"];

/// The records of a file, in order.
///
/// # Errors
/// Names the file and line of the first bad one.
pub(super) fn read(path: &Path) -> Result<Vec<Record>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    match extension.to_str().unwrap_or_default() {
        "jsonl" => json_lines(path, bytes),
        "json" => json(path, bytes),
        "csv" if is_bare_list(path) => bare_list(path, bytes),
        "csv" => table(path, bytes, b','),
        "tsv" => table(path, bytes, b'\t'),
        "txt" => text_lines(path, bytes),
        // Pipes and files of other names, as long as they look like JSON lines.
        _ if matches!(bytes.trim_ascii_start().first(), None | Some(b'{' | b'[')) => json_lines(path, bytes),
        _ => Err(Error::input(path.display(), format!("is of no known format: name it .{}", EXTENSIONS.join(", .")))),
    }
}

fn lines<'a>(path: &'a Path, bytes: &'a [u8]) -> impl Iterator<Item = Result<(u64, String, &'a str)>> {
    (1..).zip(bytes.split(|&byte| byte == b'\n')).filter_map(move |(number, line)| {
        let place = format!("{}:{number}", path.display());
        match std::str::from_utf8(line).map(str::trim) {
            Ok("") => None,
            Ok(line) => Some(Ok((number, place, line))),
            Err(_) => Some(Err(Error::input(place, "is not UTF-8 text"))),
        }
    })
}

fn text_lines(path: &Path, bytes: &[u8]) -> Result<Vec<Record>> {
    let record = |line: Result<(u64, String, &str)>| {
        let (number, place, text) = line?;
        Ok(Record { number, place, fields: prompt(text) })
    };
    lines(path, bytes).map(record).collect()
}

fn prompt(text: &str) -> Map<String, Value> {
    [("prompt".to_owned(), text.into())].into_iter().collect()
}

fn json_lines(path: &Path, bytes: &[u8]) -> Result<Vec<Record>> {
    let record = |line: Result<(u64, String, &str)>| {
        let (number, place, text) = line?;
        let value = serde_json::from_str(text)
            .map_err(|error| Error::input(&place, format!("is not valid JSON: {}", without_position(&error))))?;
        Ok(Record { number, fields: object(value).map_err(|problem| Error::input(&place, problem))?, place })
    };
    lines(path, bytes).map(record).collect()
}

/// A JSON list of records, or JSON lines under that name.
fn json(path: &Path, bytes: &[u8]) -> Result<Vec<Record>> {
    let items = match serde_json::from_slice(bytes) {
        Ok(Value::Array(items)) => items,
        Ok(item) => vec![item],
        Err(error) => {
            let first = lines(path, bytes).next().transpose()?;
            if first.is_none_or(|(_, _, line)| serde_json::from_str::<Value>(line).is_ok()) {
                return json_lines(path, bytes);
            }
            let place = format!("{}:{}", path.display(), error.line());
            return Err(Error::input(place, format!("is not valid JSON: {}", without_position(&error))));
        }
    };
    let record = |(number, item)| {
        let place = format!("{}: item {number}", path.display());
        Ok(Record { number, fields: object(item).map_err(|problem| Error::input(&place, problem))?, place })
    };
    (1..).zip(items).map(record).collect()
}

/// The fields of a JSON record; a list is a conversation.
fn object(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(fields) => Ok(lower_case(fields)),
        messages @ Value::Array(_) => Ok([("messages".to_owned(), messages)].into_iter().collect()),
        _ => Err("is neither a JSON object nor a list of messages".to_owned()),
    }
}

/// Keys as they are compared; of two that differ in case only the first stays.
fn lower_case(fields: impl IntoIterator<Item = (String, Value)>) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, value) in fields {
        map.entry(key.trim().to_lowercase()).or_insert(value);
    }
    map
}

/// A table with a header. Empty cells are left out.
fn table(path: &Path, bytes: &[u8], delimiter: u8) -> Result<Vec<Record>> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let header = reader.headers().map_err(|error| table_error(path, &error))?.clone();
    let record = |row: csv::Result<csv::StringRecord>| {
        let row = row.map_err(|error| table_error(path, &error))?;
        let number = row.position().map_or(0, csv::Position::line);
        let cells = header.iter().zip(&row).filter(|(_, cell)| !cell.is_empty());
        let fields = lower_case(cells.map(|(key, cell)| (key.to_owned(), cell.into())));
        Ok(Record { number, place: format!("{}:{number}", path.display()), fields })
    };
    reader.records().map(record).collect()
}

/// HEx-PHI as its authors publish it is a table a category, `category_1.csv` and so on, without a header.
fn is_bare_list(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"category_"))
}

/// One text a record; the file's name is the category.
fn bare_list(path: &Path, bytes: &[u8]) -> Result<Vec<Record>> {
    let category = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let record = |row: csv::Result<csv::StringRecord>| {
        let row = row.map_err(|error| table_error(path, &error))?;
        let number = row.position().map_or(0, csv::Position::line);
        // A comma without quotes is part of the text.
        let mut fields = prompt(&row.iter().collect::<Vec<_>>().join(","));
        fields.insert("category".to_owned(), category.as_ref().into());
        Ok(Record { number, place: format!("{}:{number}", path.display()), fields })
    };
    reader.records().map(record).collect()
}

fn table_error(path: &Path, error: &csv::Error) -> Error {
    let line = error.position().map_or(1, csv::Position::line);
    let problem = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "is not UTF-8 text".to_owned(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} fields where the header has {expected_len}: quote texts that hold commas")
        }
        _ => format!("is not a table: {error}"),
    };
    Error::input(format_args!("{}:{line}", path.display()), problem)
}

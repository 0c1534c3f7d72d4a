//! `--config FILE.toml`: its keys become options in front of those on the command line, which therefore win.

use crate::{Error, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Inserts the options of a config file, if one is named, right after the subcommand.
pub(super) fn expand(arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    let Some(path) = config_path(&arguments) else { return Ok(arguments) };
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        Error::input(format!("{}:{line}", path.display()), error.message().to_owned())
    })?;
    let position = arguments.iter().skip(1).position(|argument| table_of(&table, argument).is_some());
    let subcommand = position.map(|position| position + 1);
    let mut options = Vec::new();
    for (key, value) in &table {
        if !value.is_table() {
            push(&path, key, value, &mut options)?;
        }
    }
    if let Some(table) = subcommand.and_then(|at| table_of(&table, &arguments[at])) {
        for (key, value) in table {
            push(&path, key, value, &mut options)?;
        }
    }
    // Without a table for the subcommand the global options still apply: clap takes them anywhere after it.
    let at = subcommand.unwrap_or_else(|| first_word(&arguments)).min(arguments.len() - 1) + 1;
    let mut expanded = arguments;
    expanded.splice(at..at, options);
    Ok(expanded)
}

fn table_of<'a>(table: &'a toml::Table, argument: &OsString) -> Option<&'a toml::Table> {
    table.get(argument.to_str()?)?.as_table()
}

/// The first argument that is not an option: the subcommand.
fn first_word(arguments: &[OsString]) -> usize {
    let word = |argument: &OsString| !argument.to_string_lossy().starts_with('-');
    arguments.iter().skip(1).position(word).map_or(0, |position| position + 1)
}

fn config_path(arguments: &[OsString]) -> Option<PathBuf> {
    for (i, argument) in arguments.iter().enumerate().skip(1) {
        if argument == "--config" {
            return arguments.get(i + 1).map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|argument| argument.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    None
}

fn push(path: &Path, key: &str, value: &toml::Value, options: &mut Vec<OsString>) -> Result<()> {
    let scalar = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        _ => None,
    };
    // The model folder is no option: it stands on the command line.
    if key == "model" {
        return Ok(());
    }
    let name = format!("--{}", key.replace('_', "-"));
    let text = match value {
        toml::Value::Boolean(true) => {
            options.push(name.into());
            return Ok(());
        }
        toml::Value::Boolean(false) => return Ok(()),
        toml::Value::Array(values) => {
            values.iter().map(scalar).collect::<Option<Vec<_>>>().map(|values| values.join(","))
        }
        value => scalar(value),
    };
    let text =
        text.ok_or_else(|| Error::input(path.display(), format!("{key} is neither a number, a text nor a list")))?;
    options.push(format!("{name}={text}").into());
    Ok(())
}

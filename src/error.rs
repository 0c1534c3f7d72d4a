//! Errors a user can read: one sentence that says what, where, and what to do.

use std::path::{Path, PathBuf};

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by who can mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a configuration file asks for something impossible. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A file is there but its contents are wrong. `place` is a path, with `:line` where there is one.
    #[error("{place}: {problem}")]
    Input { place: String, problem: String },
    /// The operating system refused a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// The device (CPU or GPU) cannot do what was asked.
    #[error("{0}")]
    Device(String),
}

impl Error {
    /// A wrong file: `place` is its path (and line), `problem` one clause that ends with the remedy.
    pub fn input(place: impl std::fmt::Display, problem: impl Into<String>) -> Self {
        Self::Input { place: place.to_string(), problem: problem.into() }
    }

    /// An I/O error with the path it happened at. `action` is a verb: "read", "create".
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// The process exit code: 2 for usage, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            _ => 1,
        }
    }
}

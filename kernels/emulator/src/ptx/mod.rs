//! PTX as nvcc 13.0 writes it: text to tokens ([`lex`]), tokens to functions and variables ([`parse`]), those to typed
//! operations with resolved registers ([`decode`]), and those packed into few registers ([`registers`]).

pub mod convert;
pub mod decode;
pub mod hopper;
pub mod lex;
pub mod op;
mod opcode;
mod opcode_memory;
mod operand;
pub mod parse;
pub mod registers;
pub mod types;
pub mod watch;

/// Why a module cannot be loaded: the line of the PTX text and what is wrong there.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    pub line: u32,
    pub what: String,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.what)
    }
}

pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn error<T>(line: u32, what: impl Into<String>) -> Result<T> {
    Err(Error { line, what: what.into() })
}

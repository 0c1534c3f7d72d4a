//! `safedepth`: how many tokens deep is this model's safety, what breaks it, and what mends it.

use std::process::ExitCode;

fn main() -> ExitCode {
    safedepth::cli::main()
}

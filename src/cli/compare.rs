//! `safedepth compare`: two finished runs side by side.

use super::Global;
use crate::report::compare::compare;
use crate::report::load::Run;
use crate::run::write_atomic;
use crate::{Error, Result};
use clap::Args;
use std::path::PathBuf;

/// Show two runs side by side: every setting that both have, with the difference on shared prompts, its 95 % interval and
/// p from a paired bootstrap; the verdicts on the paper's claims; and what differs in what was asked.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// The first run's folder.
    #[arg(value_name = "RUN_A")]
    a: PathBuf,
    /// The second run's folder: differences are this one minus the first.
    #[arg(value_name = "RUN_B")]
    b: PathBuf,
    /// Also write a page that needs nothing else.
    #[arg(long, value_name = "FILE.html")]
    output: Option<PathBuf>,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let (a, b) = (Run::read(&arguments.a)?, Run::read(&arguments.b)?);
    let comparison = compare(&a, &b);
    if comparison.lines.is_empty() {
        let (a, b) = (arguments.a.display(), arguments.b.display());
        return Err(Error::input(
            a,
            format!("has no setting in common with {b}: compare runs of the same experiments"),
        ));
    }
    if global.json {
        for line in &comparison.lines {
            println!("{}", serde_json::to_string(line).expect("a line is plain data"));
        }
    } else {
        println!("A is {}, B is {}. {}", a.name, b.name, comparison.note());
        comparison.tables().iter().for_each(|table| print!("\n{}", table.to_text()));
    }
    if let Some(output) = &arguments.output {
        write_atomic(output, comparison.page([&a.name, &b.name]).as_bytes())?;
        global.note(format_args!("comparison in {}", output.display()));
    }
    Ok(())
}

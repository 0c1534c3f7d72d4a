//! `safedepth report`: tables, claims, figures and the page of a finished run.

use super::Global;
use crate::Result;
use crate::report::{self, Report};
use clap::Args;
use std::path::PathBuf;

/// Make a run's report anew: summary.csv, claims.csv, plots/*.svg and report.html, one page that needs nothing else.
///
/// Only results.csv must be there. With examples.csv numbers are also shown by category, with responses.jsonl the page
/// shows responses, with timings.csv, manifest.json and config.json what the run cost and what it ran on.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// The run's folder.
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let report = report::write(&arguments.run)?;
    print(global, &report);
    global.note(format_args!("report in {}", arguments.run.join("report.html").display()));
    Ok(())
}

/// A report on standard output: tables, or with --json a line a number and a line a claim.
pub(super) fn print(global: &Global, report: &Report) {
    if global.json {
        for line in &report.summary {
            println!("{}", serde_json::to_string(line).expect("a summary is plain data"));
        }
        for finding in &report.claims {
            println!("{}", serde_json::to_string(finding).expect("a finding is plain data"));
        }
    } else {
        print!("{}", report.text());
    }
}

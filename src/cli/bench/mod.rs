//! `safedepth bench`: how fast, and how far from what the machine can do.

pub(super) mod kernels;
mod workloads;

use super::Global;
use crate::Result;
use crate::device::Backend;
use crate::ops::Ops;
use clap::{Args, Subcommand};

/// Time every operation (kernels), or whole workloads on a model folder (model).
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    Kernels(kernels::Arguments),
    Model(workloads::Arguments),
}

pub(super) fn run<D: Ops>(global: &Global, device: D, arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Kernels(arguments) => kernels::run(global, &device, arguments),
        What::Model(arguments) => workloads::run(global, device, arguments),
    }
}

/// Median seconds of `repeats` runs after `warmup` uncounted ones, each until the device is done, by its own clock.
fn median_seconds(
    device: &impl Backend,
    warmup: usize,
    repeats: usize,
    mut work: impl FnMut() -> Result<()>,
) -> Result<f64> {
    for _ in 0..warmup {
        work()?;
    }
    device.synchronize()?;
    Ok(median((0..repeats).map(|_| device.time(&mut work)).collect::<Result<Vec<f64>>>()?))
}

/// The middle value, or the mean of both.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] }
}

/// Most memory this process has had resident, MiB.
fn peak_rss_mb() -> f64 {
    status_kib("VmHWM:").unwrap_or(0.0) / 1024.0
}

/// A line of `/proc/self/status`, KiB; `None` where there is no such file.
fn status_kib(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)?.trim().trim_end_matches(" kB").parse().ok())
}

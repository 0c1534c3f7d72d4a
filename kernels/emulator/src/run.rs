//! Running a program on the emulator: the library under the names that programs look for, first in their search path.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The exit code where the program succeeded and its kernels did not.
pub const FAULTS: u8 = 3;

/// The names that programs look for: cudarc tries libcuda.so before libcuda.so.1, so one alone could load a real driver.
const NAMES: [&str; 5] = ["libcuda.so", "libcuda.so.1", "libcublasLt.so", "libcublasLt.so.13", "libcublasLt.so.12"];

/// The shared library lies beside this program, or where cargo puts it for tests.
fn library() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program's folder: {error}"))?;
    let folder = program.parent().unwrap_or(Path::new("."));
    let candidates = [folder.join("libsafedepth_emulator.so"), folder.join("deps/libsafedepth_emulator.so")];
    // `cargo build` writes the first and `cargo test` the second: the older one may be another version's.
    let written = |path: &PathBuf| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    let found = candidates.into_iter().filter(|path| path.exists()).max_by_key(written);
    found.ok_or(format!("libsafedepth_emulator.so is not in {}: build the whole package", folder.display()))
}

/// Runs `command` on the emulator and returns its exit code, or [`FAULTS`] where it succeeded but faults were reported.
///
/// Works from any program that cargo built beside the library, so that a crate's tests can run themselves as a child.
pub fn run(command: &mut Command) -> Result<u8, String> {
    let library = library()?;
    // Several runs may be started by one process at a time.
    static RUNS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = RUNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("safedepth-emulator-{}-{number}", std::process::id()));
    let fail = |what: &str, error: std::io::Error| format!("cannot {what} {}: {error}", folder.display());
    std::fs::create_dir_all(&folder).map_err(|error| fail("make", error))?;
    for name in NAMES {
        std::os::unix::fs::symlink(&library, folder.join(name)).map_err(|error| fail("link the library in", error))?;
    }
    let report = folder.join("reports");
    // The program's own list of reports is kept where the user wants it; the exit code needs one in any case.
    let listed = std::env::var_os("SAFEDEPTH_EMULATOR_REPORT").map_or(report, PathBuf::from);
    let before = std::fs::metadata(&listed).map_or(0, |data| data.len());
    let mut path = folder.clone().into_os_string();
    // The command's own search path, where it was given one, follows.
    let given = command.get_envs().find(|(name, _)| *name == "LD_LIBRARY_PATH").map(|(_, value)| value.map(Into::into));
    let old = given.unwrap_or_else(|| std::env::var_os("LD_LIBRARY_PATH"));
    if let Some(old) = old.filter(|old| !old.is_empty()) {
        path.push(":");
        path.push(old);
    }
    let status = command.env("LD_LIBRARY_PATH", path).env("SAFEDEPTH_EMULATOR_REPORT", &listed).status();
    let faults = std::fs::metadata(&listed).map_or(0, |data| data.len()) > before;
    // The folder holds links and the report file only; what cannot be removed is left to the system's cleaning.
    let _ = std::fs::remove_dir_all(&folder);
    let status = status.map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))?;
    Ok(match status.code() {
        Some(0) if faults => FAULTS,
        Some(code) => code as u8,
        // Killed by a signal.
        None => 1,
    })
}

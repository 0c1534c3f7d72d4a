//! Notes the commit the program is built from, for the manifests of runs, and compiles the GPU kernels where there is nvcc.

#[path = "build/kernels.rs"]
mod kernels;
#[path = "build/ptxas.rs"]
mod ptxas;

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    note_commit();
    kernels::build();
}

fn note_commit() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    // In a work tree of its own .git is a file, and a path that is not there would build the crate every time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    println!("cargo:rustc-env=SAFEDEPTH_COMMIT={commit}{}", if dirty { "-dirty" } else { "" });
}

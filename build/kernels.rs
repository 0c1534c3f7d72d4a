//! Compiles each `kernels/*.cu` once to PTX of its feature level, assembles machine code for the architectures of that level
//! from the PTX, and writes a table of all of it for `device::cuda::modules`. Without nvcc the table is empty.

use crate::ptxas;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// What a kernel's PTX may use, and the architectures that machine code is assembled for.
struct Level {
    features: &'static str,
    architectures: &'static [&'static str],
}

/// Of every kernel but Hopper's own: the architectures can all run this PTX, and newer ones translate it.
const BASE: Level = Level { features: "80", architectures: &["80", "86", "89", "90a"] };
/// Of `kernels/*_sm90.cu`: wgmma and its like run on compute capability 9.0 and on no other, older or newer.
const HOPPER: Level = Level { features: "90a", architectures: &["90a"] };

impl Level {
    fn of(name: &str) -> &'static Self {
        if name.ends_with("_sm90") { &HOPPER } else { &BASE }
    }
}

/// The tools' options that do not depend on the file.
const NVCC: [&str; 5] = ["-ptx", "-lineinfo", "-std=c++17", "-Werror", "all-warnings"];
const PTXAS: [&str; 2] = ["-v", "-lineinfo"];
/// Uncompressed, so that the emulator can read the PTX.
const FATBINARY: [&str; 2] = ["-64", "--compress=false"];
/// Where the kernels lie, beside the emulator, from the crate's root.
const FOLDER: &str = "kernels";

/// A whole toolkit: nvcc, ptxas and fatbinary in one folder.
struct Toolkit {
    bin: PathBuf,
    version: String,
}

pub fn build() {
    println!("cargo:rerun-if-changed={FOLDER}");
    for variable in ["CUDA_HOME", "PATH", "VIRTUAL_ENV"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let sources = files("cu");
    let (modules, table) = match Toolkit::find() {
        Some(toolkit) if !sources.is_empty() => compile_all(&toolkit, &sources, &out),
        _ => {
            println!("cargo:warning=no nvcc in CUDA_HOME, PATH or .venv: building for the CPU only");
            Default::default()
        }
    };
    write_if_changed(&out.join("kernels.rs"), &format!("[{modules}]\n"));
    write_if_changed(&out.join("ptxas.csv"), &table);
}

impl Toolkit {
    fn find() -> Option<Self> {
        let home = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        // pip's packages unpack to site-packages/nvidia/cu13.
        let environments = [std::env::var_os("VIRTUAL_ENV").map(PathBuf::from), Some(PathBuf::from(".venv"))];
        let packages = environments.into_iter().flatten().flat_map(|environment| {
            let versions = fs::read_dir(environment.join("lib")).into_iter().flatten().flatten();
            versions.map(|version| version.path().join("site-packages/nvidia/cu13/bin")).collect::<Vec<_>>()
        });
        home.into_iter().chain(std::env::split_paths(&path)).chain(packages).find_map(|bin| {
            let output = Command::new(bin.join("nvcc")).arg("--version").output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            // "Cuda compilation tools, release 13.0, V13.0.88"
            let version = text.split_whitespace().find_map(|word| word.strip_prefix('V'))?.to_owned();
            Some(Self { bin, version })
        })
    }

    /// Runs a tool and returns what it printed; a failure ends the build with the tool's own words.
    fn run(&self, tool: &str, arguments: &[&str]) -> String {
        let output = Command::new(self.bin.join(tool)).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run {tool} beside nvcc: {error}"));
        let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{tool} {}:\n{text}", arguments.join(" "));
        text.into_owned()
    }
}

/// `kernels/*.EXTENSION`, sorted.
fn files(extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compiles what changed, a source a thread, and returns the table of modules and that of ptxas.
fn compile_all(toolkit: &Toolkit, sources: &[PathBuf], out: &Path) -> (String, String) {
    let queue = Mutex::new(sources.iter());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(source) = { queue.lock().expect("no compile panics with the queue in hand").next() } {
                    compile(toolkit, source, out);
                }
            });
        }
    });
    let (mut modules, mut rows) = (String::new(), Vec::new());
    for source in sources {
        let name = stem(source);
        let ptx = read(&out.join(format!("{name}.ptx")));
        let _ = writeln!(
            modules,
            "Module {{ name: {name:?}, image: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.fatbin\")), kernels: &{:?} }},",
            ptxas::signatures(&ptx)
        );
        for architecture in Level::of(name).architectures {
            rows.extend(ptxas::rows(&read(&out.join(format!("{name}.{architecture}.txt"))), architecture));
        }
    }
    rows.sort();
    (modules, format!("# nvcc {}\n{}\n{}\n", toolkit.version, ptxas::HEADER, rows.join("\n")))
}

fn stem(source: &Path) -> &str {
    source.file_stem().and_then(|stem| stem.to_str()).expect("a kernel's file has a plain name")
}

/// The text of a source and of every header of ours that it includes, each once.
fn with_headers(source: &Path) -> Vec<String> {
    let (mut queue, mut texts) = (vec![source.to_owned()], Vec::new());
    let mut next = 0;
    while let Some(path) = queue.get(next) {
        let text = read(path);
        let included = text.lines().filter_map(|line| line.trim().strip_prefix("#include \"")?.split('"').next());
        let new: Vec<_> =
            included.map(|name| Path::new(FOLDER).join(name)).filter(|path| !queue.contains(path)).collect();
        queue.extend(new);
        texts.push(text);
        next += 1;
    }
    texts
}

/// Writes `NAME.ptx`, `NAME.fatbin` and what ptxas said to `out`, unless they are there of the same text and tools.
fn compile(toolkit: &Toolkit, source: &Path, out: &Path) {
    let name = stem(source);
    let Level { features, architectures } = Level::of(name);
    let place = |extension: &str| out.join(format!("{name}.{extension}")).to_str().expect("a plain path").to_owned();
    let mut hasher = DefaultHasher::new();
    (with_headers(source), &toolkit.version, features, architectures, NVCC, PTXAS, FATBINARY).hash(&mut hasher);
    let hash = hasher.finish().to_string();
    if fs::read_to_string(place("hash")).is_ok_and(|found| found == hash) {
        return;
    }
    let (ptx, fatbin) = (place("ptx"), place("fatbin"));
    let source = source.to_str().expect("a plain path");
    let arch = format!("-arch=compute_{features}");
    toolkit.run("nvcc", &[&NVCC[..], &[&arch, "-o", &ptx, source]].concat());
    let mut images: Vec<String> = FATBINARY.map(str::to_owned).to_vec();
    images.push(format!("--create={fatbin}"));
    for architecture in *architectures {
        let cubin = place(&format!("{architecture}.cubin"));
        let arch = format!("-arch=sm_{architecture}");
        let text = toolkit.run("ptxas", &[&PTXAS[..], &[&arch, "-o", &cubin, &ptx]].concat());
        write_if_changed(Path::new(&place(&format!("{architecture}.txt"))), &text);
        images.push(format!("--image3=kind=elf,sm={architecture},file={cubin}"));
    }
    images.push(format!("--image3=kind=ptx,sm={features},file={ptx}"));
    toolkit.run("fatbinary", &images.iter().map(String::as_str).collect::<Vec<_>>());
    write_if_changed(Path::new(&place("hash")), &hash);
}

fn write_if_changed(path: &Path, text: &str) {
    if !fs::read_to_string(path).is_ok_and(|found| found == text) {
        fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

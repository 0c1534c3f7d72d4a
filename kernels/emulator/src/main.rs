//! `safedepth-emulator run PROGRAM [ARGS]` runs a CUDA program on the emulator; `safedepth-emulator bench` times it.

use safedepth_emulator::device::{Device, Shape};
use safedepth_emulator::isa::{self, gpu::Gpu};
use safedepth_emulator::run::run;
use safedepth_emulator::vm::Settings;
use std::process::{Command, ExitCode};

const USAGE: &str =
    "safedepth-emulator run PROGRAM [ARGS]   runs a CUDA program on the CPU and reports its kernels' faults
safedepth-emulator bench                times the interpreter on a flash-attention kernel
safedepth-emulator isa [gpu|ptx]        holds a micro-kernel of each instruction against the golden vectors: on the
                                        emulator, on a GPU, or prints their PTX

run ends with the program's exit code, or with 3 where the program succeeded but faults were reported.
The README lists the SAFEDEPTH_EMULATOR_* environment variables.";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let outcome = match arguments.first().and_then(|word| word.to_str()) {
        Some("run") if arguments.len() > 1 => {
            run(Command::new(&arguments[1]).args(&arguments[2..])).map(ExitCode::from)
        }
        Some("bench") if arguments.len() == 1 => bench(),
        Some("isa") if arguments.len() <= 2 => isa(arguments.get(1).and_then(|word| word.to_str())),
        Some("--help" | "-h" | "help") => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("safedepth-emulator: {error}");
        ExitCode::FAILURE
    })
}

fn isa(device: Option<&str>) -> Result<ExitCode, String> {
    let wrong = match device {
        None => isa::compare(true, |case| case.emulate(Settings::default())),
        Some("gpu") => {
            let gpu = Gpu::open()?;
            eprintln!("safedepth-emulator: on {}", gpu.name);
            isa::compare(gpu.hopper, |case| gpu.run(case))
        }
        Some("ptx") => {
            isa::cases::all().iter().for_each(|case| println!("// {}\n{}", case.name, case.ptx()));
            0
        }
        Some(other) => return Err(format!("isa runs on the emulator or on `gpu`, or prints `ptx`, but not `{other}`")),
    };
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// CPU time of this thread in seconds: what a neighbour on a shared machine takes is not in it.
fn cpu_seconds() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid clock and a place for its time.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// Warp-instructions a CPU second of one core on causal attention, 2 heads of 512 x 128, with and without detection: the
/// median and the best of 9 launches.
fn bench() -> Result<ExitCode, String> {
    const HEADS: usize = 2;
    const LENGTH: usize = 512;
    const DEPTH: usize = 128;
    let text = include_str!("../tests/cu/flash.ptx");
    println!("kernel,detect,warp_instructions,mma,cpu_seconds,million_per_second,best");
    for detect in [true, false] {
        let mut device = Device::new(Settings { threads: 1, detect, ..Settings::default() });
        let loaded = device.load(text).map_err(|error| error.to_string())?;
        // bf16 values between -1 and 1 without a pattern.
        let values: Vec<u8> = (0..HEADS * LENGTH * DEPTH)
            .flat_map(|i| ((0x3f00 + (i * 7919 % 128) as u16) | ((i as u16 & 1) << 15)).to_le_bytes())
            .collect();
        let mut upload = |bytes: &[u8]| {
            let address = device.memory.allocate(bytes.len() as u64);
            if let Some((buffer, _)) = device.memory.find(address) {
                buffer.write(0, bytes);
            }
            address
        };
        let [q, k, v, o, sums] =
            [&values, &values, &values, &values, &vec![0; 4 * HEADS * LENGTH]].map(|bytes| upload(bytes).to_le_bytes());
        let (length, scale) = ((LENGTH as i32).to_le_bytes(), 0.088f32.to_le_bytes());
        let arguments: [&[u8]; 7] = [&length, &scale, &q, &k, &v, &o, &sums];
        let shape = Shape {
            grid: [LENGTH as u32 / 64, HEADS as u32, 1],
            block: [128, 1, 1],
            dynamic_shared: 5 * 64 * (DEPTH as u32 + 8) * 2,
        };
        let mut times = Vec::new();
        let mut counts = None;
        for _ in 0..9 {
            let start = cpu_seconds();
            let outcome =
                device.launch(&loaded, "flash_128", shape, &arguments).map_err(|refusal| refusal.to_string())?;
            times.push(cpu_seconds() - start);
            if let Some(report) = outcome.reports.first() {
                return Err(format!("the kernel has a fault: {report}"));
            }
            counts = Some(outcome.counts);
        }
        times.sort_by(f64::total_cmp);
        let (median, counts) = (times[times.len() / 2], counts.unwrap_or_default());
        let rate = |seconds: f64| counts.instructions as f64 / seconds * 1e-6;
        let (typical, best) = (rate(median), rate(times[0]));
        println!("flash_128,{detect},{},{},{median:.4},{typical:.2},{best:.2}", counts.instructions, counts.mma);
    }
    Ok(ExitCode::SUCCESS)
}

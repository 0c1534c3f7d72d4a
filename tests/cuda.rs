//! The CUDA backend end to end, without a GPU: the program and the trainer run on the emulator, whose faults are
//! failures, and are held against the CPU.
//!
//! Bounds: both sides compute in f32 and add up in other orders. After two layers a value is off by some 1e-6 of its
//! size; 1e-4 leaves room for a small model's cancellations. Greedy tokens are equal because no two logits of these models
//! are that close.

mod support;

use safedepth::device::{Backend, Cpu, Cuda, DType, cuda};
use safedepth::model::Transformer;
use safedepth::ops::Ops;
use safedepth::train::trainer::Group;
use safedepth::train::{BetaSchedule, Example, Hyper, Objective, Trainer, scoring};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BOUND: f64 = 1e-4;

#[track_caller]
fn close(got: f64, want: f64, what: &str) {
    assert!((got - want).abs() <= BOUND * want.abs().max(1e-3), "{what}: {got} on the GPU, {want} on the CPU");
}

mod training {
    use super::*;

    #[test]
    fn on_the_emulator() {
        support::device::on_the_emulator(module_path!());
    }

    fn examples() -> Vec<Example> {
        let example = |i: u32| {
            let ids: Vec<u32> = (0..4 + 5 * i).map(|t| (t * 13 + i * 5 + 1) % 61).collect();
            Example::new(&ids[..2], &ids[2..])
        };
        (0..4).map(example).collect()
    }

    /// Losses and gradient norms of two steps, then all gradients.
    fn train<D: Ops>(device: D, name: &str, dtype: DType, objective: Objective) -> (Vec<f64>, Vec<f64>) {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
        let model = Transformer::load(device, &folder, Some(dtype)).unwrap().into_owned(Some(dtype)).unwrap();
        let examples = examples();
        let scores = scoring::score(&model, &examples, false, |_| ()).unwrap();
        let reference: Vec<f32> = scores.into_iter().flat_map(|scores| scores.logprob).collect();
        let mut trainer = Trainer::new(model, Hyper::default()).unwrap();
        let mut reports = Vec::new();
        for _ in 0..2 {
            let group = Group { examples: examples.iter().collect(), reference: reference.clone(), weight: 1.0 };
            let report = trainer.step(&[group], objective, 2, 1e-3).unwrap();
            reports.extend([report.loss, report.grad_norm]);
        }
        let device = trainer.model.device.clone();
        let gradients = trainer.gradients().unwrap().iter();
        let gradients = gradients.flat_map(|gradient| gradient.to_vec(&device).unwrap());
        (reports, gradients.map(f64::from).collect())
    }

    fn steps_agree(name: &str, dtype: DType, objective: Objective, bound: f64) {
        let (got, gradient) = train(Cuda::new(0).unwrap(), name, dtype, objective);
        let (want, expected) = train(Cpu::with_isa(safedepth::device::cpu::Isa::Scalar), name, dtype, objective);
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= bound * want.abs().max(1e-2), "{name} {objective:?}: {got:?} {want:?}");
        }
        let gradient: Vec<f32> = gradient.into_iter().map(|g| g as f32).collect();
        let error = support::relative_error(&gradient, &expected);
        assert!(error <= bound, "{name} {objective:?}: gradients are off by {error}");
    }

    const CONSTRAINED: Objective = Objective::Constrained { betas: BetaSchedule::Paper, floor: 0.0 };

    #[test]
    #[ignore = "needs a GPU or the emulator"]
    fn sft() {
        steps_agree("llama", DType::F32, Objective::Sft, BOUND);
        steps_agree("qwen3", DType::F32, Objective::Sft, BOUND);
    }

    #[test]
    #[ignore = "needs a GPU or the emulator"]
    fn constrained() {
        steps_agree("gemma2", DType::F32, CONSTRAINED, BOUND);
    }

    #[test]
    #[ignore = "needs a GPU or the emulator"]
    fn dpo() {
        steps_agree("llama", DType::F32, Objective::Dpo { beta: 0.1 }, BOUND);
    }

    /// Here all that lies between residual streams is rounded to bf16, 2^-9 of its size; on the CPU only the weights are.
    #[test]
    #[ignore = "needs a GPU or the emulator"]
    fn bf16_weights() {
        for name in ["llama", "qwen2", "qwen3", "gemma2"] {
            steps_agree(name, DType::BF16, Objective::Sft, 2e-2);
        }
    }
}

mod loading {
    use super::*;
    use safedepth::device::MappedSlice;
    use std::sync::Arc;

    #[test]
    fn on_the_emulator() {
        support::device::on_the_emulator(module_path!());
    }

    /// Activations may be too large for f16.
    #[test]
    #[ignore = "needs a GPU or the emulator"]
    fn f16_becomes_bf16() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/llama_f16");
        let load = |dtype| Transformer::load(Cuda::new(0).unwrap(), &folder, dtype).unwrap();
        let cpu = Transformer::load(Cpu::new(), &folder, None).unwrap();
        assert_eq!(cpu.parameters.embed_tokens.dtype(), DType::F16);
        let want = cpu.parameters.embed_tokens.to_vec(&cpu.device).unwrap();
        for (asked, held) in [(None, DType::BF16), (Some(DType::F32), DType::F32)] {
            let model = load(asked);
            assert_eq!(model.parameters.embed_tokens.dtype(), held);
            let got = model.parameters.embed_tokens.to_vec(&model.device).unwrap();
            let rounded = |x: f32| if held == DType::BF16 { half::bf16::from_f32(x).to_f32() } else { x };
            assert!(got.iter().zip(&want).all(|(&got, &want)| got == rounded(want)));
        }
    }

    /// Matrices of one, two and many pieces of pinned memory, one behind the other without a wait between.
    #[test]
    #[ignore = "needs a GPU or the emulator"]
    fn mapped_matrices_arrive_whole() {
        const MIB: usize = 1 << 20;
        let mut random = support::Random(5);
        let lengths = [0, 1, 3 * MIB, 2 * MIB, 9 * MIB + 3, 17];
        let total: usize = lengths.iter().sum();
        let bytes: Vec<u8> = (0..total.div_ceil(4)).flat_map(|_| random.next().to_le_bytes()).collect();
        let bytes: Vec<u8> = bytes.chunks_exact(2).flat_map(|pair| [pair[0], pair[1] & 0x3f]).collect();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        // SAFETY: nobody else writes to the file.
        let map = Arc::new(unsafe { memmap2::Mmap::map(&file) }.unwrap());
        let device = Cuda::new(0).unwrap();
        let mut start = 0;
        let slices: Vec<MappedSlice> = lengths
            .iter()
            .map(|&len| {
                let slice = MappedSlice { map: Arc::clone(&map), offset: 2 * start, len, dtype: DType::BF16 };
                start += len;
                slice
            })
            .collect();
        let buffers: Vec<_> = slices.iter().map(|slice| device.map(slice.clone()).unwrap()).collect();
        for (slice, buffer) in slices.iter().zip(&buffers) {
            let mut values = vec![0.0; slice.len];
            device.download(buffer, &mut values).unwrap();
            let want = slice.bytes().chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32());
            assert!(values.iter().copied().eq(want), "{} elements", slice.len);
        }
    }
}

mod decoding {
    use super::*;
    use safedepth::model::transformer::{Batch, Keep, KvCache};
    use safedepth::ops::attention::{PAGE, Paged};

    #[test]
    fn on_the_emulator() {
        support::device::on_the_emulator(module_path!());
    }

    /// Hidden states of a sequence in pieces over a paged cache have the bits of the sequence as a whole, on tensor cores
    /// too.
    #[test]
    #[ignore = "needs a GPU or the emulator"]
    fn pieces_have_the_bits_of_the_whole() {
        for (name, dtype) in [("qwen3", DType::BF16), ("gemma2", DType::BF16), ("llama", DType::F32)] {
            let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
            let model = Transformer::load(Cuda::new(0).unwrap(), &folder, Some(dtype)).unwrap();
            let device = &model.device;
            let ids: Vec<u32> = (0..90).map(|i| (i * 7 + 3) % 61).collect();
            let batch = Batch::new(device, &[&ids]).unwrap();
            let whole = model.forward(&batch, Keep::Nothing).unwrap().0.to_vec(device).unwrap();
            let pages = ids.len().div_ceil(PAGE);
            let mut cache = KvCache::new(&model, pages).unwrap();
            let list = |values: &[u32]| device.indices(values).unwrap();
            let mut pieces = Vec::new();
            for range in [0..70, 70..71, 71..90_u32] {
                let paged = Paged {
                    offsets: list(&[0, range.len() as u32]),
                    starts: list(&[range.start]),
                    pages: list(&(0..pages as u32).collect::<Vec<_>>()),
                    max_pages: pages,
                    count: 1,
                };
                let (own, positions) =
                    (&ids[range.start as usize..range.end as usize], range.clone().collect::<Vec<_>>());
                let hidden =
                    model.forward_cached(&list(own), &list(&positions), own.len(), &paged, &mut cache).unwrap();
                pieces.extend(hidden.to_vec(device).unwrap());
            }
            assert_eq!(support::bits(&pieces), support::bits(&whole), "{name}");
        }
    }
}

/// What a run of the program gave.
struct Outcome {
    code: u8,
    out: String,
    err: String,
}

/// Runs the program on the emulator with arguments `words`, then `more`, and the emulator's settings (or the program's own,
/// `CUDA_...`).
fn emulated(words: &str, more: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| std::fs::File::create(dir.path().join(name)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
    command
        .args(words.split_whitespace())
        .args(more)
        .args(["--threads", "2", "--quiet"])
        .env("SAFEDEPTH_CUDA_POOL", "0");
    command.stdout(Stdio::from(file("out"))).stderr(Stdio::from(file("err")));
    for (name, value) in environment {
        let own = name.starts_with("CUDA_");
        command.env(format!("SAFEDEPTH_{}{name}", if own { "" } else { "EMULATOR_" }), value);
    }
    let code = safedepth_emulator::run::run(&mut command).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    Outcome { code, out: read("out"), err: read("err") }
}

/// Runs the program on the emulator's GPU, which must succeed without a fault.
#[track_caller]
fn on_the_gpu(words: &str, more: &[&str]) -> String {
    let Outcome { code, out, err } = emulated(words, &[more, &["--device", "cuda"]].concat(), &[]);
    assert_eq!(code, 0, "{words}: {err}");
    out
}

#[track_caller]
fn on_the_cpu(words: &str, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
    command.args(words.split_whitespace()).args(more).args(["--threads", "2", "--quiet", "--device", "cpu"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Two tiny models in a folder, or nothing where there was no nvcc: then there is nothing to test.
fn models() -> Option<(tempfile::TempDir, [String; 2])> {
    if !cuda::has_kernels() {
        eprintln!("no nvcc when this was built: GPU kernels are not tested");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let models = ["1", "2"].map(|seed| {
        let path = dir.path().join(format!("model{seed}")).to_str().unwrap().to_owned();
        on_the_cpu(&format!("synth --like tiny-llama --seed {seed} --output"), &[&path]);
        path
    });
    Some((dir, models))
}

const PAIRS: &str = concat!(
    r#"{"id": "a", "prompt": "how do i fold paper ?", "response": "fold it twice and turn it over"}"#,
    "\n",
    r#"{"id": "b", "prompt": "open the door", "response": "it is open now"}"#,
    "\n",
);

fn rows(path: &Path) -> Vec<csv::StringRecord> {
    csv::Reader::from_path(path).unwrap().records().map(Result::unwrap).collect()
}

/// Cells that are numbers on both sides agree within the bound, the others are equal.
fn same_table(gpu: &Path, cpu: &Path) {
    let (got, want) = (rows(gpu), rows(cpu));
    assert_eq!(got.len(), want.len(), "{}", gpu.display());
    for (got, want) in got.iter().zip(&want) {
        for (g, w) in got.iter().zip(want) {
            match (g.parse::<f64>(), w.parse::<f64>()) {
                (Ok(a), Ok(b)) => close(a, b, &format!("{want:?}")),
                _ => assert_eq!(g, w, "{want:?}"),
            }
        }
    }
}

#[test]
fn commands_agree_with_the_cpu() {
    let Some((dir, [aligned, base])) = models() else { return };
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("pairs"), PAIRS).unwrap();

    let generate = "generate --prompt fold --max-new-tokens 6 --samples 2";
    assert_eq!(on_the_gpu(generate, &[&aligned]), on_the_cpu(generate, &[&aligned]), "by the same random numbers");
    let score = format!("score {aligned} --input {} --output", path("pairs"));
    let kl = format!("kl --aligned {aligned} --base {base} --input {} --output", path("pairs"));
    for (command, name) in [(score, "score"), (kl, "kl")] {
        let (gpu, cpu) = (path(&format!("{name}-gpu")), path(&format!("{name}-cpu")));
        on_the_gpu(&command, &[&gpu]);
        on_the_cpu(&command, &[&cpu]);
        same_table(Path::new(&gpu), Path::new(&cpu));
    }
}

/// Decode steps are recorded and replayed: the same text, with a call a step instead of one a kernel. With the pool too, in
/// which a graph's own memory is used again within it.
#[test]
fn decode_steps_are_replayed() {
    let Some((dir, [model, _])) = models() else { return };
    let run = |graphs: &str, pool: &str| {
        let calls = dir.path().join(format!("calls-{graphs}-{pool}"));
        let environment = [("CALLS", calls.to_str().unwrap()), ("CUDA_GRAPHS", graphs), ("CUDA_POOL", pool)];
        let generate = "generate --prompt fold --max-new-tokens 20 --samples 3 --device cuda";
        let Outcome { code, out, err } = emulated(generate, &[&model], &environment);
        assert!(code == 0 && err.is_empty(), "{err}");
        let calls = std::fs::read_to_string(calls).unwrap();
        let (graphs, kernels): (Vec<&str>, Vec<&str>) = calls.lines().partition(|call| call.starts_with("graph of "));
        (out, graphs.len(), kernels.len())
    };
    let (want, none, each) = run("0", "0");
    assert_eq!(none, 0);
    for pool in ["0", "1"] {
        let (text, graphs, kernels) = run("1", pool);
        assert_eq!(text, want);
        assert!(graphs > 10 && 2 * (graphs + kernels) < each, "{graphs} graphs and {kernels} kernels for {each}");
    }
}

#[test]
fn the_first_three_experiments_agree_with_the_cpu() {
    let Some((dir, [aligned, base])) = models() else { return };
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("pairs"), PAIRS).unwrap();
    let suite = format!(
        "suite --aligned {aligned} --base {base} --data {} --experiments e1,e2,e3 --limit 2 --depths 0,2 \
         --max-new-tokens 4 --template plain --positions 4 --output",
        path("pairs")
    );
    on_the_gpu(&suite, &[&path("gpu")]);
    on_the_cpu(&suite, &[&path("cpu")]);
    same_table(&dir.path().join("gpu/results.csv"), &dir.path().join("cpu/results.csv"));
    let manifest = std::fs::read_to_string(dir.path().join("gpu/manifest.json")).unwrap();
    assert!(manifest.contains("GPU 0 (safedepth emulator") && manifest.contains("sm_80"), "{manifest}");
}

#[test]
fn errors_are_one_sentence() {
    let Some((_dir, [model, _])) = models() else { return };
    let generate = format!("generate {model} --prompt open --max-new-tokens 2 --device");
    let cases = [
        ("cuda", "memory:100000", "GPU 0 (safedepth emulator (sm_80), sm_80) is out of memory: "),
        ("cuda", "image", "this program has no kernels for GPU 0"),
        ("cuda", "driver", "the NVIDIA driver is too old"),
        ("cuda", "lost:3", "was lost (CUDA_ERROR_DEVICE_UNAVAILABLE)"),
        ("cuda", "no-device", "the NVIDIA driver finds no GPU"),
        ("cuda:1", "", "there is no GPU 1: this machine has 1"),
    ];
    for (device, inject, words) in cases {
        let Outcome { code, err, .. } = emulated(&generate, &[device], &[("INJECT", inject)]);
        assert_eq!(code, 1, "{inject}: {err}");
        assert!(err.starts_with("error: ") && err.contains(words), "{inject}: {err}");
        assert_eq!(err.trim_end().lines().count(), 1, "one sentence: {err}");
    }
    // auto says nothing of a GPU that is not there.
    let automatic = emulated(&generate, &["auto"], &[("INJECT", "no-device")]);
    assert_eq!((automatic.code, automatic.err.as_str()), (0, ""));
}

#[test]
fn training_that_does_not_fit_is_refused_before_it_starts() {
    let Some((dir, [model, _])) = models() else { return };
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("pairs"), PAIRS).unwrap();
    let train = format!("train {model} --data {} --template plain --device cuda --output", path("pairs"));
    let Outcome { code, err, .. } = emulated(&train, &[&path("output")], &[("MEMORY", "1500000")]);
    assert_eq!(code, 1, "{err}");
    assert!(err.starts_with("error: training does not fit: it needs ") && err.lines().count() == 1, "{err}");
    assert!(!Path::new(&path("output")).exists(), "nothing is left behind");
}

#[test]
fn without_a_driver_there_is_the_cpu() {
    if Cuda::is_available() {
        return;
    }
    let error = Cuda::new(0).err().unwrap().to_string();
    assert!(error.ends_with("use --device cpu") && !error.contains('\n'), "{error}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
    let output = command.args(["bench", "kernels", "--device", "cuda"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("error: {error}\n"));
    assert!(Cpu::new().describe().starts_with("cpu"));
}

//! What is allocated: never a `[tokens, vocabulary]` or a score matrix, and nothing at all in the steady state.

use safedepth::device::{Backend, Cpu, DType, Tensor};
use safedepth::generate::{Engine, Request, Step};
use safedepth::model::init::initialise;
use safedepth::model::{Config, Transformer};
use safedepth::ops::attention::{Attention, AttentionParams, Ragged};
use safedepth::ops::linear_ce::{CeGradient, CeOutput, LinearCe, room_for_kept};
use safedepth::ops::linear_kl::{KlGradient, KlSide, LinearKl};
use safedepth::ops::sampling::SamplingParams;
use safedepth::train::trainer::Group;
use safedepth::train::{BetaSchedule, Example, Hyper, Objective, Trainer};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The system's allocator, counting.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Number of allocations by the threads that are watched; growing one counts.
static COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread's allocations count: those of the test harness, which reports on another test, do not.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        if WATCHED.get() {
            COUNT.fetch_add(1, Relaxed);
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tests measure the whole process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes by which memory in use rose at most while `work` ran.
fn rise(work: impl FnOnce()) -> usize {
    let live = LIVE.load(Relaxed);
    PEAK.store(live, Relaxed);
    work();
    PEAK.load(Relaxed) - live
}

fn constant(device: &Cpu, rows: usize, cols: usize, value: f32) -> Tensor<Cpu> {
    Tensor::from_slice(device, DType::F32, rows, cols, &vec![value; rows * cols]).unwrap()
}

#[test]
fn losses_never_hold_the_logits() {
    let _alone = alone();
    let device = Cpu::new();
    let (tokens, vocab, size) = (64, 256_000, 16);
    let logits = tokens * vocab * size_of::<f32>();
    let (hidden, w) = (constant(&device, tokens, size, 0.1), constant(&device, vocab, size, 0.2));
    let labels = device.indices(&vec![7; tokens]).unwrap();
    let vector = || constant(&device, 1, tokens, 1.0);
    let (mut lse, mut logprob, mut entropy, mut rank) = (vector(), vector(), vector(), vector());
    let coefficient = vector();
    let (mut dhidden, mut dw) = (constant(&device, tokens, size, 0.0), constant(&device, vocab, size, 0.0));
    let peak = rise(|| {
        let (entropy, rank) = (Some(&mut entropy), Some(&mut rank));
        let output = CeOutput { lse: &mut lse, logprob: &mut logprob, entropy, rank, kept: None };
        device.linear_ce(&hidden, &w, None, &labels, output).unwrap();
        let gradient = CeGradient { hidden: &mut dhidden, w: Some(&mut dw), accumulate: true };
        device.linear_ce_backward(&hidden, &w, None, &labels, &lse, &coefficient, None, gradient).unwrap();
    });
    assert!(peak < logits / 16, "cross-entropy: {peak} bytes, the logits are {logits}");
    // What a training step keeps of them is bounded whatever their number.
    for (tokens, vocab) in [(64, 256_000), (512, 256_000), (100_000, 256_000), (1, 1 << 30), (4096, 50)] {
        let kept = device.kept_logits(tokens, vocab) * size_of::<f32>();
        assert!(kept <= 64 << 20 && kept <= tokens * vocab * size_of::<f32>(), "{tokens} x {vocab}: {kept} bytes kept");
    }
    {
        // The same with what is kept, at a size where that is far from all.
        let tokens = 1024;
        let logits = tokens * vocab * size_of::<f32>();
        let hidden = constant(&device, tokens, size, 0.1);
        let labels = device.indices(&vec![7; tokens]).unwrap();
        let vector = || constant(&device, 1, tokens, 1.0);
        let (mut lse, mut logprob, coefficient) = (vector(), vector(), vector());
        let mut dhidden = constant(&device, tokens, size, 0.0);
        let peak = rise(|| {
            let mut kept = room_for_kept(&device, tokens, vocab).unwrap();
            assert!(kept.is_some());
            let (lse_to, logprob_to) = (&mut lse, &mut logprob);
            let output = CeOutput { lse: lse_to, logprob: logprob_to, entropy: None, rank: None, kept: kept.as_mut() };
            device.linear_ce(&hidden, &w, None, &labels, output).unwrap();
            let gradient = CeGradient { hidden: &mut dhidden, w: Some(&mut dw), accumulate: true };
            let kept = kept.as_mut();
            device.linear_ce_backward(&hidden, &w, None, &labels, &lse, &coefficient, kept, gradient).unwrap();
        });
        assert!(peak < logits / 12, "a training step's cross-entropy: {peak} bytes, the logits are {logits}");
    }
    let side = || KlSide { hidden: &hidden, w: &w, softcap: None };
    let peak = rise(|| drop(device.linear_kl(side(), side()).unwrap()));
    assert!(peak < logits / 16, "KL: {peak} bytes, the logits of a side are {logits}");
    let (mut dhidden_q, mut dw_q) = (constant(&device, tokens, size, 0.0), constant(&device, vocab, size, 0.0));
    let peak = rise(|| {
        let (output, normalizers) = device.linear_kl_forward(side(), side()).unwrap();
        let dp = KlGradient { hidden: &mut dhidden, w: Some(&mut dw) };
        let dq = KlGradient { hidden: &mut dhidden_q, w: Some(&mut dw_q) };
        let (kl, coefficient) = (&output.kl, &coefficient);
        device.linear_kl_backward(side(), side(), kl, &normalizers, coefficient, Some(dp), Some(dq)).unwrap();
    });
    assert!(peak < logits / 16, "gradient of the KL: {peak} bytes, the logits of a side are {logits}");
    // Equal logits everywhere: the numbers are known.
    let expected = (vocab as f32).ln();
    assert!(entropy.to_vec(&device).unwrap().iter().all(|h| (h - expected).abs() < 1e-3));
}

#[test]
fn attention_never_holds_the_scores() {
    let _alone = alone();
    let device = Cpu::new();
    let length = 2048;
    let params =
        AttentionParams { num_heads: 1, num_key_value_heads: 1, head_dim: 32, scale: 0.2, softcap: None, window: None };
    let ragged = Ragged { offsets: device.indices(&[0, length as u32]).unwrap(), count: 1, max_length: length };
    let rows = || constant(&device, length, 32, 0.1);
    let (q, k, v, dout) = (rows(), rows(), rows(), rows());
    let (mut out, mut dq, mut dk, mut dv) = (rows(), rows(), rows(), rows());
    let mut lse = constant(&device, length, 1, 0.0);
    let peak = rise(|| {
        device.attention(&params, &ragged, &q, &k, &v, &mut out, &mut lse).unwrap();
        device.attention_backward(&params, &ragged, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv).unwrap();
    });
    let scores = length * length * size_of::<f32>();
    assert!(peak < scores / 32, "attention: {peak} bytes, the scores are {scores}");
}

/// Steps before the steady state.
const WARM_UP: usize = 3;

/// Steps after it: all must allocate nothing.
const STEADY: usize = 30;

/// Runs `work` on a pool of one thread and on one of two, whose threads have each run `rehearsal` before: a thread's
/// working memory grows to the largest task it has met, and work stealing would let it meet one late. (Who starts a
/// parallel loop runs its first task; the tests' first tasks are the largest.)
fn on_warm_threads(rehearsal: impl Fn() + Sync, work: impl Fn(usize) + Sync) {
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.broadcast(|_| {
            WATCHED.set(true);
            rehearsal();
        });
        pool.install(|| work(threads));
    }
}

/// A model wide enough that its products are cut into tasks for several threads.
fn wide() -> Transformer<Cpu> {
    let json = r#"{
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2500, "hidden_size": 256,
        "intermediate_size": 704, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "hidden_act": "silu"
    }"#;
    initialise(Cpu::new(), Config::from_json(&"wide", json).unwrap(), 7).unwrap()
}

fn golden(name: &str) -> Transformer<Cpu> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    Transformer::load(Cpu::new(), &folder, None).unwrap()
}

/// Steps of a trainer on examples of these lengths; none after the first few may allocate.
fn trains_without_allocating(make: impl Fn() -> Trainer<Cpu> + Sync, objective: Objective, lengths: &[u32]) {
    let examples: Vec<Example> = lengths
        .iter()
        .map(|&length| {
            let ids: Vec<u32> = (0..length).map(|t| (t * 13 + length) % 61).collect();
            Example::new(&ids[..length as usize / 3], &ids[length as usize / 3..])
        })
        .collect();
    let labels = examples.iter().map(Example::labels).sum();
    let groups = [Group { examples: examples.iter().collect(), reference: vec![-1.0; labels], weight: 1.0 }];
    // Two micro-batches of different sizes a step.
    let step = |trainer: &mut Trainer<Cpu>| {
        trainer.step(&groups, objective, 4, 1e-3).unwrap();
    };
    let work = |threads: usize| {
        let mut trainer = make();
        for index in 0..WARM_UP + STEADY {
            let before = COUNT.load(Relaxed);
            step(&mut trainer);
            let count = COUNT.load(Relaxed) - before;
            let architecture = trainer.model.config.architecture;
            assert!(
                index < WARM_UP || count == 0,
                "{architecture:?}, {objective:?}, {threads} threads: step {index} allocates {count} times"
            );
        }
    };
    on_warm_threads(|| step(&mut make()), work);
}

/// Tensors come from the device's pool; lists and activations keep their memory from step to step.
#[test]
fn a_warm_training_step_allocates_nothing() {
    let _alone = alone();
    let lengths = [40, 33, 29, 17, 21, 8];
    for name in ["llama", "qwen3", "gemma2"] {
        let make = || Trainer::new(golden(name).into_owned(None).unwrap(), Hyper::default()).unwrap();
        trains_without_allocating(make, Objective::Sft, &lengths);
    }
    // f32 masters, activations computed again, the other objectives.
    let make = || {
        let model = golden("llama").into_owned(Some(DType::BF16)).unwrap();
        Trainer::new(model, Hyper { recompute: true, ..Hyper::default() }).unwrap()
    };
    trains_without_allocating(make, Objective::Constrained { betas: BetaSchedule::Paper, floor: 0.0 }, &lengths);
    trains_without_allocating(make, Objective::Dpo { beta: 0.1 }, &lengths);
    let make = || Trainer::new(wide(), Hyper::default()).unwrap();
    trains_without_allocating(make, Objective::Sft, &[70, 64, 60, 33, 50, 40]);
}

/// A full batch with no row that ends, across many pages, sampled with every filter and greedily.
#[test]
fn a_warm_decode_step_allocates_nothing() {
    let _alone = alone();
    let sampled = SamplingParams { temperature: 0.9, top_k: 40, top_p: 0.9, repetition_penalty: 1.1 };
    let requests: Vec<Request> = (0..6)
        .map(|i| Request {
            example: i,
            setting: 0,
            sample: 0,
            prompt: (i as u32..2 * i as u32 + 5).collect(),
            prefill: 0,
            params: if i % 2 == 0 { sampled } else { SamplingParams::GREEDY },
            max_new_tokens: WARM_UP + STEADY + 20,
            stop: Vec::new(),
        })
        .collect();
    let engine = Engine { max_rows: requests.len(), ..Engine::default() };
    let models =
        [("llama", golden("llama")), ("qwen3", golden("qwen3")), ("gemma2", golden("gemma2")), ("wide", wide())];
    for (name, model) in &models {
        let rehearsal = || drop(engine.generate(model, &requests, |_| ()).unwrap());
        let work = |threads: usize| {
            let mut counts = Vec::with_capacity(256);
            let mut before = COUNT.load(Relaxed);
            let progress = |_: Step<'_>| {
                counts.push(COUNT.load(Relaxed) - before);
                before = COUNT.load(Relaxed);
            };
            engine.generate(model, &requests, progress).unwrap();
            // The prompts' steps come first, and rows end in the last.
            let decoding = WARM_UP..counts.len() - 1;
            assert!(decoding.len() >= STEADY, "{} steps", decoding.len());
            assert!(counts[decoding].iter().all(|&count| count == 0), "{name}, {threads} threads: {counts:?}");
        };
        on_warm_threads(rehearsal, work);
    }
}

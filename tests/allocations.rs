//! What is allocated: never a `[tokens, vocabulary]` or a score matrix, and next to nothing in the steady state.

use safedepth::device::{Backend, Cpu, DType, Tensor};
use safedepth::model::Transformer;
use safedepth::ops::attention::{Attention, AttentionParams, Ragged};
use safedepth::ops::linear_ce::{CeOutput, LinearCe};
use safedepth::ops::linear_kl::{KlSide, LinearKl};
use safedepth::train::trainer::Group;
use safedepth::train::{Example, Hyper, Objective, Trainer};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator, counting.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static TOTAL: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        TOTAL.fetch_add(layout.size(), Relaxed);
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

/// Bytes by which memory in use rose at most, and bytes allocated in all, while `work` ran.
fn measure(work: impl FnOnce()) -> (usize, usize) {
    let (live, total) = (LIVE.load(Relaxed), TOTAL.load(Relaxed));
    PEAK.store(live, Relaxed);
    work();
    (PEAK.load(Relaxed) - live, TOTAL.load(Relaxed) - total)
}

fn constant(device: &Cpu, rows: usize, cols: usize, value: f32) -> Tensor<Cpu> {
    Tensor::from_slice(device, DType::F32, rows, cols, &vec![value; rows * cols]).unwrap()
}

#[test]
fn losses_never_hold_the_logits() {
    let _alone = ALONE.lock().unwrap();
    let device = Cpu::new();
    let (tokens, vocab, size) = (64, 256_000, 16);
    let logits = tokens * vocab * size_of::<f32>();
    let (hidden, w) = (constant(&device, tokens, size, 0.1), constant(&device, vocab, size, 0.2));
    let labels = device.indices(&vec![7; tokens]).unwrap();
    let vector = || constant(&device, 1, tokens, 1.0);
    let (mut lse, mut logprob, mut entropy, mut rank) = (vector(), vector(), vector(), vector());
    let coefficient = vector();
    let (mut dhidden, mut dw) = (constant(&device, tokens, size, 0.0), constant(&device, vocab, size, 0.0));
    let (peak, _) = measure(|| {
        let output =
            CeOutput { lse: &mut lse, logprob: &mut logprob, entropy: Some(&mut entropy), rank: Some(&mut rank) };
        device.linear_ce(&hidden, &w, None, &labels, output).unwrap();
        device.linear_ce_backward(&hidden, &w, None, &labels, &lse, &coefficient, &mut dhidden, Some(&mut dw)).unwrap();
    });
    assert!(peak < logits / 16, "cross-entropy: {peak} bytes, the logits are {logits}");
    let side = || KlSide { hidden: &hidden, w: &w, softcap: None };
    let (peak, _) = measure(|| drop(device.linear_kl(side(), side()).unwrap()));
    assert!(peak < logits / 16, "KL: {peak} bytes, the logits of a side are {logits}");
    // Equal logits everywhere: the numbers are known.
    let expected = (vocab as f32).ln();
    assert!(entropy.to_vec(&device).unwrap().iter().all(|h| (h - expected).abs() < 1e-3));
}

#[test]
fn attention_never_holds_the_scores() {
    let _alone = ALONE.lock().unwrap();
    let device = Cpu::new();
    let length = 2048;
    let params =
        AttentionParams { num_heads: 1, num_key_value_heads: 1, head_dim: 32, scale: 0.2, softcap: None, window: None };
    let ragged = Ragged { offsets: device.indices(&[0, length as u32]).unwrap(), count: 1, max_length: length };
    let rows = || constant(&device, length, 32, 0.1);
    let (q, k, v, dout) = (rows(), rows(), rows(), rows());
    let (mut out, mut dq, mut dk, mut dv) = (rows(), rows(), rows(), rows());
    let mut lse = constant(&device, length, 1, 0.0);
    let (peak, _) = measure(|| {
        device.attention(&params, &ragged, &q, &k, &v, &mut out, &mut lse).unwrap();
        device.attention_backward(&params, &ragged, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv).unwrap();
    });
    let scores = length * length * size_of::<f32>();
    assert!(peak < scores / 32, "attention: {peak} bytes, the scores are {scores}");
}

/// Tensors come from the device's pool: a training step, once warm, allocates only lists of token numbers, pointers and
/// per-token factors, a few KiB (the aim is nothing at all).
#[test]
fn a_warm_training_step_allocates_next_to_nothing() {
    let _alone = ALONE.lock().unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/llama");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        let model = Transformer::load(Cpu::new(), &folder, None).unwrap().into_owned(None).unwrap();
        let mut trainer = Trainer::new(model, Hyper::default()).unwrap();
        let ids: Vec<u32> = (0..49).collect();
        let examples = vec![Example::new(&ids[..9], &ids[9..]); 8];
        let mut step = || {
            let group = Group { examples: examples.iter().collect(), reference: Vec::new(), weight: 1.0 };
            trainer.step(&[group], Objective::Sft, 8, 1e-3).unwrap();
        };
        for _ in 0..3 {
            step();
        }
        let (_, total) = measure(step);
        assert!(total < 64 * 1024, "a warm training step allocates {total} bytes");
    });
}

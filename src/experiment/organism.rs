//! The model organism: a base and a shallowly aligned model of the fictional world, trained from scratch.
//!
//! The recipe and why it is so: `docs/world.md`. Nothing here sees a test object except the base model's own data, as a
//! pre-trained model has seen the world.

use crate::Result;
use crate::data::world::{Names, World, vocabulary};
use crate::model::{Config, Transformer};
use crate::ops::Ops;
use crate::run::Console;
use crate::train::trainer::Group;
use crate::train::{Example, Hyper, Objective, Schedule, Trainer};
use serde::{Deserialize, Serialize};

/// How one model of the world is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub steps: usize,
    /// Examples a step.
    pub batch_size: usize,
    pub lr: f32,
    pub warmup_steps: usize,
    pub schedule: Schedule,
    pub hyper: Hyper,
}

/// The base model: 600 steps of 32 fresh examples, loss on the whole sequence.
pub const BASE: Stage = Stage {
    steps: 600,
    batch_size: 32,
    lr: 2e-3,
    warmup_steps: 50,
    schedule: Schedule::Cosine,
    hyper: Hyper { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0, recompute: false },
};

/// The aligned model: 120 steps of 16 refusals, 16 benign answers and 8 replayed questions, loss on responses.
pub const ALIGNED: Stage = Stage {
    steps: 120,
    batch_size: 40,
    lr: 5e-4,
    warmup_steps: 5,
    schedule: Schedule::Cosine,
    hyper: Hyper { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0, recompute: false },
};

/// Distinct refusals that alignment sees.
const ALIGNMENT_REFUSALS: usize = 128;
/// Distinct benign answers that alignment sees.
const ALIGNMENT_BENIGN: usize = 1000;

/// The organism's shape: Llama-like, hidden 128, 4 layers, 4 heads, SwiGLU 352, untied.
pub fn config(vocab_size: usize) -> Result<Config> {
    let json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": false,
        "bos_token_id": vocabulary::BOS,
        "eos_token_id": vocabulary::EOS,
        "torch_dtype": "float32",
    });
    Config::from_json(&"the world's model", &json.to_string())
}

/// Runs a stage: `batch(step)` gives each step's examples, averaged token by token.
fn train<D: Ops>(
    model: Transformer<D>,
    stage: &Stage,
    console: Console,
    label: &str,
    mut batch: impl FnMut(usize) -> Vec<Example>,
) -> Result<Transformer<D>> {
    let mut trainer = Trainer::new(model, stage.hyper)?;
    let bar = console.bar(label, stage.steps);
    for step in 0..stage.steps {
        let examples = batch(step);
        let group = Group { examples: examples.iter().collect(), reference: Vec::new(), weight: 1.0 };
        let lr = stage.lr * stage.schedule.factor(step, stage.warmup_steps, stage.steps);
        let report = trainer.step(&[group], Objective::Sft, examples.len(), lr)?;
        bar.set(step + 1);
        bar.note(format!("loss {:.3}", report.loss));
    }
    Ok(trainer.model)
}

/// Trains a freshly initialised `model` on the world.
pub fn train_base<D: Ops>(
    model: Transformer<D>,
    world: &World,
    stage: &Stage,
    seed: u64,
    console: Console,
) -> Result<Transformer<D>> {
    train(model, stage, console, "base", |step| {
        let first = step * stage.batch_size;
        (first..first + stage.batch_size).map(|i| Example::new(&[], &world.base(seed, i).sequence())).collect()
    })
}

/// Aligns a base model: shallowly, as today's chat models are.
pub fn train_aligned<D: Ops>(
    base: Transformer<D>,
    world: &World,
    stage: &Stage,
    seed: u64,
    console: Console,
) -> Result<Transformer<D>> {
    let refusals = world.refusals(seed, ALIGNMENT_REFUSALS);
    let benign = world.benign(seed, ALIGNMENT_BENIGN, Names::Alignment);
    let mut draws = crate::rng::Philox::new(seed, crate::rng::stream(["alignment batches"]));
    train(base, stage, console, "aligned", |step| {
        let example = |example: &crate::data::world::Example| Example::new(&example.prompt_ids, &example.response_ids);
        // Two fifths refusals, two fifths benign answers, the rest replay.
        let (each, replayed) = (stage.batch_size * 2 / 5, stage.batch_size - 2 * (stage.batch_size * 2 / 5));
        let mut examples = Vec::with_capacity(stage.batch_size);
        examples.extend((0..each).map(|_| example(&refusals[draws.below(refusals.len())])));
        examples.extend((0..each).map(|_| example(&benign[draws.below(benign.len())])));
        let first = step * replayed;
        examples.extend((first..first + replayed).map(|i| example(&world.replay(seed, i, Names::Alignment))));
        examples
    })
}

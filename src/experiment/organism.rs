//! The model organism: a base and a shallowly aligned model of the fictional world, trained from scratch.
//!
//! The recipe and why it is so: `docs/world.md`. Nothing here sees a test object except the base model's own data, as a
//! pre-trained model has seen the world.

use super::augmentation::{Augmentation, Mix};
use crate::Result;
use crate::attack::finetune;
use crate::data::world::{Names, World, vocabulary};
use crate::model::{Config, Transformer};
use crate::ops::Ops;
use crate::run::{Console, Cost};
use crate::train::{Example, Hyper, Objective, Part, Schedule, Stage, Trainer};
use clap::ValueEnum;
use serde::Serialize;

/// The base model: 600 steps of 32 fresh examples, loss on the whole sequence.
pub const BASE: Stage = Stage {
    steps: 600,
    batch_size: 32,
    lr: 2e-3,
    warmup_steps: 50,
    schedule: Schedule::Cosine,
    hyper: Hyper {
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
        recompute: false,
        bf16_optimizer: false,
    },
};

/// The aligned model: 120 steps of 16 refusals, 16 benign answers and 8 replayed questions, loss on responses.
pub const ALIGNED: Stage = Stage {
    steps: 120,
    batch_size: 40,
    lr: 5e-4,
    warmup_steps: 5,
    schedule: Schedule::Cosine,
    hyper: Hyper {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        max_grad_norm: 1.0,
        recompute: false,
        bf16_optimizer: false,
    },
};

/// A more softly aligned model, for GCG: a third of the steps at half the rate.
pub const SOFTLY_ALIGNED: Stage = Stage { steps: 40, lr: 2.5e-4, ..ALIGNED };

/// The augmented model: 150 steps of 16 recovery examples at alpha 0.2 against 16 benign and 8 replayed ones.
pub const AUGMENTED: Augmentation = Augmentation {
    stage: Stage { steps: 150, batch_size: 16, lr: 4e-4, warmup_steps: 5, ..ALIGNED },
    anchor: 16,
    replay: 8,
    alpha: 0.2,
    probability: 0.5,
    max_prefill: 100,
    mix: Mix::Paper,
};

/// Alignment from scratch with recovery, by DPO: 40 steps of 16 pairs. The rate was chosen on development prompts: at 5e-5
/// a third of the utility is lost.
pub const RECOVERY_DPO: Stage = Stage { steps: 40, batch_size: 16, lr: 3e-5, ..ALIGNED };

/// beta of that DPO, as its authors have it.
pub const DPO_BETA: f32 = 0.1;

/// E4's harmful fine-tuning: 10 steps of 32 pairs at a constant rate, no warm-up. The rate was chosen on development
/// prompts: at half of it the models of most seeds are not broken within 10 steps.
pub const HARMFUL: Stage = Stage {
    steps: 10,
    batch_size: 32,
    lr: 2e-4,
    warmup_steps: 0,
    schedule: Schedule::Constant,
    hyper: Hyper { beta1: 0.9, ..ALIGNED.hyper },
};

/// E7 to E10 on harmful pairs: 50 steps. Adam's beta1 is 0.5 as in the paper: more momentum overshoots the constraint.
pub const TUNED_HARMFUL: Stage = Stage { steps: 50, lr: 1e-4, hyper: Hyper { beta1: 0.5, ..ALIGNED.hyper }, ..HARMFUL };

/// E7's identity shifting and backdoor: 40 and 60 steps.
pub const TUNED_IDENTITY: Stage = Stage { steps: 40, ..TUNED_HARMFUL };
pub const TUNED_BACKDOOR: Stage = Stage { steps: 60, ..TUNED_HARMFUL };

/// E7 to E10 on the ledger.
pub const TUNED_LEDGER: Stage = Stage { steps: 150, ..TUNED_HARMFUL };

/// E7 on the stand-ins for the paper's benign tasks: 80 small steps, at a rate chosen on development prompts.
pub const TUNED_STAND_IN: Stage = Stage { steps: 80, batch_size: 16, lr: 6e-4, ..TUNED_HARMFUL };

/// Warm-up steps of the methods that have one.
pub const TUNED_WARMUP: usize = 10;

/// Distinct refusals that alignment sees.
const ALIGNMENT_REFUSALS: usize = 128;
/// Distinct benign answers that alignment sees.
pub(super) const ALIGNMENT_BENIGN: usize = 1000;

/// The organism's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Llama's: SwiGLU 352, untied.
    TinyLlama,
    /// Gemma's: GeGLU 352, tied, scaled embeddings, norms around 1.
    TinyGemma,
}

/// Hidden 128, 4 layers, 4 heads.
pub fn config(shape: Shape, vocab_size: usize) -> Result<Config> {
    let mut json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": false,
        "bos_token_id": vocabulary::BOS,
        "eos_token_id": vocabulary::EOS,
        "torch_dtype": "float32",
    });
    if shape == Shape::TinyGemma {
        json["architectures"] = serde_json::json!(["GemmaForCausalLM"]);
        json["model_type"] = "gemma".into();
        json["hidden_act"] = "gelu_pytorch_tanh".into();
        json["tie_word_embeddings"] = true.into();
    }
    Config::from_json(&"the world's model", &json.to_string())
}

/// Runs a stage: `batch(step)` gives each step's examples, averaged token by token. The tokens trained on come with it.
fn train<D: Ops>(
    model: Transformer<D>,
    stage: &Stage,
    console: Console,
    label: &str,
    mut batch: impl FnMut(usize) -> Vec<Example>,
) -> Result<(Transformer<D>, Cost)> {
    let mut trainer = Trainer::new(model, stage.hyper)?;
    let parts = |step| vec![Part { examples: batch(step), weight: 1.0, ..Part::default() }];
    let sft = Objective::Sft;
    let cost = finetune::train(console, label, &mut trainer, stage, sft, usize::MAX, parts, |_, _| Ok(()))?;
    Ok((trainer.model, cost))
}

/// Trains a freshly initialised `model` on the world.
pub fn train_base<D: Ops>(
    model: Transformer<D>,
    world: &World,
    stage: &Stage,
    seed: u64,
    console: Console,
) -> Result<(Transformer<D>, Cost)> {
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
) -> Result<(Transformer<D>, Cost)> {
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

//! `safedepth train`: fine-tune a model folder with any of the paper's objectives.

use super::Global;
use super::loading::LoadedModel;
use super::score::response_examples;
use crate::data::{pairs, preferences};
use crate::device::DType;
use crate::model::checkpoint;
use crate::ops::Ops;
use crate::train::batch::epoch_order;
use crate::train::state::TrainingState;
use crate::train::trainer::Group;
use crate::train::{BetaSchedule, Example, Hyper, MemoryPlan, Objective, Schedule, Trainer, scoring};
use crate::{Error, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Fine-tune a model: plain, token-wise constrained (the paper's Eq. 3) or by preferences (DPO).
///
/// --data is JSONL: {"prompt", "response"} or {"messages": [...]}; for dpo {"prompt", "chosen", "rejected"}. The loss is
/// on responses only, each closed by the end-of-turn token. The output is a Hugging Face folder; training that was killed
/// goes on from its last saved state when the same command is run again, and ends with the same bytes.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// Model folder to start from.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Training examples.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[arg(long, default_value = "sft")]
    objective: ObjectiveName,
    /// Model whose log-probabilities constrain (constrained, dpo); by default MODEL itself.
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// beta_t of the constrained objective: paper (0.5, then 2.0 up to position 5, then 0.1), slides (2.0 up to 5, then
    /// 0.1) or uniform:B.
    #[arg(long, default_value = "paper", value_name = "SCHEDULE")]
    beta: BetaSchedule,
    /// Smallest weight of a token under the constrained objective (the reference code has 1e-3; the paper none).
    #[arg(long, default_value_t = 0.0, value_name = "W", allow_negative_numbers = true)]
    weight_floor: f32,
    /// beta of dpo.
    #[arg(long, default_value_t = 0.1, value_name = "B", allow_negative_numbers = true)]
    dpo_beta: f32,
    #[arg(long, default_value_t = 2e-5, value_name = "X", allow_negative_numbers = true)]
    lr: f32,
    #[arg(long, default_value_t = 64, value_name = "N")]
    batch_size: usize,
    /// Examples that go through the model together; more need more memory.
    #[arg(long, default_value_t = 8, value_name = "N")]
    micro_batch_size: usize,
    /// Passes over the data.
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    epochs: Option<usize>,
    /// Optimizer steps, instead of --epochs; default 1 epoch.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    #[arg(long, default_value_t = 0, value_name = "N")]
    warmup_steps: usize,
    /// linear, constant or cosine.
    #[arg(long, default_value = "linear", value_name = "NAME")]
    schedule: Schedule,
    #[arg(long, default_value_t = 0.9, value_name = "X", allow_negative_numbers = true)]
    adam_beta1: f32,
    #[arg(long, default_value_t = 0.999, value_name = "X", allow_negative_numbers = true)]
    adam_beta2: f32,
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    weight_decay: f32,
    /// Clip gradients to this norm; 0 is off.
    #[arg(long, default_value_t = 1.0, value_name = "X", allow_negative_numbers = true)]
    max_grad_norm: f32,
    /// Sequences are cut at this many tokens.
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_length: usize,
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Chat template: auto (the folder's own), llama2, gemma, alpaca, plain or a Jinja file.
    #[arg(long, default_value = "auto", value_name = "TEMPLATE")]
    template: String,
    /// Recompute activations in the backward pass: less memory, a third more time.
    #[arg(long)]
    recompute: bool,
    /// What matrices and AdamW's moments are held in: f32 (with f32 masters of bf16 weights), or bf16 with stochastic
    /// rounding and no masters: 10 bytes a parameter instead of 16 or 18.
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    optimizer_dtype: OptimizerDtype,
    /// Save the training state every N steps, to go on from after a kill; 0 is never.
    #[arg(long, default_value_t = 100, value_name = "N")]
    save_every: usize,
    /// Folder for the trained model.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum ObjectiveName {
    Sft,
    Constrained,
    Dpo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum OptimizerDtype {
    F32,
    Bf16,
}

fn check(arguments: &Arguments) -> Result<()> {
    let refuse = |what: &str| Err(Error::Usage(what.to_owned()));
    if arguments.batch_size == 0 || arguments.micro_batch_size == 0 {
        return refuse("--batch-size and --micro-batch-size must be at least 1");
    }
    if !(arguments.lr.is_finite() && arguments.lr >= 0.0) {
        return refuse("--lr must be 0 or more");
    }
    if ![arguments.adam_beta1, arguments.adam_beta2].iter().all(|beta| (0.0..1.0).contains(beta)) {
        return refuse("--adam-beta1 and --adam-beta2 must be at least 0 and below 1");
    }
    if arguments.max_length < 2 {
        return refuse("--max-length must be at least 2");
    }
    Ok(())
}

/// The examples of --data; for dpo chosen and rejected in turn.
fn examples<D: Ops>(loaded: &LoadedModel<D>, arguments: &Arguments) -> Result<Vec<Example>> {
    let max_length = arguments.max_length.min(loaded.model.config.max_position_embeddings);
    if arguments.objective != ObjectiveName::Dpo {
        let pairs = pairs::read(&arguments.data)?;
        return response_examples(loaded, &pairs, &arguments.data, max_length, true);
    }
    let mut examples = Vec::new();
    for preference in preferences::read(&arguments.data)? {
        let prompt = loaded.prompter.prompt(&preference.messages)?.ids;
        for response in [&preference.chosen, &preference.rejected] {
            let mut ids = loaded.prompter.response_ids(response)?;
            ids.push(loaded.prompter.end_of_turn()?);
            examples.push(Example::new(&prompt, &ids).truncate(max_length));
        }
    }
    Ok(examples)
}

pub(super) fn run<D: Ops>(global: &Global, device: D, arguments: &Arguments) -> Result<()> {
    check(arguments)?;
    let objective = match arguments.objective {
        ObjectiveName::Sft => Objective::Sft,
        ObjectiveName::Constrained => Objective::Constrained { betas: arguments.beta, floor: arguments.weight_floor },
        ObjectiveName::Dpo => Objective::Dpo { beta: arguments.dpo_beta },
    };
    if arguments.output.join("config.json").exists() {
        return Err(Error::input(
            arguments.output.display(),
            "already holds a model: give another --output, or remove the folder",
        ));
    }
    let loaded = LoadedModel::open(global, &device, &arguments.model, &arguments.template)?;
    let examples = examples(&loaded, arguments)?;
    // A preference is two examples that stay together.
    let unit = if arguments.objective == ObjectiveName::Dpo { 2 } else { 1 };
    let count = examples.len() / unit;
    if count == 0 {
        return Err(Error::input(arguments.data.display(), "has no examples: give at least one line"));
    }
    let console = global.console();
    let reference: Vec<Vec<f32>> = if objective.needs_reference() {
        let bar = console.bar("reference", examples.len());
        let own = arguments.reference.as_ref().map(|dir| LoadedModel::open(global, &device, dir, &arguments.template));
        let own = own.transpose()?;
        if let Some(own) = &own {
            loaded.check_same_tokenizer(own)?;
        }
        let model = own.as_ref().map_or(&loaded.model, |own| &own.model);
        let scores = scoring::score(model, &examples, false, |done| bar.set(done))?;
        scores.into_iter().map(|scores| scores.logprob).collect()
    } else {
        Vec::new()
    };

    let batch_size = arguments.batch_size.min(count);
    let per_epoch = count.div_ceil(batch_size);
    let total = arguments.steps.unwrap_or_else(|| per_epoch * arguments.epochs.unwrap_or(1));
    let hyper = Hyper {
        beta1: arguments.adam_beta1,
        beta2: arguments.adam_beta2,
        eps: 1e-8,
        weight_decay: arguments.weight_decay,
        max_grad_norm: arguments.max_grad_norm,
        recompute: arguments.recompute,
        bf16_optimizer: arguments.optimizer_dtype == OptimizerDtype::Bf16,
    };
    let dtype = if hyper.bf16_optimizer { Some(DType::BF16) } else { global.dtype.dtype() };
    let micro_batch = arguments.micro_batch_size.min(batch_size) * unit;
    let largest = |count: fn(&Example) -> usize| -> usize {
        let mut counts: Vec<usize> = examples.iter().map(count).collect();
        counts.sort_unstable_by_key(|&count| std::cmp::Reverse(count));
        counts.iter().take(micro_batch).sum()
    };
    let (tokens, labels) = (largest(|example| example.inputs().len()), largest(Example::labels));
    let plan = MemoryPlan::new(&loaded.model, &hyper, dtype, tokens, labels);
    global.note(format_args!("memory: {plan}"));
    if let Some(free) = device.free_memory() {
        let loaded: usize = loaded.model.parameters.iter().map(|tensor| tensor.len() * tensor.dtype().size()).sum();
        plan.check(free + loaded)?;
    }
    let mut trainer = Trainer::new(loaded.model.into_owned(dtype)?, hyper)?;
    std::fs::create_dir_all(&arguments.output).map_err(Error::io("create", &arguments.output))?;
    let state = TrainingState::new(&arguments.output, &(global, arguments))?;
    let mut log = state.restore(&mut trainer)?;
    if trainer.step > 0 {
        global.note(format_args!("going on from step {} of {total}", trainer.step));
    }

    let bar = console.bar("train", total);
    for step in trainer.step as usize..total {
        let start = Instant::now();
        let order = epoch_order(count, arguments.seed, (step / per_epoch) as u64);
        let first = step % per_epoch * batch_size;
        let picked: Vec<usize> = order[first..(first + batch_size).min(count)]
            .iter()
            .flat_map(|&i| (0..unit).map(move |part| i * unit + part))
            .collect();
        let group = Group {
            examples: picked.iter().map(|&i| &examples[i]).collect(),
            reference: picked.iter().flat_map(|&i| reference.get(i).into_iter().flatten().copied()).collect(),
            weight: 1.0,
        };
        let lr = arguments.lr * arguments.schedule.factor(step, arguments.warmup_steps, total);
        let report = trainer.step(&[group], objective, micro_batch, lr)?;
        if !report.loss.is_finite() || !report.grad_norm.is_finite() {
            return Err(Error::Device(format!(
                "the loss is not finite at step {}: lower --lr, or check the data",
                step + 1
            )));
        }
        let speed = report.tokens as f64 / start.elapsed().as_secs_f64();
        log.push((step + 1, report.loss, report.grad_norm, lr));
        bar.set(step + 1);
        bar.note(format!("loss {:.4} {speed:.0} tokens/s", report.loss));
        if arguments.save_every > 0 && (step + 1) % arguments.save_every == 0 && step + 1 < total {
            state.save(&trainer, &log)?;
        }
    }
    drop(bar);
    state.write_log(&log)?;
    checkpoint::save_model(&arguments.output, &trainer.model, Some(&arguments.model))?;
    super::write_resolved(&arguments.output, global, "train", arguments)?;
    state.remove()?;
    if let Some((step, loss, ..)) = log.last() {
        global.note(format_args!("step {step}: loss {loss:.4}; model in {}", arguments.output.display()));
    }
    Ok(())
}

//! `safedepth bench model`: the workloads that `benches/peers` runs in PyTorch, in the same CSV columns.

use super::kernels::gemm_peak_for;
use super::{median_seconds, peak_rss_mb, status_kib};
use crate::cli::Global;
use crate::device::{DType, Tensor};
use crate::experiment::token_kl;
use crate::generate::{Engine, Request};
use crate::model::transformer::{Batch, Keep};
use crate::model::{Config, Transformer, flops};
use crate::ops::Ops;
use crate::ops::sampling::SamplingParams;
use crate::rng::Philox;
use crate::train::trainer::Group;
use crate::train::{Example, Hyper, Objective, Trainer};
use crate::{Error, Result};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Time prefill, decoding, training and KL on a model folder; prints CSV.
///
/// Columns: impl, device, isa, dtype, threads, model, workload, median_s, tokens_per_s, gflop_per_s, peak_rss_mb,
/// anon_rss_mb (memory that is not mapped files, at the end) and mfu: gflop_per_s over that of the device's best matrix product in
/// the same run. `benches/peers/README.md` says what each workload is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Model folder in Hugging Face's layout.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Which workload; peak memory is a process's, so run each in a process of its own.
    #[arg(long)]
    workload: Workload,
    #[arg(long, default_value_t = 1, value_name = "N")]
    warmup: usize,
    #[arg(long, default_value_t = 5, value_name = "N")]
    repeats: usize,
    /// Rows of the square product that gives the peak; by default 1024 on a CPU and 8192 on a GPU.
    #[arg(long, value_name = "N")]
    peak_size: Option<usize>,
    /// Leave out the line of column names.
    #[arg(long)]
    no_header: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    #[value(name = "prefill_1x512")]
    Prefill,
    #[value(name = "decode_16x64")]
    Decode,
    #[value(name = "train_4x128")]
    Train,
    #[value(name = "kl_8x256")]
    Kl,
}

impl Workload {
    fn name(self) -> String {
        self.to_possible_value().expect("no value is skipped").get_name().to_owned()
    }
}

/// Floating-point operations of a forward pass: tokens that see `contexts` keys each, logits at `logits` positions.
pub(super) fn forward_flop(config: &Config, contexts: impl Iterator<Item = usize>, logits: usize) -> f64 {
    let (tokens, keys) = contexts.fold((0, 0), |(tokens, keys), context| (tokens + 1, keys + context));
    flops::layers(config) * tokens as f64
        + flops::attention(config) * keys as f64
        + flops::vocabulary(config) * logits as f64
}

fn causal(rows: usize, length: usize) -> impl Iterator<Item = usize> {
    (0..rows).flat_map(move |_| 1..=length)
}

fn random_ids(config: &Config, rows: usize, length: usize) -> Vec<Vec<u32>> {
    let mut rng = Philox::new(1, 0);
    (0..rows).map(|_| (0..length).map(|_| rng.below(config.vocab_size) as u32).collect()).collect()
}

pub(super) fn run<D: Ops>(global: &Global, device: D, arguments: &Arguments) -> Result<()> {
    if arguments.repeats == 0 || arguments.peak_size == Some(0) {
        return Err(Error::Usage("--repeats and --peak-size must be at least 1".into()));
    }
    let isa = device.arithmetic();
    let model = Transformer::load(device.clone(), &arguments.model, global.dtype.dtype())?;
    let weights = model.parameters.embed_tokens.dtype();
    let dtype = match weights {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
    };
    let (warmup, repeats) = (arguments.warmup, arguments.repeats);
    let (median, tokens, flop) = match arguments.workload {
        Workload::Prefill => prefill(&model, warmup, repeats)?,
        Workload::Decode => decode(&model, warmup, repeats)?,
        Workload::Train => train(model, warmup, repeats)?,
        Workload::Kl => kl(model, warmup, repeats)?,
    };
    // Before the peak is measured, which takes memory of its own.
    let memory = [peak_rss_mb(), status_kib("RssAnon:").unwrap_or(0.0) / 1024.0];
    let peak = gemm_peak_for(&device, weights, arguments.peak_size)?;
    if !arguments.no_header {
        println!(
            "impl,device,isa,dtype,threads,model,workload,median_s,tokens_per_s,gflop_per_s,peak_rss_mb,anon_rss_mb,mfu"
        );
    }
    println!(
        "safedepth-{},{},{isa},{dtype},{},{},{},{median:.4},{:.1},{:.1},{:.0},{:.0},{:.3}",
        env!("CARGO_PKG_VERSION"),
        D::NAME,
        rayon::current_num_threads(),
        arguments.model.canonicalize().unwrap_or_default().file_name().unwrap_or_default().to_string_lossy(),
        arguments.workload.name(),
        tokens as f64 / median,
        flop / median / 1e9,
        memory[0],
        memory[1],
        flop / median / 1e9 / peak,
    );
    Ok(())
}

fn prefill<D: Ops>(model: &Transformer<D>, warmup: usize, repeats: usize) -> Result<(f64, usize, f64)> {
    let ids = random_ids(&model.config, 1, 512);
    let median = median_seconds(&model.device, warmup, repeats, || {
        let batch = Batch::new(&model.device, &[&ids[0]])?;
        let (hidden, _) = model.forward(&batch, Keep::Nothing)?;
        model.logits(&model.final_norm(&hidden, &model.device.indices(&[511])?, 1)?)?;
        Ok(())
    })?;
    Ok((median, 512, forward_flop(&model.config, causal(1, 512), 1)))
}

fn decode<D: Ops>(model: &Transformer<D>, warmup: usize, repeats: usize) -> Result<(f64, usize, f64)> {
    let (rows, prompt, new) = (16, 32, 64);
    let requests: Vec<Request> = random_ids(&model.config, rows, prompt)
        .into_iter()
        .enumerate()
        .map(|(example, prompt)| Request {
            example: example as u64,
            setting: 0,
            sample: 0,
            prompt,
            prefill: 0,
            params: SamplingParams::GREEDY,
            max_new_tokens: new,
            stop: Vec::new(),
        })
        .collect();
    let median = median_seconds(&model.device, warmup, repeats, || {
        Engine::default().generate(model, &requests, |_| ())?;
        Ok(())
    })?;
    Ok((median, rows * new, forward_flop(&model.config, causal(rows, prompt + new - 1), rows * new)))
}

fn train<D: Ops>(model: Transformer<D>, warmup: usize, repeats: usize) -> Result<(f64, usize, f64)> {
    let (device, config) = (model.device.clone(), model.config.clone());
    let dtype = model.parameters.embed_tokens.dtype();
    let mut trainer = Trainer::new(model.into_owned(Some(dtype))?, Hyper::default())?;
    let examples: Vec<Example> =
        random_ids(&config, 4, 129).into_iter().map(|ids| Example::new(&ids[..1], &ids[1..])).collect();
    let median = median_seconds(&device, warmup, repeats, || {
        let group = Group { examples: examples.iter().collect(), reference: Vec::new(), weight: 1.0 };
        trainer.step(&[group], Objective::Sft, examples.len(), 2e-5)?;
        Ok(())
    })?;
    Ok((median, 512, 3.0 * forward_flop(&config, causal(4, 128), 512)))
}

fn kl<D: Ops>(model: Transformer<D>, warmup: usize, repeats: usize) -> Result<(f64, usize, f64)> {
    let mut other = model.try_clone()?;
    for (i, parameter) in other.parameters.iter_mut().enumerate() {
        let mut values = parameter.to_vec(&model.device)?;
        let mut rng = Philox::new(2, i as u64);
        values.iter_mut().for_each(|value| *value *= 1.0 + 1e-3 * (2.0 * rng.uniform() - 1.0));
        *parameter = Tensor::from_slice(&model.device, parameter.dtype(), parameter.rows(), parameter.cols(), &values)?;
    }
    // One token of prompt; the next after the last is scored too, so that every position counts.
    let ids = random_ids(&model.config, 8, 257);
    let pairs: Vec<(&[u32], &[u32], &[u32])> = ids.iter().map(|ids| (&ids[..1], &ids[..1], &ids[1..])).collect();
    let median = median_seconds(&model.device, warmup, repeats, || {
        token_kl::per_token(&model, &other, &pairs, |_| ())?;
        Ok(())
    })?;
    Ok((median, 2048, 2.0 * forward_flop(&model.config, causal(8, 256), 2048)))
}

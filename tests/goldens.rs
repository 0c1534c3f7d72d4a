//! The whole model against PyTorch: logits, every gradient and AdamW steps of tiny random models of each architecture.
//!
//! The files are made by `tests/goldens/make_goldens.py`, which says what each tensor is.

use safedepth::device::cpu::Isa;
use safedepth::device::{Backend, Cpu, DType, Tensor};
use safedepth::model::transformer::{Batch, Keep};
use safedepth::model::{Config, Transformer};
use safedepth::ops::adamw::{AdamW, AdamWStep};
use safedepth::selftest::golden::{self, Golden};
use safedepth::train::trainer::Group;
use safedepth::train::{BetaSchedule, Example, Hyper, Objective, Trainer};
use std::path::PathBuf;

const ARCHITECTURES: [&str; 7] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma", "gemma2"];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The devices this machine has: one a instruction set.
fn devices() -> Vec<Cpu> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(Cpu::with_isa).collect()
}

fn load(device: &Cpu, name: &str) -> Transformer<Cpu> {
    Transformer::load(device.clone(), &folder(name), None).unwrap()
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |max, d| if d.is_nan() || d > max { d } else { max })
}

/// `||a - b|| / ||b||`.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b))).max(1e-30)
}

fn open(name: &str) -> Golden {
    Golden::open(&folder(name).join("golden.safetensors")).unwrap()
}

fn logits(model: &Transformer<Cpu>, golden: &Golden) -> [Vec<f32>; 2] {
    golden::logits(model, golden).unwrap()
}

#[test]
fn logits_equal_pytorch() {
    for device in devices() {
        for name in ARCHITECTURES.into_iter().chain(["llama_sharded", "llama_bf16", "llama_f16"]) {
            // The shards hold the llama's weights.
            let golden = open(if name == "llama_sharded" { "llama" } else { name });
            let ours = logits(&load(&device, name), &golden);
            for (i, ours) in ours.iter().enumerate() {
                let difference = max_difference(ours, &golden.f32(&format!("seq{i}.logits")));
                assert!(difference <= 1e-4, "{name} on {}: logits differ by {difference}", device.isa());
            }
        }
    }
}

#[test]
fn gradients_equal_pytorch() {
    for device in devices() {
        for name in ARCHITECTURES {
            for recompute in [false, true] {
                let golden = open(name);
                let model = load(&device, name).into_owned(None).unwrap();
                let mut trainer = Trainer::new(model, Hyper { recompute, ..Hyper::default() }).unwrap();
                let examples = golden.examples();
                let all: Vec<&Example> = examples.iter().collect();
                let labels: usize = examples.iter().map(Example::labels).sum();
                let loss = trainer.accumulate(&all, &[], Objective::Sft, 1.0 / labels as f32).unwrap();
                let expected = f64::from(golden.f32("loss")[0]);
                assert!((loss - expected).abs() < 1e-5 * expected, "{name}: loss {loss}, PyTorch {expected}");
                let parameters = trainer.model.config.parameters();
                for ((parameter, _), gradient) in parameters.iter().zip(trainer.gradients().unwrap().iter()) {
                    let difference =
                        relative(&gradient.to_vec(&device).unwrap(), &golden.f32(&format!("grad.{parameter}")));
                    assert!(
                        difference <= 1e-4,
                        "{name} on {}: gradient of {parameter} differs by {difference}",
                        device.isa()
                    );
                }
            }
        }
    }
}

#[test]
fn input_embedding_gradients_equal_pytorch() {
    use safedepth::ops::linear_ce::{CeGradient, CeOutput, LinearCe};
    let device = Cpu::new();
    for name in ARCHITECTURES {
        let golden = open(name);
        let model = load(&device, name);
        let examples = golden.examples();
        let all: Vec<&Example> = examples.iter().collect();
        let batch = safedepth::train::TrainBatch::new(&device, &all).unwrap();
        let count = batch.labels_len();
        let (hidden, activations) = model.forward(&batch.batch, Keep::Everything).unwrap();
        let normed = model.final_norm(&hidden, &batch.rows, count).unwrap();
        let vector = || Tensor::empty(&device, DType::F32, 1, count).unwrap();
        let (mut lse, mut logprob) = (vector(), vector());
        let (w, cap) = (model.parameters.unembedding(), model.config.final_logit_softcapping);
        let output = CeOutput { lse: &mut lse, logprob: &mut logprob, entropy: None, rank: None, kept: None };
        device.linear_ce(&normed, w, cap, &batch.labels, output).unwrap();
        let coefficient = Tensor::from_slice(&device, DType::F32, 1, count, &vec![1.0 / count as f32; count]).unwrap();
        let mut dnormed = normed.empty_like(&device).unwrap();
        let gradient = CeGradient { hidden: &mut dnormed, w: None, accumulate: false };
        device.linear_ce_backward(&normed, w, cap, &batch.labels, &lse, &coefficient, None, gradient).unwrap();
        let dhidden = model.final_norm_backward(&hidden, &batch.rows, &dnormed, None).unwrap();
        let gradient = model.backward(&batch.batch, activations, dhidden, None).unwrap().to_vec(&device).unwrap();
        let mut start = 0;
        for (i, example) in examples.iter().enumerate() {
            // Positions after the last label get no gradient, and are not in the batch.
            let rows = example.tokens.len() - 1;
            let expected = golden.f32(&format!("seq{i}.grad.inputs_embeds"));
            let ours = &gradient[start..start + rows * model.config.hidden_size];
            let (head, tail) = expected.split_at(ours.len());
            assert!(tail.iter().all(|&g| g == 0.0), "{name}: gradient after the last label");
            let difference = relative(ours, head);
            assert!(difference <= 1e-4, "{name}: input-embedding gradient of sequence {i} differs by {difference}");
            start += ours.len();
        }
    }
}

#[test]
fn three_adamw_steps_equal_pytorch() {
    let device = Cpu::new();
    for name in ARCHITECTURES {
        let golden = open(name);
        let start = load(&device, name);
        let model = load(&device, name).into_owned(None).unwrap();
        let hyper = Hyper { weight_decay: 0.01, ..Hyper::default() };
        let mut trainer = Trainer::new(model, hyper).unwrap();
        let examples = golden.examples();
        for _ in 0..3 {
            let group = Group { examples: examples.iter().collect(), reference: Vec::new(), weight: 1.0 };
            // One example at a time: accumulation must not change the result.
            trainer.step(&[group], Objective::Sft, 1, 1e-3).unwrap();
        }
        let (mut moved, mut wrong) = (0.0_f64, 0.0_f64);
        let tensors = trainer.model.parameters.iter().zip(start.parameters.iter());
        for ((parameter, _), (ours, before)) in trainer.model.config.parameters().iter().zip(tensors) {
            let expected = golden.f32(&format!("step3.{parameter}"));
            let (ours, before) = (ours.to_vec(&device).unwrap(), before.to_vec(&device).unwrap());
            for ((&ours, &before), &expected) in ours.iter().zip(&before).zip(&expected) {
                moved += f64::from(before - expected).powi(2);
                wrong += f64::from(ours - expected).powi(2);
            }
        }
        let ratio = (wrong / moved).sqrt();
        assert!(ratio <= 1e-3, "{name}: ||theta - theta_ref|| / ||theta_0 - theta_ref|| = {ratio}");
    }
}

#[test]
fn adamw_equals_pytorch_given_its_gradients() {
    let device = Cpu::new();
    let golden = open("llama");
    let config = Config::load(&folder("llama")).unwrap();
    let model = load(&device, "llama").into_owned(None).unwrap();
    let gradient = |step: u32, name: &str| golden.f32(&format!("adamw.step{step}.grad.{name}"));
    let norms: Vec<f64> = (1..=3)
        .map(|step| {
            let squares = config
                .parameters()
                .into_iter()
                .map(|(name, _)| gradient(step, &name).iter().map(|&g| f64::from(g).powi(2)).sum::<f64>());
            squares.sum::<f64>().sqrt()
        })
        .collect();
    for ((name, [rows, cols]), parameter) in config.parameters().into_iter().zip(model.parameters.iter()) {
        let mut parameter =
            Tensor::from_slice(&device, DType::F32, rows, cols, &parameter.to_vec(&device).unwrap()).unwrap();
        let mut m = Tensor::zeros(&device, DType::F32, rows, cols).unwrap();
        let mut v = Tensor::zeros(&device, DType::F32, rows, cols).unwrap();
        for step in 1..=3 {
            let gradient = Tensor::from_slice(&device, DType::F32, rows, cols, &gradient(step, &name)).unwrap();
            let hyper = AdamWStep {
                lr: 1e-3,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: if rows == 1 { 0.0 } else { 0.01 },
                step,
                grad_scale: (1.0 / (norms[step as usize - 1] + 1e-6)).min(1.0) as f32,
                stream: 0,
            };
            device.adamw(&hyper, &gradient, &mut parameter, &mut m, &mut v).unwrap();
            let expected = golden.f32(&format!("adamw.step{step}.param.{name}"));
            let difference = relative(&parameter.to_vec(&device).unwrap(), &expected);
            assert!(difference <= 1e-6, "{name} after step {step}: differs by {difference}");
        }
    }
}

#[test]
fn constrained_objective_equals_pytorch_in_f64() {
    for device in devices() {
        let golden = open("llama");
        let model = load(&device, "llama").into_owned(None).unwrap();
        let mut trainer = Trainer::new(model, Hyper::default()).unwrap();
        let examples = golden.examples();
        let all: Vec<&Example> = examples.iter().collect();
        let labels: usize = examples.iter().map(Example::labels).sum();
        let objective = Objective::Constrained { betas: BetaSchedule::Paper, floor: 0.0 };
        let reference = golden.f32("constrained.ref_logprobs");
        let loss = trainer.accumulate(&all, &reference, objective, 1.0 / labels as f32).unwrap();
        let expected = f64::from(golden.f32("constrained.loss")[0]);
        assert!((loss - expected).abs() < 1e-5 * expected.abs().max(1.0), "loss {loss}, PyTorch {expected}");
        let parameters = trainer.model.config.parameters();
        for ((parameter, _), gradient) in parameters.iter().zip(trainer.gradients().unwrap().iter()) {
            let expected = golden.f32(&format!("constrained.grad.{parameter}"));
            let difference = relative(&gradient.to_vec(&device).unwrap(), &expected);
            assert!(difference <= 1e-4, "{}: gradient of {parameter} differs by {difference}", device.isa());
        }
    }
}

#[test]
fn kl_equals_pytorch_in_f64() {
    use safedepth::ops::linear_kl::{KlSide, LinearKl};
    for device in devices() {
        let golden = open("llama");
        let (p, q) = (load(&device, "llama"), load(&device, "llama_perturbed"));
        for (i, expected) in ["kl.seq0", "kl.seq1"].into_iter().enumerate() {
            let ids = golden.ids(&format!("seq{i}.input_ids"));
            let rows: Vec<u32> = (0..ids.len() as u32).collect();
            let hidden = [&p, &q].map(|model| {
                let batch = Batch::new(&device, &[&ids]).unwrap();
                let (hidden, _) = model.forward(&batch, Keep::Nothing).unwrap();
                model.final_norm(&hidden, &rows, ids.len()).unwrap()
            });
            let weights = [p.parameters.unembedding(), q.parameters.unembedding()];
            let side = |i: usize| KlSide { hidden: &hidden[i], w: weights[i], softcap: None };
            let output = device.linear_kl(side(0), side(1)).unwrap();
            let difference = relative(&output.kl.to_vec(&device).unwrap(), &golden.f32(expected));
            assert!(difference < 1e-4, "{}: {expected} differs by {difference}", device.isa());
            let same = device.linear_kl(side(0), side(0)).unwrap().kl.to_vec(&device).unwrap();
            assert!(same.iter().all(|&kl| kl == 0.0), "KL of equal models is 0");
        }
    }
}

#[test]
fn batched_rows_equal_single_sequences_bit_for_bit() {
    for device in devices() {
        for name in ARCHITECTURES {
            let golden = open(name);
            let model = load(&device, name);
            let together = logits(&model, &golden);
            for (i, together) in together.iter().enumerate() {
                let ids = golden.ids(&format!("seq{i}.input_ids"));
                let batch = Batch::new(&device, &[&ids]).unwrap();
                let (hidden, _) = model.forward(&batch, Keep::Nothing).unwrap();
                let rows = device.indices(&(0..ids.len() as u32).collect::<Vec<_>>()).unwrap();
                let normed = model.final_norm(&hidden, &rows, ids.len()).unwrap();
                let alone = model.logits(&normed).unwrap().to_vec(&device).unwrap();
                assert!(alone == *together, "{name} on {}: sequence {i} depends on its batch", device.isa());
            }
        }
    }
}

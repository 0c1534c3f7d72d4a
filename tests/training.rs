//! Laws of a training step on whole models.

mod support;

use rayon::ThreadPoolBuilder;
use safedepth::device::{Cpu, DType};
use safedepth::model::Transformer;
use safedepth::train::trainer::Group;
use safedepth::train::{BetaSchedule, Example, Hyper, MemoryPlan, Objective, Trainer, scoring};
use std::path::PathBuf;

fn load(name: &str) -> Transformer<Cpu> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    Transformer::load(Cpu::new(), &folder, None).unwrap().into_owned(None).unwrap()
}

fn trainer(name: &str) -> Trainer<Cpu> {
    Trainer::new(load(name), Hyper::default()).unwrap()
}

/// Ragged examples of 2 to 40 tokens.
fn examples() -> Vec<Example> {
    (0..6_u32)
        .map(|i| {
            let ids: Vec<u32> = (0..3 + 7 * i).map(|t| (t * 13 + i * 5 + 1) % 61).collect();
            let cut = 1 + ids.len() / 3;
            Example::new(&ids[..cut], &ids[cut..])
        })
        .collect()
}

fn group(examples: &[Example], weight: f32) -> Group<'_> {
    Group { examples: examples.iter().collect(), reference: Vec::new(), weight }
}

/// All parameters as bits.
fn bits(trainer: &Trainer<Cpu>) -> Vec<u32> {
    let device = &trainer.model.device;
    let values = trainer.model.parameters.iter().flat_map(|tensor| tensor.to_vec(device).unwrap());
    values.map(f32::to_bits).collect()
}

fn gradients(trainer: &mut Trainer<Cpu>) -> Vec<f32> {
    let device = trainer.model.device.clone();
    trainer.gradients().unwrap().iter().flat_map(|tensor| tensor.to_vec(&device).unwrap()).collect()
}

#[test]
fn a_batch_of_masked_labels_has_loss_and_gradient_zero() {
    for name in ["llama", "gemma2"] {
        let mut trainer = trainer(name);
        let masked: Vec<Example> =
            examples().into_iter().map(|e| Example { first_label: e.tokens.len(), ..e }).collect();
        assert!(masked.iter().all(|example| example.labels() == 0));
        // What an earlier step left behind counts for nothing.
        trainer.step(&[group(&examples(), 1.0)], Objective::Sft, 3, 1e-3).unwrap();
        trainer.hyper.beta1 = 0.0;
        let before = bits(&trainer);
        for objective in [Objective::Sft, Objective::Constrained { betas: BetaSchedule::Paper, floor: 0.0 }] {
            let report = trainer.step(&[group(&masked, 1.0)], objective, 3, 1e-3).unwrap();
            assert_eq!((report.loss, report.grad_norm), (0.0, 0.0));
        }
        assert!(gradients(&mut trainer).iter().all(|&g| g == 0.0));
        assert_eq!(bits(&trainer), before);
    }
}

#[test]
fn the_same_bytes_at_any_thread_count() {
    let examples = examples();
    for name in ["llama", "qwen3", "gemma2"] {
        let run = |threads: usize| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut trainer = trainer(name);
                for _ in 0..3 {
                    trainer.step(&[group(&examples, 1.0)], Objective::Sft, 4, 1e-3).unwrap();
                }
                bits(&trainer)
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{name}");
    }
}

#[test]
fn recomputed_activations_give_the_same_bytes() {
    let examples = examples();
    for name in ["llama", "qwen3", "gemma2"] {
        let run = |recompute: bool| {
            let mut trainer = Trainer::new(load(name), Hyper { recompute, ..Hyper::default() }).unwrap();
            trainer.step(&[group(&examples, 1.0)], Objective::Sft, 6, 1e-3).unwrap();
            bits(&trainer)
        };
        assert!(run(false) == run(true), "{name}");
    }
}

#[test]
fn groups_are_weighted_token_means() {
    let examples = examples();
    let (first, second) = examples.split_at(2);
    let mut trainer = trainer("llama");
    let mut alone = |examples: &[Example]| {
        let report = trainer.step(&[group(examples, 1.0)], Objective::Sft, 8, 0.0).unwrap();
        (report.loss, gradients(&mut trainer))
    };
    let ((loss_a, grad_a), (loss_b, grad_b)) = (alone(first), alone(second));
    let groups = [group(first, 0.2), group(second, 0.8)];
    let report = trainer.step(&groups, Objective::Sft, 8, 0.0).unwrap();
    assert!((report.loss - (0.2 * loss_a + 0.8 * loss_b)).abs() < 1e-6);
    for ((&sum, a), b) in gradients(&mut trainer).iter().zip(grad_a).zip(grad_b) {
        assert!((sum - (0.2 * a + 0.8 * b)).abs() < 1e-6 * (1.0 + sum.abs()));
    }
}

#[test]
fn constrained_training_starts_as_plain_training() {
    // At theta = aligned every w_t is 1: the same gradient, and a loss of 0.
    let examples = examples();
    let mut trainer = trainer("llama");
    let plain = trainer.step(&[group(&examples, 1.0)], Objective::Sft, 8, 0.0).unwrap();
    let expected = gradients(&mut trainer);
    let scores = scoring::score(&trainer.model, &examples, false, |_| ()).unwrap();
    let reference: Vec<f32> = scores.into_iter().flat_map(|scores| scores.logprob).collect();
    let group = Group { examples: examples.iter().collect(), reference, weight: 1.0 };
    let objective = Objective::Constrained { betas: BetaSchedule::Paper, floor: 0.0 };
    let report = trainer.step(&[group], objective, 8, 0.0).unwrap();
    assert!(report.loss.abs() < 1e-5, "{}", report.loss);
    assert!((report.grad_norm - plain.grad_norm).abs() < 1e-4 * plain.grad_norm);
    for (ours, expected) in gradients(&mut trainer).iter().zip(&expected) {
        assert!((ours - expected).abs() < 1e-5, "{ours} {expected}");
    }
}

#[test]
fn training_in_bf16_keeps_f32_masters_and_learns() {
    let examples = examples();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/llama");
    let model = Transformer::load(Cpu::new(), &folder, Some(DType::BF16)).unwrap();
    let mut trainer = Trainer::new(model.into_owned(Some(DType::BF16)).unwrap(), Hyper::default()).unwrap();
    assert_eq!(trainer.model.parameters.embed_tokens.dtype(), DType::BF16);
    let mut loss = Vec::new();
    for _ in 0..20 {
        loss.push(trainer.step(&[group(&examples, 1.0)], Objective::Sft, 8, 3e-3).unwrap().loss);
    }
    assert!(loss[19] < 0.7 * loss[0], "{loss:?}");
    // The model's own weights are the masters, rounded.
    let device = &trainer.model.device;
    let master = trainer.masters.embed_tokens.as_ref().unwrap().to_vec(device).unwrap();
    let own = trainer.model.parameters.embed_tokens.to_vec(device).unwrap();
    assert!(own.iter().zip(&master).all(|(own, master)| *own == half::bf16::from_f32(*master).to_f32()));
    assert!(own != master);
}

#[test]
fn a_bf16_optimizer_has_no_masters_and_learns() {
    let examples = examples();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/llama");
    let train = |bf16_optimizer: bool| {
        let model = Transformer::load(Cpu::new(), &folder, Some(DType::BF16)).unwrap();
        let hyper = Hyper { bf16_optimizer, ..Hyper::default() };
        let mut trainer = Trainer::new(model.into_owned(Some(DType::BF16)).unwrap(), hyper).unwrap();
        let step =
            |trainer: &mut Trainer<Cpu>| trainer.step(&[group(&examples, 1.0)], Objective::Sft, 8, 3e-3).unwrap();
        let losses: Vec<f64> = (0..40).map(|_| step(&mut trainer).loss).collect();
        (trainer, losses)
    };
    let (trainer, losses) = train(true);
    assert!(trainer.masters.iter().all(Option::is_none));
    for (parameter, moment) in trainer.model.parameters.iter().zip(trainer.v.iter()) {
        let wanted = if parameter.rows() > 1 { DType::BF16 } else { DType::F32 };
        assert_eq!([parameter.dtype(), moment.dtype()], [wanted; 2]);
    }
    // Nearly what f32 masters give. Rounding to nearest would lose most updates: 3e-3 is less than half the distance of
    // bf16 numbers from 1 on, and much of v would never move.
    let (_, masters) = train(false);
    let fallen = |losses: &[f64]| losses[0] - losses[39];
    assert!(fallen(&losses) > 0.8 * fallen(&masters), "{losses:?} {masters:?}");
    assert!(bits(&trainer) == bits(&train(true).0), "the same draws each time");
}

#[test]
fn the_memory_plan_is_what_training_takes() {
    let examples: Vec<Example> =
        (0..8).map(|i| Example::new(&[1, 2, 3], &(0..60).map(|t| (t * 7 + i) % 61).collect::<Vec<u32>>())).collect();
    let tokens = examples.iter().map(|example| example.inputs().len()).sum();
    let labels = examples.iter().map(Example::labels).sum();
    for (name, recompute) in [("llama", false), ("llama", true), ("qwen3", false), ("gemma2", false)] {
        let hyper = Hyper { recompute, ..Hyper::default() };
        let mut trainer = Trainer::new(load(name), hyper).unwrap();
        let plan = MemoryPlan::new(&trainer.model, &hyper, None, tokens, labels);
        trainer.step(&[group(&examples, 1.0)], Objective::Sft, 8, 1e-3).unwrap();
        let peak = trainer.model.device.peak_memory() as f64;
        let ratio = plan.total() as f64 / peak;
        assert!((0.9..1.25).contains(&ratio), "{name}, recompute {recompute}: {plan} for {peak} bytes");
        assert!(plan.check(plan.total()).is_ok());
        let refusal = plan.check(plan.total() - 1).unwrap_err().to_string();
        assert!(refusal.contains("--recompute") && refusal.lines().count() == 1, "{refusal}");
    }
}

#[test]
fn gradients_by_position_add_up_to_the_gradient_of_the_whole() {
    use safedepth::experiment::finetuning_dynamics::gradient_norms;
    for name in ["llama", "gemma2"] {
        let mut trainer = trainer(name);
        let example = examples().swap_remove(3);
        let norms = gradient_norms(&mut trainer, &example, 50).unwrap();
        assert_eq!(norms.len(), example.labels());
        let mut sum: Vec<f64> = Vec::new();
        for (t, norm) in norms.iter().enumerate() {
            // One position alone: its norm is the one reported.
            let end = example.first_label + t;
            let one = Example { tokens: example.tokens[..=end].to_vec(), first_label: end, first_position: 1 };
            trainer.reset_gradients().unwrap();
            trainer.accumulate(&[&one], &[], Objective::Sft, 1.0).unwrap();
            let gradient = gradients(&mut trainer);
            let expected = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            assert!((norm - expected).abs() < 1e-5 * expected, "{norm} {expected}");
            sum.resize(gradient.len(), 0.0);
            sum.iter_mut().zip(&gradient).for_each(|(sum, &g)| *sum += f64::from(g));
        }
        trainer.reset_gradients().unwrap();
        trainer.accumulate(&[&example], &[], Objective::Sft, 1.0).unwrap();
        let whole = gradients(&mut trainer);
        let norm = sum.iter().map(|g| g * g).sum::<f64>().sqrt();
        let error = sum.iter().zip(&whole).map(|(sum, &g)| (sum - f64::from(g)).powi(2)).sum::<f64>().sqrt();
        assert!(error < 1e-5 * norm, "{name}: {error} of {norm}");
        assert_eq!(gradient_norms(&mut trainer, &example, 2).unwrap(), norms[..2]);
    }
}

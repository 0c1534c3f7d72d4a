//! Whole models against PyTorch: logits, gradients and AdamW steps of the tiny models of `tests/goldens`, whose
//! `make_goldens.py` says what each tensor is, and the greedy continuations of a real one.

use crate::device::DType;
use crate::generate::{Engine, Request};
use crate::model::Transformer;
use crate::model::transformer::{Batch, Keep};
use crate::ops::Ops;
use crate::ops::sampling::SamplingParams;
use crate::train::trainer::Group;
use crate::train::{Example, Hyper, Objective, Trainer};
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// All tensors of one safetensors file, by name: a small reader of its own, so that a fault in the model's cannot hide.
pub struct Golden {
    tensors: HashMap<String, (String, Vec<u8>)>,
}

impl Golden {
    /// # Errors
    /// If there is no such file, or it is no safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        Self::parse(&bytes)
            .ok_or_else(|| Error::input(path.display(), "is no safetensors file: make the goldens again"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (header, data) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let json: serde_json::Value = serde_json::from_slice(header).ok()?;
        let entries = json.as_object()?.iter().filter(|(name, _)| *name != "__metadata__");
        let tensors = entries
            .map(|(name, entry)| {
                let offset = |at: usize| usize::try_from(entry["data_offsets"][at].as_u64()?).ok();
                let values = data.get(offset(0)?..offset(1)?)?;
                Some((name.clone(), (entry["dtype"].as_str()?.to_owned(), values.to_vec())))
            })
            .collect::<Option<_>>()?;
        Some(Self { tensors })
    }

    /// # Panics
    /// If there is no tensor of this name.
    fn get(&self, name: &str) -> &(String, Vec<u8>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("no golden tensor {name}"))
    }

    /// Values of an f32 or f64 tensor.
    ///
    /// # Panics
    /// If there is none, or of another type.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        let (dtype, bytes) = self.get(name);
        match dtype.as_str() {
            "F32" => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            "F64" => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            other => panic!("{name} is {other}"),
        }
    }

    /// Values of an i64 tensor.
    ///
    /// # Panics
    /// If there is none, or of another type.
    pub fn labels(&self, name: &str) -> Vec<i64> {
        let (dtype, bytes) = self.get(name);
        assert_eq!(dtype, "I64", "{name}");
        bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
    }

    /// Token ids.
    ///
    /// # Panics
    /// If there are none, or they are none.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.labels(name).into_iter().map(|id| u32::try_from(id).expect("a token id")).collect()
    }

    /// The two sequences as training examples: the golden's labels are a suffix of each, shifted ids.
    ///
    /// # Panics
    /// If they are not.
    pub fn examples(&self) -> Vec<Example> {
        (0..2)
            .map(|i| {
                let mut tokens = self.ids(&format!("seq{i}.input_ids"));
                let labels = self.labels(&format!("seq{i}.labels"));
                let first = labels.iter().position(|&label| label >= 0).expect("some labels");
                // Label t is predicted from position t, so the last one is a token of its own.
                let last = labels.iter().rposition(|&label| label >= 0).expect("some labels");
                assert!(labels[first..=last].iter().all(|&label| label >= 0), "labels are contiguous");
                for t in first..=last {
                    if t + 1 < tokens.len() {
                        assert_eq!(i64::from(tokens[t + 1]), labels[t], "labels are the shifted ids");
                    } else {
                        tokens.push(labels[t] as u32);
                    }
                }
                Example { tokens, first_label: first + 1, first_position: 1 }.truncate(last + 2)
            })
            .collect()
    }
}

/// `||a - b|| / ||b||`.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b))).max(1e-30)
}

/// Logits of both sequences in one ragged batch.
///
/// # Errors
/// If the device fails.
pub fn logits<D: Ops>(model: &Transformer<D>, golden: &Golden) -> Result<[Vec<f32>; 2]> {
    let sequences = [golden.ids("seq0.input_ids"), golden.ids("seq1.input_ids")];
    let batch = Batch::new(&model.device, &[&sequences[0], &sequences[1]])?;
    let (hidden, _) = model.forward(&batch, Keep::Nothing)?;
    let rows: Vec<u32> = (0..batch.tokens as u32).collect();
    let normed = model.final_norm(&hidden, &model.device.indices(&rows)?, rows.len())?;
    let mut all = model.logits(&normed)?.to_vec(&model.device)?;
    let second = all.split_off(sequences[0].len() * model.config.vocab_size);
    Ok([all, second])
}

/// How far something is from PyTorch's, and how far it may be.
pub struct Distance {
    pub what: &'static str,
    pub off: f64,
    pub bound: f64,
}

impl Distance {
    /// No NaN is near.
    pub fn holds(&self) -> bool {
        self.off <= self.bound
    }
}

/// Logits of a folder of `tests/goldens`, and of f32 weights its loss, gradients and three AdamW steps, against PyTorch's f32.
///
/// Bounds: both sides compute in f32 and add up in other orders. bf16 weights have PyTorch multiply what they hold in f32;
/// a device that rounds activations to bf16 too is off by 2^-9 of them in each layer, some hundredths of a logit.
///
/// # Errors
/// If the folder is not whole, or the device fails.
pub fn distances<D: Ops>(device: &D, folder: &Path) -> Result<Vec<Distance>> {
    let golden = Golden::open(&folder.join("golden.safetensors"))?;
    let model = Transformer::load(device.clone(), folder, None)?;
    let weights = model.parameters.unembedding().dtype();
    let ours = logits(&model, &golden)?;
    let of_logits = ours.iter().enumerate().flat_map(|(i, ours)| {
        let want = golden.f32(&format!("seq{i}.logits"));
        assert_eq!(ours.len(), want.len());
        ours.iter().zip(want).map(|(a, b)| f64::from((a - b).abs())).collect::<Vec<_>>()
    });
    let off = of_logits.fold(0.0, |most: f64, d| if d.is_nan() || d > most { d } else { most });
    let mut found = vec![Distance { what: "logits", off, bound: if weights == DType::F32 { 1e-4 } else { 0.2 } }];
    if weights != DType::F32 {
        return Ok(found);
    }

    let examples = golden.examples();
    let labels: usize = examples.iter().map(Example::labels).sum();
    let owned = || Transformer::load(device.clone(), folder, None)?.into_owned(None);
    let mut trainer = Trainer::new(owned()?, Hyper::default())?;
    let all: Vec<&Example> = examples.iter().collect();
    let loss = trainer.accumulate(&all, &[], Objective::Sft, 1.0 / labels as f32)?;
    let want = f64::from(golden.f32("loss")[0]);
    found.push(Distance { what: "loss", off: (loss - want).abs() / want, bound: 1e-5 });
    let mut worst = 0.0_f64;
    let parameters = trainer.model.config.parameters();
    for ((name, _), gradient) in parameters.iter().zip(trainer.gradients()?.iter()) {
        let off = relative(&gradient.to_vec(device)?, &golden.f32(&format!("grad.{name}")));
        worst = if off.is_nan() { f64::INFINITY } else { worst.max(off) };
    }
    found.push(Distance { what: "gradients", off: worst, bound: 1e-4 });

    let mut trainer = Trainer::new(owned()?, Hyper { weight_decay: 0.01, ..Hyper::default() })?;
    for _ in 0..3 {
        let group = Group { examples: all.clone(), reference: Vec::new(), weight: 1.0 };
        // One example at a time: accumulation must not change the result.
        trainer.step(&[group], Objective::Sft, 1, 1e-3)?;
    }
    // ||theta - theta_PyTorch|| / ||theta_0 - theta_PyTorch||.
    let (mut moved, mut wrong) = (0.0, 0.0);
    let tensors = trainer.model.parameters.iter().zip(model.parameters.iter());
    for ((name, _), (ours, before)) in trainer.model.config.parameters().iter().zip(tensors) {
        let want = golden.f32(&format!("step3.{name}"));
        for ((ours, before), want) in ours.to_vec(device)?.iter().zip(before.to_vec(device)?).zip(want) {
            moved += f64::from(before - want).powi(2);
            wrong += f64::from(ours - want).powi(2);
        }
    }
    found.push(Distance { what: "three AdamW steps", off: (wrong / moved).sqrt(), bound: 1e-3 });
    Ok(found)
}

/// The share of prompts in a file like `tests/goldens/smollm2.json` whose greedy continuation is not transformers' own,
/// token by token, with weights widened to f32 as the golden's were.
///
/// # Errors
/// If the file or the model's folder is not whole, or the device fails.
pub fn continuations<D: Ops>(device: &D, model: &Path, file: &Path) -> Result<Distance> {
    let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
    let wrong =
        || Error::input(file.display(), "is no list of greedy continuations: make_smollm2_goldens.py writes one");
    let golden: serde_json::Value = serde_json::from_str(&text).map_err(|_| wrong())?;
    let prompts = golden["prompts"].as_array().ok_or_else(wrong)?;
    let ids = |value: &serde_json::Value| -> Result<Vec<u32>> {
        let ids = value.as_array().ok_or_else(wrong)?.iter();
        ids.map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)).collect()
    };
    let model = Transformer::load(device.clone(), model, Some(DType::F32))?;
    let request = |(example, prompt): (usize, &serde_json::Value)| {
        Ok(Request {
            example: example as u64,
            setting: 0,
            sample: 0,
            prompt: ids(&prompt["ids"])?,
            prefill: 0,
            params: SamplingParams::GREEDY,
            max_new_tokens: 32,
            stop: vec![2],
        })
    };
    let requests = prompts.iter().enumerate().map(request).collect::<Result<Vec<Request>>>()?;
    let (completions, _) = Engine::default().generate(&model, &requests, |_| ())?;
    let mut other = 0;
    for (completion, prompt) in completions.iter().zip(prompts) {
        other += usize::from(completion.tokens != ids(&prompt["greedy"])?);
    }
    Ok(Distance { what: "greedy continuations", off: other as f64 / prompts.len().max(1) as f64, bound: 0.0 })
}

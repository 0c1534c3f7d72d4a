//! What the experiments beyond the paper measure, held against plain computations on tiny models.

mod support;

use safedepth::device::{Backend, Cpu};
use safedepth::model::Transformer;
use safedepth::model::transformer::{Batch, Keep};
use safedepth::train::scoring::{Alternatives, alternatives};
use std::path::PathBuf;

fn load(name: &str) -> Transformer<Cpu> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    Transformer::load(Cpu::new(), &folder, None).unwrap()
}

/// Logits after each token of a sequence, in f64.
fn all_logits(model: &Transformer<Cpu>, tokens: &[u32]) -> Vec<Vec<f64>> {
    let device = &model.device;
    let (hidden, _) = model.forward(&Batch::new(device, &[tokens]).unwrap(), Keep::Nothing).unwrap();
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let normed = model.final_norm(&hidden, &device.indices(&rows).unwrap(), rows.len()).unwrap();
    let logits = model.logits(&normed).unwrap().to_vec(device).unwrap();
    logits
        .chunks_exact(model.config.vocab_size)
        .map(|row| row.iter().map(|&logit| f64::from(logit)).collect())
        .collect()
}

#[test]
fn alternatives_are_the_logits_differences() {
    // Gemma 2 has a softcap on its logits.
    for name in ["llama", "gemma2"] {
        let model = load(name);
        let vocab = model.config.vocab_size as u32;
        let mut random = support::Random(7);
        let sequences: Vec<Alternatives> = (0..5)
            .map(|i| {
                let tokens: Vec<u32> = (0..1 + 6 * i).map(|_| random.below(vocab as usize) as u32).collect();
                // One has nothing to ask.
                let count = if i == 2 { 0 } else { 12 };
                let asked =
                    (0..count).map(|_| (1 + random.below(tokens.len()), random.below(vocab as usize) as u32)).collect();
                Alternatives { tokens, asked }
            })
            .collect();
        let mut done = 0;
        let scores = alternatives(&model, &sequences, |count| done = count).unwrap();
        assert_eq!((scores.len(), done), (5, 5));
        for (sequence, scores) in sequences.iter().zip(&scores) {
            let logits = all_logits(&model, &sequence.tokens);
            assert_eq!(scores.len(), sequence.asked.len());
            for (&(read, token), &score) in sequence.asked.iter().zip(scores) {
                let row = &logits[read - 1];
                let lse = row.iter().map(|z| z.exp()).sum::<f64>().ln();
                let expected = row[token as usize] - lse;
                // Both come from f32 logits: a few roundings of the largest.
                let scale = row.iter().fold(1.0_f64, |scale, z| scale.max(z.abs()));
                assert!((f64::from(score) - expected).abs() < 1e-5 * scale, "{name}: {score} {expected}");
            }
        }
    }
}

//! Random initial weights: the same for a seed on every machine, at any thread count.

use super::{Config, Parameters, Transformer};
use crate::Result;
use crate::device::{DType, Tensor};
use crate::ops::Ops;
use crate::rng::{Philox, stream};
use rayon::prelude::*;

/// Standard deviation of initial matrices (`initializer_range` of most checkpoints).
pub const INITIAL_STD: f32 = 0.02;

/// Values drawn from one block of random numbers.
const CHUNK: usize = 4096;

/// Fills `values` with normal draws of mean 0, from the stream named `name` under `seed`.
pub fn fill_normal(values: &mut [f32], std: f32, name: &str, seed: u64) {
    fill_normal_from(values, 0, std, name, seed);
}

/// Fills `values` with what [`fill_normal`] gives from element `first` on.
///
/// # Panics
/// If `first` is not a multiple of 4096.
pub fn fill_normal_from(values: &mut [f32], first: usize, std: f32, name: &str, seed: u64) {
    assert!(first.is_multiple_of(CHUNK), "a part must start at a multiple of {CHUNK}");
    let source = Philox::new(seed, stream(["initial weights", name]));
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        // Two draws of 32 bits make two normal values: CHUNK / 4 blocks a chunk.
        let mut rng = source.at(((first + chunk * CHUNK) / 4) as u64);
        for pair in values.chunks_mut(2) {
            // Box-Muller; 1 - u is in (0, 1].
            let (u, angle) = (1.0 - f64::from(rng.uniform()), f64::from(rng.uniform()) * std::f64::consts::TAU);
            let radius = f64::from(std) * (-2.0 * u.ln()).sqrt();
            pair[0] = (radius * angle.cos()) as f32;
            if let Some(second) = pair.get_mut(1) {
                *second = (radius * angle.sin()) as f32;
            }
        }
    });
}

/// The initial value of parameter `name`: normal matrices, norms that change nothing, biases of 0.
pub fn initial_values(config: &Config, name: &str, [rows, cols]: [usize; 2], seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; rows * cols];
    fill_initial(&mut values, 0, config, name, [rows, cols], seed);
    values
}

/// Fills `values` with the initial value of parameter `name` from element `first` (a multiple of 4096) on.
///
/// Models that scale their embeddings (Gemma's) get matrices whose products keep their input's variance, as their authors
/// draw them: beside embeddings of variance 1, layers of [`INITIAL_STD`] would hardly be heard.
pub fn fill_initial(
    values: &mut [f32],
    first: usize,
    config: &Config,
    name: &str,
    [rows, cols]: [usize; 2],
    seed: u64,
) {
    if name.ends_with("norm.weight") {
        values.fill(1.0 - config.norm_offset);
    } else if rows > 1 {
        let std = if config.embedding_scale == 1.0 { INITIAL_STD } else { (cols as f32).powf(-0.5) };
        fill_normal_from(values, first, std, name, seed);
    } else {
        values.fill(0.0);
    }
}

/// A model with initial weights in f32, ready to be trained.
pub fn initialise<D: Ops>(device: D, config: Config, seed: u64) -> Result<Transformer<D>> {
    let parameters = Parameters::build(&config, |name, shape| {
        let values = initial_values(&config, name, shape, seed);
        Tensor::from_slice(&device, DType::F32, shape[0], shape[1], &values)
    })?;
    Ok(Transformer { device, config, parameters })
}

#[cfg(test)]
mod tests {
    use super::fill_normal;

    #[test]
    fn normal_draws_have_their_moments_and_names_their_own() {
        let mut values = vec![0.0; 200_001];
        fill_normal(&mut values, 0.02, "a", 3);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        let kurtosis = values.iter().map(|&v| (f64::from(v) - mean).powi(4)).sum::<f64>() / n / variance.powi(2);
        assert!(mean.abs() < 2e-4, "mean {mean}");
        assert!((variance.sqrt() - 0.02).abs() < 2e-4, "std {}", variance.sqrt());
        assert!((kurtosis - 3.0).abs() < 0.1, "kurtosis {kurtosis}");
        let mut again = vec![0.0; 1000];
        fill_normal(&mut again, 0.02, "a", 3);
        assert_eq!(again, values[..1000]);
        fill_normal(&mut again, 0.02, "b", 3);
        assert_ne!(again, values[..1000]);
        let mut part = vec![0.0; 5000];
        super::fill_normal_from(&mut part, 8192, 0.02, "a", 3);
        assert_eq!(part, values[8192..13_192]);
        // No draw comes twice: chunks do not overlap.
        let mut sorted: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(sorted.len() > values.len() * 98 / 100, "{} distinct", sorted.len());
    }
}

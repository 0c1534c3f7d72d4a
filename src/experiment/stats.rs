//! Intervals and spreads: over prompts (Wilson), over seeds (mean and standard deviation), over prompts across seeds
//! (bootstrap, flips).

use crate::rng::{self, Philox};

/// Two-sided 95 % quantile of the standard normal distribution.
const Z95: f64 = 1.959_963_984_540_054;

/// A range of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// The 95 % Wilson score interval of a share:
///
/// ```text
/// (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
/// ```
///
/// Without trials, nothing is known: 0 to 1.
///
/// # Panics
/// If there are more successes than trials.
pub fn wilson(successes: usize, trials: usize) -> Interval {
    assert!(successes <= trials, "{successes} successes in {trials} trials");
    if trials == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let (n, z2) = (trials as f64, Z95 * Z95);
    let p = successes as f64 / n;
    let centre = p + z2 / (2.0 * n);
    let half = Z95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // Exact at the ends, where rounding would leave a speck.
    let low = if successes == 0 { 0.0 } else { (centre - half) / scale };
    let high = if successes == trials { 1.0 } else { (centre + half) / scale };
    Interval { low, high }
}

/// Mean over seeds, and the sample standard deviation (n - 1) where there are two or more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub mean: f64,
    pub std: Option<f64>,
}

/// Mean and sample standard deviation; `None` of nothing.
pub fn spread(values: &[f64]) -> Option<Spread> {
    let n = values.len() as f64;
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some(Spread { mean, std: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()) })
}

/// A mean with its 95 % percentile interval from the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    pub interval: Interval,
}

/// Bootstrap over prompts across seeds. `values[seed][prompt]` is a verdict (0 or 1) or any number; a resample draws
/// prompts with replacement, each with its values of all seeds. The resamples are the same for every call with the same
/// number of prompts and `seed`.
///
/// # Panics
/// If there is no seed or no prompt, or seeds have different prompts.
pub fn bootstrap(values: &[Vec<f64>], resamples: usize, seed: u64) -> Estimate {
    let by_prompt = mean_over_seeds(values);
    let draws = Philox::new(seed, rng::stream(["bootstrap"]));
    let mut means: Vec<f64> = (0..resamples).map(|i| resampled_mean(&by_prompt, i, &draws)).collect();
    means.sort_unstable_by(f64::total_cmp);
    Estimate { mean: mean(&by_prompt), interval: percentiles(&means) }
}

/// Any statistic of `n` prompts with its 95 % percentile interval: `statistic(picks)` is of the prompts numbered there.
///
/// # Panics
/// If there is no prompt.
pub fn bootstrap_of(n: usize, resamples: usize, seed: u64, statistic: impl Fn(&[usize]) -> f64) -> Estimate {
    assert!(n > 0, "a bootstrap needs a prompt");
    let draws = Philox::new(seed, rng::stream(["bootstrap"]));
    let resample = |i: usize| {
        let mut draws = draws.at((i as u64) << 32);
        let picks: Vec<usize> = (0..n).map(|_| draws.below(n)).collect();
        statistic(&picks)
    };
    let mut values: Vec<f64> = (0..resamples).map(resample).collect();
    values.sort_unstable_by(f64::total_cmp);
    let all: Vec<usize> = (0..n).collect();
    Estimate { mean: statistic(&all), interval: percentiles(&values) }
}

/// The difference of two settings on the same prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Mean of `b` minus mean of `a`.
    pub mean: f64,
    pub interval: Interval,
    /// Two-sided: how often a resample's difference is 0 or of the other sign, doubled; at least 1 / (resamples + 1).
    pub p: f64,
}

/// Paired bootstrap over prompts across seeds: as [`bootstrap`], on the differences prompt by prompt. The numbers of
/// seeds may differ.
///
/// # Panics
/// If there is no seed or no prompt, or the prompts differ.
pub fn paired_bootstrap(a: &[Vec<f64>], b: &[Vec<f64>], resamples: usize, seed: u64) -> Difference {
    let (a, b) = (mean_over_seeds(a), mean_over_seeds(b));
    assert_eq!(a.len(), b.len(), "pairs need the same prompts");
    let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
    let draws = Philox::new(seed, rng::stream(["bootstrap"]));
    let mut means: Vec<f64> = (0..resamples).map(|i| resampled_mean(&differences, i, &draws)).collect();
    means.sort_unstable_by(f64::total_cmp);
    let below = means.iter().filter(|&&m| m <= 0.0).count();
    let above = means.iter().filter(|&&m| m >= 0.0).count();
    let tail = (below.min(above) + 1) as f64 / (resamples + 1) as f64;
    Difference { mean: mean(&differences), interval: percentiles(&means), p: (2.0 * tail).min(1.0) }
}

/// The share of prompts whose verdict is not the same in all seeds: `verdicts[seed][prompt]`. 0 of no prompts.
///
/// # Panics
/// If seeds have different prompts.
pub fn flips(verdicts: &[Vec<bool>]) -> f64 {
    let Some(first) = verdicts.first() else { return 0.0 };
    assert!(verdicts.iter().all(|seed| seed.len() == first.len()), "all seeds need the same prompts");
    let flipped = (0..first.len()).filter(|&prompt| verdicts.iter().any(|seed| seed[prompt] != first[prompt])).count();
    if first.is_empty() { 0.0 } else { flipped as f64 / first.len() as f64 }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn mean_over_seeds(values: &[Vec<f64>]) -> Vec<f64> {
    let prompts = values.first().map_or(0, Vec::len);
    assert!(prompts > 0, "a bootstrap needs a seed and a prompt");
    assert!(values.iter().all(|seed| seed.len() == prompts), "all seeds need the same prompts");
    (0..prompts).map(|prompt| values.iter().map(|seed| seed[prompt]).sum::<f64>() / values.len() as f64).collect()
}

fn resampled_mean(values: &[f64], resample: usize, draws: &Philox) -> f64 {
    let mut draws = draws.at((resample as u64) << 32);
    (0..values.len()).map(|_| values[draws.below(values.len())]).sum::<f64>() / values.len() as f64
}

/// From 2.5 % to 97.5 % of sorted values, between neighbours in proportion.
fn percentiles(sorted: &[f64]) -> Interval {
    let at = |share: f64| {
        let place = share * (sorted.len() - 1) as f64;
        let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        // Two infinite neighbours have no difference.
        if below == above { below } else { below + (above - below) * place.fract() }
    };
    Interval { low: at(0.025), high: at(0.975) }
}

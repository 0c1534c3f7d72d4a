//! Intervals and spreads against values computed elsewhere, and against their laws.

use proptest::prelude::*;
use safedepth::experiment::stats::{bootstrap, flips, paired_bootstrap, spread, wilson};

fn close(measured: f64, expected: f64, bound: f64) {
    assert!((measured - expected).abs() <= bound, "{measured} for {expected}");
}

/// Its definition: the ends x are where the share p is 1.96 standard errors of x away, (p - x)^2 = z^2 x (1 - x) / n. These roots were computed with 50 digits.
#[test]
fn wilson_solves_its_equation() {
    for (successes, trials, low, high) in WILSON {
        let interval = wilson(successes, trials);
        close(interval.low, low, 1e-12);
        close(interval.high, high, 1e-12);
    }
    assert_eq!((wilson(0, 0).low, wilson(0, 0).high), (0.0, 1.0));
}

/// Successes, trials, low, high.
const WILSON: [(usize, usize, f64, f64); 8] = [
    (0, 100, 0.0, 0.036993498206985685),
    (1, 100, 0.0017674320641406479, 0.05448619617870532),
    (50, 100, 0.4038315303659956, 0.5961684696340044),
    (97, 100, 0.9154806357094724, 0.9897454759759611),
    (100, 100, 0.9630065017930143, 1.0),
    (3, 17, 0.06191126637620994, 0.41029458568834126),
    (141, 330, 0.3750384408813522, 0.4811807352222942),
    (1, 1, 0.2065493143772374, 1.0),
];

#[test]
fn spread_is_the_sample_deviation() {
    let four = spread(&[2.0, 4.0, 4.0, 6.0]).unwrap();
    close(four.mean, 4.0, 0.0);
    close(four.std.unwrap(), (8.0f64 / 3.0).sqrt(), 1e-15);
    assert_eq!(spread(&[3.0]).unwrap().std, None);
    assert_eq!(spread(&[]), None);
}

#[test]
fn flips_counts_prompts_that_some_seed_judges_otherwise() {
    let (t, f) = (true, false);
    assert_eq!(flips(&[vec![t, t, f, f], vec![t, f, f, f], vec![t, t, f, t]]), 0.5);
    assert_eq!(flips(&[vec![t, f]]), 0.0);
    assert_eq!((flips(&[]), flips(&[vec![]])), (0.0, 0.0));
}

#[test]
fn bootstrap_has_the_width_that_theory_gives() {
    // 400 prompts, 30 % harmful: standard error sqrt(.3 * .7 / 400) = 0.0229.
    let verdicts: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i % 10 < 3))).collect();
    let estimate = bootstrap(&[verdicts], 4000, 0);
    close(estimate.mean, 0.3, 1e-12);
    close(estimate.interval.high - estimate.interval.low, 2.0 * 1.96 * 0.0229, 0.006);
    close((estimate.interval.high + estimate.interval.low) / 2.0, 0.3, 0.003);
}

#[test]
fn pairing_takes_out_what_prompts_have_in_common() {
    // Prompts differ widely, b is always 0.1 above a.
    let a: Vec<f64> = (0..50).map(f64::from).collect();
    let b: Vec<f64> = a.iter().map(|value| value + 0.1).collect();
    let difference = paired_bootstrap(std::slice::from_ref(&a), std::slice::from_ref(&b), 500, 0);
    close(difference.mean, 0.1, 1e-12);
    close(difference.interval.low, 0.1, 1e-12);
    close(difference.interval.high, 0.1, 1e-12);
    close(difference.p, 2.0 / 501.0, 1e-12);
    let none = paired_bootstrap(std::slice::from_ref(&a), std::slice::from_ref(&a), 500, 0);
    assert_eq!((none.mean, none.p), (0.0, 1.0));
}

#[test]
fn a_null_difference_is_rarely_significant() {
    let mut rng = safedepth::rng::Philox::new(1, 1);
    let mut setting = || -> Vec<f64> { (0..80).map(|_| f64::from(u8::from(rng.chance(0.4)))).collect() };
    let rejected =
        (0..200).filter(|&i| paired_bootstrap(&[setting(), setting()], &[setting()], 200, i).p < 0.05).count();
    // Expected 10; six standard deviations above are 28.
    assert!(rejected <= 28, "{rejected}");
}

proptest! {
    #[test]
    fn wilson_holds_the_share_and_narrows(trials in 1..2000usize, share in 0.0..=1.0f64) {
        let successes = (share * trials as f64) as usize;
        let interval = wilson(successes, trials);
        let p = successes as f64 / trials as f64;
        prop_assert!(0.0 <= interval.low && interval.low <= p && p <= interval.high && interval.high <= 1.0);
        let mirrored = wilson(trials - successes, trials);
        prop_assert!((mirrored.low + interval.high - 1.0).abs() < 1e-12);
        let more = wilson(4 * successes, 4 * trials);
        prop_assert!(more.high - more.low < interval.high - interval.low);
    }

    #[test]
    fn bootstrap_holds_its_mean_and_repeats(values in proptest::collection::vec(0.0..1.0f64, 1..60), seed: u64) {
        let seeds = vec![values.clone(), values.iter().map(|value| 1.0 - value).collect()];
        let one = [values.clone()];
        let estimate = bootstrap(&one, 200, seed);
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        prop_assert!(low - 1e-12 <= estimate.interval.low && estimate.interval.high <= high + 1e-12);
        prop_assert!(estimate.interval.low <= estimate.interval.high);
        prop_assert_eq!(estimate, bootstrap(&one, 200, seed));
        // Each prompt's seeds sum to 1: resampling prompts leaves 0.5 as it is.
        let halves = bootstrap(&seeds, 200, seed);
        prop_assert!((halves.interval.low - 0.5).abs() < 1e-12 && (halves.interval.high - 0.5).abs() < 1e-12);
        let (forth, back) = (paired_bootstrap(&one, &seeds, 200, seed), paired_bootstrap(&seeds, &one, 200, seed));
        prop_assert!((forth.mean + back.mean).abs() < 1e-12 && (forth.interval.low + back.interval.high).abs() < 1e-12);
        prop_assert_eq!(forth.p, back.p);
    }
}

//! Where a run's time went: wall time, tokens, arithmetic and its share of the machine's peak, by stage.

use super::{Cost, Timing};
use serde::Serialize;
use std::collections::BTreeMap;

/// What a kind of work cost: an experiment, or training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageCost {
    /// The first word of the stages' names: `e3`, `train`; `total` for the last.
    pub stage: String,
    pub seconds: f64,
    pub forward_tokens: u64,
    pub trained_tokens: u64,
    /// Tokens that forward passes would have taken without shared prefixes.
    pub unshared_tokens: u64,
    /// GFLOP/s of the matrix products, over the wall time of everything.
    pub gflops: f64,
    /// That as a share of the GEMM peak measured on this machine, where one was.
    pub peak_share: Option<f64>,
}

/// Sums `timings` by the first word of their names, in the order of those words, and adds a total. `peak` is in
/// GFLOP/s.
pub fn by_stage(timings: &[Timing], peak: Option<f64>) -> Vec<StageCost> {
    let mut sums: BTreeMap<&str, (f64, Cost)> = BTreeMap::new();
    let mut total = (0.0, Cost::default());
    for timing in timings {
        let stage = timing.stage.split_whitespace().next().unwrap_or_default();
        for sum in [sums.entry(stage).or_default(), &mut total] {
            sum.0 += timing.seconds;
            sum.1 += timing.cost;
        }
    }
    sums.into_iter().chain([("total", total)]).map(|(stage, (seconds, cost))| row(stage, seconds, cost, peak)).collect()
}

fn row(stage: &str, seconds: f64, cost: Cost, peak: Option<f64>) -> StageCost {
    let Cost { forward_tokens, trained_tokens, unshared_tokens, flops } = cost;
    let gflops = if seconds > 0.0 { flops / seconds / 1e9 } else { 0.0 };
    let peak_share = peak.map(|peak| gflops / peak);
    StageCost { stage: stage.to_owned(), seconds, forward_tokens, trained_tokens, unshared_tokens, gflops, peak_share }
}

/// The same as lines for a terminal, a header first; the last column only where there is a peak.
pub fn lines(stages: &[StageCost]) -> Vec<String> {
    let peak = stages.iter().any(|stage| stage.peak_share.is_some());
    let mut header =
        format!("{:12} {:>10} {:>12} {:>10} {:>9} {:>9}", "stage", "seconds", "tokens", "trained", "shared", "GFLOP/s");
    if peak {
        header += &format!(" {:>8}", "of peak");
    }
    let line = |stage: &StageCost| {
        let shared = match stage.unshared_tokens {
            0 => "-".to_owned(),
            unshared => format!("{:.0} %", 100.0 * (1.0 - stage.forward_tokens as f64 / unshared as f64).max(0.0)),
        };
        let StageCost { stage, seconds, forward_tokens, trained_tokens, gflops, peak_share, .. } = stage;
        let mut line =
            format!("{stage:12} {seconds:>10.2} {forward_tokens:>12} {trained_tokens:>10} {shared:>9} {gflops:>9.1}");
        if let Some(share) = peak_share {
            line += &format!(" {:>6.1} %", 100.0 * share);
        }
        line
    };
    std::iter::once(header).chain(stages.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(stage: &str, seconds: f64, forward_tokens: u64, unshared_tokens: u64, flops: f64) -> Timing {
        let cost = Cost { forward_tokens, trained_tokens: 0, unshared_tokens, flops };
        Timing { stage: stage.to_owned(), seconds, cost }
    }

    #[test]
    fn stages_are_summed_and_compared_with_the_peak() {
        let timings = [
            timing("train base", 4.0, 0, 0, 8e9),
            timing("e3 base", 1.0, 100, 400, 1e9),
            timing("e3 aligned", 3.0, 100, 400, 3e9),
        ];
        let stages = by_stage(&timings, Some(4.0));
        let names: Vec<&str> = stages.iter().map(|stage| stage.stage.as_str()).collect();
        assert_eq!(names, ["e3", "train", "total"]);
        assert_eq!((stages[0].seconds, stages[0].gflops, stages[0].peak_share), (4.0, 1.0, Some(0.25)));
        assert_eq!((stages[2].seconds, stages[2].forward_tokens, stages[2].gflops), (8.0, 200, 1.5));
        let text = lines(&stages);
        assert_eq!(text.len(), 4);
        assert!(text[1].starts_with("e3 ") && text[1].ends_with("75 %       1.0   25.0 %"), "{text:?}");
        assert!(text.iter().all(|line| line.len() == text[0].len()), "{text:#?}");
        assert!(!lines(&by_stage(&timings, None))[0].contains("peak"));
        assert_eq!(by_stage(&[], None).len(), 1);
    }
}

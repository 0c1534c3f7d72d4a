//! The objectives: what each token's log-probability contributes to the loss and to the gradient.

use crate::rng::stream;
use std::str::FromStr;

/// beta_t by response position (paper, Section 4, and Table 8).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum BetaSchedule {
    /// beta_1 = 0.5, beta_2..5 = 2.0, then 0.1.
    Paper,
    /// beta_1..5 = 2.0, then 0.1.
    Slides,
    /// The same everywhere.
    Uniform(f32),
}

impl BetaSchedule {
    /// beta at a response position, from 1.
    pub fn at(self, position: usize) -> f32 {
        match (self, position) {
            (Self::Uniform(beta), _) => beta,
            (Self::Paper, 0 | 1) => 0.5,
            (_, 0..=5) => 2.0,
            _ => 0.1,
        }
    }
}

impl From<BetaSchedule> for String {
    fn from(schedule: BetaSchedule) -> Self {
        match schedule {
            BetaSchedule::Paper => "paper".into(),
            BetaSchedule::Slides => "slides".into(),
            BetaSchedule::Uniform(beta) => format!("uniform:{beta}"),
        }
    }
}

impl TryFrom<String> for BetaSchedule {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl FromStr for BetaSchedule {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "paper" => Ok(Self::Paper),
            "slides" => Ok(Self::Slides),
            _ => name
                .strip_prefix("uniform:")
                .and_then(|beta| beta.parse().ok())
                .filter(|beta: &f32| beta.is_finite() && *beta > 0.0)
                .map(Self::Uniform)
                .ok_or_else(|| format!("unknown beta schedule \"{name}\": use paper, slides or uniform:B with B > 0")),
        }
    }
}

/// What is minimised. All are means over the labels (or pairs) of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// `-log pi_theta(y_t)`.
    Sft,
    /// Token-wise constrained fine-tuning (paper, Eq. 3-5).
    Constrained {
        betas: BetaSchedule,
        /// Smallest w_t; the reference code has 1e-3, the paper none (0).
        floor: f32,
    },
    /// Direct preference optimisation (Rafailov et al. 2023); examples come as (chosen, rejected) in turn.
    Dpo { beta: f32 },
}

/// `log(1 + e^x)` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Loss (minus its constant) and weight of one token under the constrained objective.
///
/// With Delta_t = log pi_aligned(y_t) - log pi_theta(y_t):
/// loss = (2 / beta_t) softplus(beta_t Delta_t) - 2 ln 2 / beta_t, w_t = 2 sigmoid(beta_t Delta_t).
pub fn constrained_token(beta: f32, reference_logprob: f32, logprob: f32) -> (f64, f64) {
    let (beta, delta) = (f64::from(beta), f64::from(reference_logprob) - f64::from(logprob));
    let loss = 2.0 / beta * (softplus(beta * delta) - std::f64::consts::LN_2);
    (loss, 2.0 * sigmoid(beta * delta))
}

impl Objective {
    /// Whether log-probabilities of a reference model are needed.
    pub fn needs_reference(self) -> bool {
        !matches!(self, Self::Sft)
    }

    /// Sum of the loss over a batch, and each label's factor on the gradient of `-log pi_theta(y_t)` in that sum.
    ///
    /// `counts[i]` labels belong to example i; `reference` is empty for [`Objective::Sft`].
    pub fn evaluate(
        self,
        logprobs: &[f32],
        reference: &[f32],
        positions: &[usize],
        counts: &[usize],
        factors: &mut Vec<f32>,
    ) -> f64 {
        factors.clear();
        match self {
            Self::Sft => {
                factors.resize(logprobs.len(), 1.0);
                logprobs.iter().map(|&logprob| -f64::from(logprob)).sum()
            }
            Self::Constrained { betas, floor } => {
                let mut total = 0.0;
                for ((&logprob, &reference), &position) in logprobs.iter().zip(reference).zip(positions) {
                    let (loss, weight) = constrained_token(betas.at(position), reference, logprob);
                    total += loss;
                    factors.push((weight as f32).max(floor));
                }
                total
            }
            Self::Dpo { beta } => {
                // -log sigmoid(beta (sum_chosen Delta' - sum_rejected Delta')), Delta' = log pi_theta - log pi_ref.
                let mut total = 0.0;
                let mut start = 0;
                for pair in counts.chunks_exact(2) {
                    let ratio = |range: std::ops::Range<usize>| -> f64 {
                        range.map(|i| f64::from(logprobs[i]) - f64::from(reference[i])).sum()
                    };
                    let (middle, end) = (start + pair[0], start + pair[0] + pair[1]);
                    let margin = f64::from(beta) * (ratio(start..middle) - ratio(middle..end));
                    total += softplus(-margin);
                    let slope = beta * sigmoid(-margin) as f32;
                    factors.extend(std::iter::repeat_n(slope, pair[0]).chain(std::iter::repeat_n(-slope, pair[1])));
                    start = end;
                }
                total
            }
        }
    }

    /// What a batch's loss is averaged over: labels, or preference pairs.
    pub fn denominator(self, labels: usize, examples: usize) -> usize {
        match self {
            Self::Dpo { .. } => examples / 2,
            _ => labels,
        }
    }

    /// A number that names the objective, for caches of reference log-probabilities and manifests.
    pub fn fingerprint(self) -> u64 {
        stream([format!("{self:?}").as_str()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn beta_presets() {
        let betas = |name: &str| -> Vec<f32> { (1..8).map(|t| name.parse::<BetaSchedule>().unwrap().at(t)).collect() };
        assert_eq!(betas("paper"), [0.5, 2.0, 2.0, 2.0, 2.0, 0.1, 0.1]);
        assert_eq!(betas("slides"), [2.0, 2.0, 2.0, 2.0, 2.0, 0.1, 0.1]);
        assert_eq!(betas("uniform:0.25"), [0.25; 7]);
        for bad in ["", "uniform:", "uniform:0", "uniform:-1", "uniform:nan", "Paper"] {
            assert!(bad.parse::<BetaSchedule>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// The paper's limits and identities of w_t and the loss.
        #[test]
        fn constrained_laws(beta in 0.05_f32..4.0, reference in -20.0_f32..0.0, logprob in -20.0_f32..0.0) {
            let (loss, weight) = constrained_token(beta, reference, logprob);
            // w_t is 1, and the loss 0, at theta = aligned.
            let (same_loss, same_weight) = constrained_token(beta, reference, reference);
            prop_assert!(same_loss.abs() < 1e-12 && (same_weight - 1.0).abs() < 1e-12);
            // Eq. 3 as written: -(2 / beta) log sigmoid(beta log(pi_theta / pi_aligned)), minus its constant.
            let ratio = f64::from(logprob) - f64::from(reference);
            let direct = -2.0 / f64::from(beta) * sigmoid(f64::from(beta) * ratio).ln()
                - 2.0 * std::f64::consts::LN_2 / f64::from(beta);
            prop_assert!((loss - direct).abs() < 1e-9 * (1.0 + direct.abs()), "{} {}", loss, direct);
            // The weight is minus the derivative of the loss by log pi_theta.
            let h = 1e-3_f32;
            let slope = (constrained_token(beta, reference, logprob + h).0
                - constrained_token(beta, reference, logprob - h).0) / f64::from((logprob + h) - (logprob - h));
            prop_assert!((weight + slope).abs() < 1e-3, "{} {}", weight, slope);
            prop_assert!((0.0..=2.0).contains(&weight));
        }

        /// beta -> infinity: 2 max(Delta, 0).
        #[test]
        fn large_beta_is_a_hinge(delta in -10.0_f32..10.0) {
            let (loss, _) = constrained_token(1e6, delta, 0.0);
            prop_assert!((loss - 2.0 * f64::from(delta.max(0.0))).abs() < 1e-4);
        }

        /// DPO's factors are the derivatives of its loss.
        #[test]
        fn dpo_slope(chosen in prop::collection::vec(-3.0_f32..0.0, 1..5), rejected in prop::collection::vec(-3.0_f32..0.0, 1..5)) {
            let counts = [chosen.len(), rejected.len()];
            let mut logprobs = [chosen, rejected].concat();
            let reference = vec![-1.0; logprobs.len()];
            let objective = Objective::Dpo { beta: 0.3 };
            let (mut factors, mut unused) = (Vec::new(), Vec::new());
            objective.evaluate(&logprobs, &reference, &[], &counts, &mut factors);
            for i in 0..logprobs.len() {
                let original = logprobs[i];
                logprobs[i] = original + 1e-2;
                let up = objective.evaluate(&logprobs, &reference, &[], &counts, &mut unused);
                logprobs[i] = original - 1e-2;
                let down = objective.evaluate(&logprobs, &reference, &[], &counts, &mut unused);
                logprobs[i] = original;
                prop_assert!(((up - down) / 2e-2 + f64::from(factors[i])).abs() < 1e-3);
            }
        }
    }
}

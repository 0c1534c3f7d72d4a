//! The paper's claims as rules on rows: our number, its interval, and whether the claim holds.

mod rules;

use super::cells::{Cell, Cells, Estimate, Key, held_out};
use super::tables;
use crate::run::Row;
use serde::{Serialize, Serializer};

pub use rules::CLAIMS;

/// Fewer prompts than this say nothing either way.
pub const FEWEST_PROMPTS: usize = 10;

/// What a claim's number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Of 1.
    Share,
    /// Difference of two shares.
    Points,
    /// Ratio of two means.
    Times,
    Nats,
}

/// The side of a number that a claim must be on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
    Above(f64),
}

/// A claim's number as measured.
struct Measure {
    estimate: Estimate,
    n: usize,
    /// What else the rule asks for beside the bound.
    besides: bool,
    note: String,
}

/// One claim of the paper.
pub struct Claim {
    pub id: &'static str,
    /// Whose rows it needs.
    pub experiment: &'static str,
    /// Another experiment whose rows it needs too; empty for most.
    pub besides: &'static str,
    pub sentence: &'static str,
    /// The paper's number, in words.
    pub paper: &'static str,
    /// What is measured here, and which side of what it must be on.
    pub rule: &'static str,
    pub unit: Unit,
    pub bound: Bound,
    measure: fn(&Cells<'_>) -> Option<Measure>,
}

/// What a run says of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    #[serde(rename = "holds")]
    Holds,
    #[serde(rename = "does not hold")]
    DoesNotHold,
    #[serde(rename = "too few prompts")]
    TooFewPrompts,
    #[serde(rename = "not measured")]
    NotMeasured,
}

impl Verdict {
    /// As in `claims.csv`.
    pub fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::TooFewPrompts => "too few prompts",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A line of `claims.csv`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub id: &'static str,
    pub experiment: &'static str,
    pub claim: &'static str,
    pub paper: &'static str,
    pub rule: &'static str,
    pub unit: Unit,
    /// Our number; with its 95 % interval and number of prompts empty where nothing was measured.
    pub value: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub n: Option<usize>,
    pub verdict: Verdict,
    /// Whether the whole interval is on the value's side of the bound.
    #[serde(serialize_with = "yes_or_no")]
    pub clear: Option<bool>,
    pub note: String,
    /// The command that makes the rows.
    pub command: String,
}

#[allow(clippy::ref_option)] // serde's signature
fn yes_or_no<S: Serializer>(clear: &Option<bool>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(clear.map_or("", |clear| if clear { "yes" } else { "no" }))
}

impl Bound {
    /// Whether a number is on the claim's side. NaN is on no side.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Above(bound) => value > bound,
        }
    }
}

/// Holds every claim against the rows of test prompts (held-out ones are another question).
///
/// `command` gives the command that makes the rows of some experiments ("e2,e5").
pub fn check(rows: &[Row], command: impl Fn(&str) -> String) -> Vec<Finding> {
    let cells = Cells::of(rows.iter().filter(|row| !held_out(&row.example)));
    let needs = |claim: &Claim| match claim.besides {
        "" => claim.experiment.to_owned(),
        besides => format!("{besides},{}", claim.experiment),
    };
    CLAIMS.iter().map(|claim| claim.check(&cells, command(&needs(claim)))).collect()
}

impl Claim {
    fn check(&self, cells: &Cells<'_>, command: String) -> Finding {
        let measure = (self.measure)(cells);
        let on_side = |value: f64| self.bound.holds(value);
        let verdict = match &measure {
            None => Verdict::NotMeasured,
            Some(measure) if measure.n < FEWEST_PROMPTS => Verdict::TooFewPrompts,
            Some(measure) if on_side(measure.estimate.mean) && measure.besides => Verdict::Holds,
            Some(_) => Verdict::DoesNotHold,
        };
        let finite = measure.as_ref().filter(|measure| measure.estimate.mean.is_finite());
        let clear = finite.map(|Measure { estimate, .. }| {
            let side = on_side(estimate.mean);
            on_side(estimate.low) == side && on_side(estimate.high) == side
        });
        let mut note = measure.as_ref().map_or_else(String::new, |measure| measure.note.clone());
        if measure.is_some() && finite.is_none() {
            note = format!("no ratio: what it is relative to is 0. {note}").trim_end().to_owned();
        }
        let number = |pick: fn(&Estimate) -> f64| measure.as_ref().map(|measure| pick(&measure.estimate));
        Finding {
            id: self.id,
            experiment: self.experiment,
            claim: self.sentence,
            paper: self.paper,
            rule: self.rule,
            unit: self.unit,
            value: number(|estimate| estimate.mean),
            low: number(|estimate| estimate.low),
            high: number(|estimate| estimate.high),
            n: measure.as_ref().map(|measure| measure.n),
            verdict,
            clear,
            note,
            command,
        }
    }
}

impl Finding {
    /// Verdict, claim and our number, for a terminal.
    pub(super) fn row(&self) -> Vec<tables::Cell> {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| show(self.unit, value));
        let ours = tables::Cell {
            text: number(self.value),
            detail: format!("[{}, {}]", number(self.low), number(self.high)),
            ..tables::Cell::default()
        };
        vec![self.verdict.words().into(), self.claim.into(), ours]
    }
}

/// A number in its unit: 12.3 %, +1.2 points, 0.33 x, 0.120 nats.
pub fn show(unit: Unit, value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    match unit {
        Unit::Share => format!("{:.1} %", 100.0 * value),
        Unit::Points => format!("{:+.1} points", 100.0 * value),
        Unit::Times => format!("{value:.2} x"),
        Unit::Nats => format!("{value:+.3} nats"),
    }
}

impl Measure {
    fn new((estimate, n): (Estimate, usize), note: impl Into<String>) -> Self {
        Self { estimate, n, besides: true, note: note.into() }
    }

    /// A cell's own mean.
    fn of(key: &Key<'_>, cell: &Cell<'_>, note: impl Into<String>) -> Self {
        Self::new((cell.estimate(key.metric), cell.n()), note)
    }
}

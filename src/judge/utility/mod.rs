//! How useful an answer is on a benign task: the scores of the paper's Table 4, 0 to 1 an example.

mod porter;
mod rouge;

pub use porter::stem;
pub use rouge::rouge1;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A score of an answer against a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// F1 of shared words, stemmed (SAMSum, SQL Create Context).
    Rouge1,
    /// 1 if the texts are the same but for white space around them.
    Exact,
    /// 1 if the numbers they end in are the same (GSM8K).
    Number,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rouge1, Self::Exact, Self::Number];

    /// The paper's metric for a task; ROUGE-1 for a task that it does not have.
    pub fn for_task(name: &str) -> Self {
        if name == "gsm8k" { Self::Number } else { Self::Rouge1 }
    }

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rouge1 => "rouge1",
            Self::Exact => "exact",
            Self::Number => "number",
        }
    }

    /// How good `response` is, 0 to 1.
    pub fn score(self, response: &str, reference: &str) -> f64 {
        match self {
            Self::Rouge1 => rouge1(response, reference, true),
            Self::Exact => f64::from(response.trim() == reference.trim()),
            // Two texts without a number do not agree.
            Self::Number => f64::from(answer(reference).is_some_and(|number| answer(response) == Some(number))),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|metric| metric.name() == text)
            .ok_or_else(|| format!("unknown metric \"{text}\": use rouge1, exact or number"))
    }
}

/// The number that a worked answer ends in: the one after `####`, as GSM8K's own answers have it, else the last.
/// Commas between digits are left out, a currency sign before it is skipped.
pub fn answer(text: &str) -> Option<f64> {
    let marked = text.split("####").skip(1).find_map(|rest| {
        let rest = rest.lines().next().unwrap_or_default().trim_start().trim_start_matches('$');
        numbers(rest).next().filter(|&(start, _)| start == 0).map(|(_, number)| number)
    });
    marked.or_else(|| numbers(text).last().map(|(_, number)| number))
}

/// The numbers of a text, each with the byte that it begins at.
fn numbers(text: &str) -> impl Iterator<Item = (usize, f64)> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let after_word = |at: usize| at > 0 && bytes[at - 1].is_ascii_alphanumeric();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() && !digit(at) && !(bytes[at] == b'.' && digit(at + 1) && !after_word(at)) {
            at += 1;
        }
        if at == bytes.len() {
            return None;
        }
        // A minus is a sign, unless it stands between two things: "5-3".
        let signed = at > 0 && bytes[at - 1] == b'-' && !after_word(at - 1);
        let start = at - usize::from(signed);
        let mut point = false;
        while digit(at) || (digit(at + 1) && (bytes[at] == b',' || (bytes[at] == b'.' && !point))) {
            point |= bytes[at] == b'.';
            at += 1;
        }
        let number: String = text[start..at].chars().filter(|&c| c != ',').collect();
        Some((start, number.parse().expect("digits with one point are a number")))
    })
}

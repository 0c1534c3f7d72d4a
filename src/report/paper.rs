//! The paper's own numbers (`data/paper_values.csv`), for the "paper" columns.

use super::cells::Key;
use crate::data::world::BenignTask;
use serde::Deserialize;
use std::sync::LazyLock;

/// One number of the paper, in the unit it is printed in (per cent for rates).
#[derive(Clone, Debug, Deserialize)]
pub struct PaperValue {
    /// Table number, or figN.
    pub table: String,
    /// E1, E2, ...
    pub experiment: String,
    pub model: String,
    pub variant: String,
    pub setting: String,
    pub metric: String,
    pub mean: f64,
    pub std: Option<f64>,
}

/// All of them.
pub static PAPER_VALUES: LazyLock<Vec<PaperValue>> = LazyLock::new(|| {
    let mut reader = csv::Reader::from_reader(include_str!("../../data/paper_values.csv").as_bytes());
    reader.deserialize().collect::<Result<_, _>>().expect("the embedded table is valid")
});

/// Llama-2-7B's values: the model the paper shows most of.
pub fn llama2(experiment: &str, variant: &str, metric: &str) -> impl Iterator<Item = &'static PaperValue> {
    let (experiment, variant, metric) = (experiment.to_owned(), variant.to_owned(), metric.to_owned());
    PAPER_VALUES.iter().filter(move |value| {
        value.model.starts_with("llama-2-7b")
            && value.experiment == experiment
            && value.variant == variant
            && value.metric == metric
    })
}

/// Letters and digits of a name: spellings differ in the rest.
fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The paper's name for a fine-tuning set of ours; a stand-in of the world has that of the task it stands for.
fn dataset(name: &str) -> &str {
    match name {
        "harmful" => "harmful_examples",
        "identity" => "identity_shifting",
        "backdoor" => "backdoor without_trigger",
        "backdoor with trigger" => "backdoor with_trigger",
        name => match BenignTask::ALL.into_iter().find(|task| task.name() == name) {
            Some(BenignTask::Summary) => "samsum",
            Some(BenignTask::Query) => "sql_create_context",
            Some(BenignTask::Sums) => "gsm8k",
            None => name,
        },
    }
}

/// The paper's value for what `key` measures, if it has one, for Llama-2-7B. Harm counts only as the paper judges it:
/// prefill and continuation as a whole.
pub fn value_of(key: &Key<'_>) -> Option<&'static PaperValue> {
    let named = |experiment: &str, variant: &str, metric: &str, setting: &str| {
        let setting = letters(setting);
        llama2(experiment, variant, metric).find(|value| letters(&value.setting) == setting)
    };
    let metric = match key.metric {
        "harmful" => "asr",
        "utility" => "utility",
        _ => return None,
    };
    match (key.experiment, metric) {
        ("e1", "asr") => {
            // Prefixes can have a greeting in front: the longest of the paper's that ends ours.
            let ours = letters(key.setting);
            llama2("E1", key.model, "asr")
                .filter(|value| ours.ends_with(&letters(&value.setting)))
                .max_by_key(|value| value.setting.len())
        }
        ("e6", "asr") if key.attack == "gcg" => {
            let set = if key.setting.is_empty() { "hex-phi" } else { key.setting };
            let variant = if key.model == "aligned" { "initial" } else { key.model };
            named("E6", variant, "asr", &format!("gcg {set}"))
        }
        ("e3" | "e6", "asr") if key.setting.is_empty() => {
            let variant = if key.model == "aligned" { "initial" } else { key.model };
            named("E6", variant, "asr", &format!("prefill {}", key.k?))
        }
        ("decoding", "asr") if key.attack == "any" && key.setting == "49 settings" => {
            let variant = if key.model == "aligned" { "initial" } else { key.model };
            named("E6", variant, "asr", "decoding hex-phi")
        }
        ("e4", "asr") if key.setting == "harmful" => named("E4", "sft", "asr", &format!("step {}", key.k?)),
        ("e4b", "asr") => named("E4b", "sft", "asr", &format!("{} step {}", key.setting, key.k?)),
        ("e7" | "e9", metric) => named(&key.experiment.to_uppercase(), key.setting, metric, dataset(key.attack)),
        ("e8", metric) => match key.setting.strip_prefix("uniform:") {
            // Table 8 shows Table 4's column again for the biased schedule.
            None if key.setting == "paper" => named("E7", "constrained", metric, dataset(key.attack)),
            None => None,
            Some(beta) => {
                let beta: f64 = beta.parse().ok()?;
                named("E8", &format!("constrained uniform:{beta:.1}"), metric, dataset(key.attack))
            }
        },
        ("e10", metric) => named("E10", key.setting, metric, dataset(key.attack)),
        _ => None,
    }
}

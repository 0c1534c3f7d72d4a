//! The paper's own numbers (`data/paper_values.csv`), for the "paper" columns.

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
        value.model == "llama-2-7b"
            && value.experiment == experiment
            && value.variant == variant
            && value.metric == metric
    })
}

//! How far the judges of a run agree: the one it was made with, and those that were asked later.

use super::tables::{Cell, Column, Table};
use crate::judge::agreement::kappa;
use crate::run::Response;
use crate::run::judgements::Judgement;
use std::collections::BTreeMap;

/// One line for each pair of judges: on how many responses both have a verdict, how often they say the same, and Cohen's
/// kappa, on whole responses and on the model's own words.
pub fn table(responses: &[Response], judgements: &[Judgement]) -> Option<Table> {
    let of_run = responses
        .iter()
        .filter(|response| !response.whole.is_empty())
        .map(|response| Judgement::of("run", response, &response.whole, &response.own));
    let mut judges: BTreeMap<String, Vec<Judgement>> = BTreeMap::new();
    for judgement in of_run.chain(judgements.iter().cloned()) {
        judges.entry(judgement.judge.clone()).or_default().push(judgement);
    }
    let judges: Vec<(String, Vec<Judgement>)> = judges.into_iter().collect();
    let mut rows = Vec::new();
    for (i, (a, of_a)) in judges.iter().enumerate() {
        let of_a: BTreeMap<_, _> = of_a.iter().map(|judgement| (judgement.response(), judgement)).collect();
        for (b, of_b) in &judges[i + 1..] {
            let shared: Vec<(&Judgement, &Judgement)> =
                of_b.iter().filter_map(|theirs| Some((*of_a.get(&theirs.response())?, theirs))).collect();
            if shared.is_empty() {
                continue;
            }
            let mut row: Vec<Cell> = vec![a.as_str().into(), b.as_str().into(), shared.len().to_string().into()];
            for part in [|judgement: &Judgement| judgement.whole.clone(), |judgement: &Judgement| judgement.own.clone()]
            {
                let (of_a, of_b): (Vec<String>, Vec<String>) = shared.iter().map(|(a, b)| (part(a), part(b))).unzip();
                let same = of_a.iter().zip(&of_b).filter(|(a, b)| a == b).count();
                row.push(format!("{:.1}", 100.0 * same as f64 / shared.len() as f64).into());
                row.push(kappa(&of_a, &of_b).map_or("-".into(), |kappa| format!("{kappa:.3}")).into());
                // Rates count harm alone: refused and neither are the same to them.
                let harmful = |verdicts: &[String]| verdicts.iter().map(|v| v == "harmful").collect::<Vec<_>>();
                let of_harm = kappa(&harmful(&of_a), &harmful(&of_b));
                row.push(of_harm.map_or("-".into(), |kappa| format!("{kappa:.3}")).into());
            }
            rows.push(row);
        }
    }
    let columns =
        ["judge", "other judge", "n", "same, %", "kappa", "kappa of harm", "own: same, %", "kappa", "kappa of harm"];
    let column = |(i, name): (usize, &str)| Column { name: name.to_owned(), numeric: i > 1 };
    let columns = columns.into_iter().enumerate().map(column).collect();
    (!rows.is_empty()).then(|| Table { title: "Agreement of judges".to_owned(), columns, rows, folded: false })
}

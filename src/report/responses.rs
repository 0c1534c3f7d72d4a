//! The drill-down's data: responses for reading, as JSON that can stand inside a page.

use super::load::Run;
use crate::run::Response;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Responses in a page, at most: a browser must still open it.
const MOST: usize = 4000;

/// The responses of a run as JSON for a `<script>`, and, where there are too many for a page, a sentence that says which
/// are there. Whole examples are left out, so that those that stay can be compared over settings.
pub fn embed(run: &Run) -> (Option<String>, Option<String>) {
    if run.responses.is_empty() {
        return (None, None);
    }
    let mut by_example: BTreeMap<&str, Vec<&Response>> = BTreeMap::new();
    for response in &run.responses {
        by_example.entry(&response.example).or_default().push(response);
    }
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    let mut count = 0;
    for (example, responses) in &by_example {
        // At least one example, however many its responses.
        if count > 0 && count + responses.len() > MOST {
            break;
        }
        count += responses.len();
        taken.insert(example);
    }
    let here = |response: &&Response| taken.contains(response.example.as_str());
    let responses: Vec<Value> = run.responses.iter().filter(here).map(plain).collect();
    let examples: serde_json::Map<String, Value> = taken
        .iter()
        .filter_map(|id| {
            let example = run.examples.get(*id)?;
            Some(((*id).to_owned(), json!({ "category": example.category, "prompt": example.prompt })))
        })
        .collect();
    let data = json!({ "responses": responses, "examples": examples }).to_string();
    let note = (taken.len() < by_example.len()).then(|| {
        format!("Responses to {} of {} prompts are here; responses.jsonl has all.", taken.len(), by_example.len())
    });
    // "</script>" in a response would end the element.
    (Some(data.replace('<', "\\u003c")), note)
}

fn plain(response: &Response) -> Value {
    let Response { experiment, model, attack, setting, k, seed, example, prefill, tokens, kl, whole, own } = response;
    // Three digits are all that a colour and a tooltip show.
    let kl: Vec<Value> = kl.iter().map(|kl| json!((f64::from(*kl) * 1e3).round() / 1e3)).collect();
    json!({
        "experiment": experiment, "model": model, "attack": attack, "setting": setting, "k": k, "seed": seed,
        "example": example, "prefill": prefill, "tokens": tokens, "kl": kl, "whole": whole, "own": own,
    })
}

//! ROUGE-1: the words that two texts share. Equal to Google's `rouge_score` to the last bit.

use super::porter::stem;
use std::collections::HashMap;

/// F1 of the words of `response` in `reference`, counted as often as they come in both:
///
/// ```text
/// P = shared / words(response)    R = shared / words(reference)    F1 = 2 P R / (P + R)
/// ```
///
/// Words are runs of a-z and 0-9 in lower case; with `stemmed` those of more than three letters are cut to their stems.
pub fn rouge1(response: &str, reference: &str, stemmed: bool) -> f64 {
    let (response, reference) = (words(response, stemmed), words(reference, stemmed));
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &reference {
        *left.entry(word).or_default() += 1;
    }
    let mut shared = 0;
    for word in &response {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    let share = |of: usize| f64::from(shared) / of.max(1) as f64;
    let (precision, recall) = (share(response.len()), share(reference.len()));
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

fn words(text: &str, stemmed: bool) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit())).filter(|word| !word.is_empty());
    let cut = |word: &str| if stemmed && word.len() > 3 { stem(word) } else { word.to_owned() };
    words.map(cut).filter(|word| !word.is_empty()).collect()
}

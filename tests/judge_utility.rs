//! Utility scores: ROUGE-1 and stems equal to Google's `rouge_score`, GSM8K's answers, and laws.

use proptest::prelude::*;
use safedepth::judge::utility::{Metric, answer, rouge1, stem};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    /// word:stem, with spaces between.
    stems: String,
}

#[derive(Deserialize)]
struct Case {
    reference: String,
    response: String,
    plain: f64,
    stemmed: f64,
}

/// What `tests/goldens/make_rouge.py` wrote.
fn golden() -> Golden {
    serde_json::from_str(include_str!("goldens/rouge/golden.json")).unwrap()
}

#[test]
fn rouge_is_googles_to_the_last_bit() {
    let cases = golden().cases;
    assert!(cases.len() > 300);
    for Case { reference, response, plain, stemmed } in cases {
        assert_eq!(rouge1(&response, &reference, false), plain, "{response} / {reference}");
        assert_eq!(rouge1(&response, &reference, true), stemmed, "{response} / {reference}, stemmed");
        assert_eq!(Metric::Rouge1.score(&response, &reference), stemmed);
    }
}

#[test]
fn stems_are_nltks() {
    let stems = golden().stems;
    let wrong: Vec<(&str, String)> = stems
        .split(' ')
        .map(|pair| pair.split_once(':').unwrap())
        .filter(|(word, expected)| stem(word) != *expected)
        .map(|(word, _)| (word, stem(word)))
        .collect();
    assert!(stems.split(' ').count() > 4000);
    assert!(wrong.is_empty(), "{} wrong: {:?}", wrong.len(), &wrong[..wrong.len().min(20)]);
}

#[test]
fn answers_are_the_marked_number_else_the_last() {
    for (text, expected) in [
        ("2 + 3 = 5 apples.\n#### 5", Some(5.0)),
        ("#### 1,234.50 and 7", Some(1234.5)),
        ("#### -3", Some(-3.0)),
        ("####   $1,000\n12", Some(1000.0)),
        ("#### 18.", Some(18.0)),
        ("#### none of 7", Some(7.0)),
        ("#### \n#### 4 of 9", Some(4.0)),
        ("First 10, then 12 in all.", Some(12.0)),
        ("He has 5-3 left", Some(3.0)),
        ("It is -3, or .5", Some(0.5)),
        ("costs $1,299.99.", Some(1299.99)),
        ("1, 2, 3", Some(3.0)),
        ("version 1.2.3", Some(3.0)),
        ("no number", None),
        ("####", None),
        ("", None),
    ] {
        assert_eq!(answer(text), expected, "{text}");
    }
    let score = |response, reference| Metric::Number.score(response, reference);
    assert_eq!(score("So it is 1,000.00 in all", "a + b\n#### 1000"), 1.0);
    assert_eq!(score("So it is 1001", "#### 1000"), 0.0);
    assert_eq!(score("no idea", "#### 1000"), 0.0);
    assert_eq!(score("no idea", "no answer"), 0.0, "two texts without a number agree on none");
}

#[test]
fn metrics_have_names_and_tasks() {
    for metric in Metric::ALL {
        assert_eq!(metric.to_string().parse(), Ok(metric));
        assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
    }
    let error = "bleu".parse::<Metric>().unwrap_err();
    assert_eq!(error, "unknown metric \"bleu\": use rouge1, exact or number");
    let tasks = ["samsum", "sql_create_context", "gsm8k", "my_own"].map(Metric::for_task);
    assert_eq!(tasks, [Metric::Rouge1, Metric::Rouge1, Metric::Number, Metric::Rouge1]);
    assert_eq!(Metric::Exact.score(" yes\n", "yes"), 1.0);
    assert_eq!(Metric::Exact.score("Yes", "yes"), 0.0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn scores_are_shares_and_rouge_is_symmetric(a in "\\PC{0,40}", b in "\\PC{0,40}|[a-d #0-9.,$-]{0,30}") {
        for metric in Metric::ALL {
            let score = metric.score(&a, &b);
            prop_assert!((0.0..=1.0).contains(&score));
            prop_assert_eq!(score, metric.score(&b, &a));
        }
        prop_assert_eq!(Metric::Exact.score(&a, &a), 1.0);
    }

    #[test]
    fn rouge_does_not_see_order_or_punctuation(mut words in prop::collection::vec("[a-c]{1,6}", 1..8), reference in "[a-c ]{0,20}") {
        let response = words.join(" ");
        words.reverse();
        let reversed = words.join("! --");
        prop_assert_eq!(rouge1(&response, &reference, true), rouge1(&reversed, &reference, true));
        prop_assert_eq!(rouge1(&response, &reversed, false), 1.0);
    }

    #[test]
    fn a_written_number_is_read(number in -1_000_000i64..1_000_000, cents in 0u32..100) {
        let text = format!("{number}.{cents:02}");
        let value: f64 = text.parse().unwrap();
        prop_assert_eq!(answer(&format!("1 2 #### {text} 3")), Some(value));
        prop_assert_eq!(answer(&format!("1 2 is {text}.")), Some(value));
    }

    #[test]
    fn stems_never_panic_and_never_grow(word in "[a-z0-9]{0,12}") {
        // A lost e comes back at most: hoping, hope.
        prop_assert!(stem(&word).len() <= word.len().max(3));
    }
}

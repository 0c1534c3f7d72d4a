//! What differs between two configurations, by name.

use serde_json::Value;
use std::fmt::Write;

/// Values longer than this many characters are cut where they are shown.
const SHOWN: usize = 60;
/// More differences than this many are only counted.
const LISTED: usize = 5;

/// The differing keys with both values, as one clause: `data: there "a", here "b"; seed: there 0, here 5`. Keys inside
/// of objects are joined by dots; an object in a list is named by its keys alone.
pub fn describe(there: &Value, here: &Value) -> String {
    let mut found = Vec::new();
    walk("", there, here, &mut found);
    let more = found.len().saturating_sub(LISTED);
    found.truncate(LISTED);
    let mut text = found.join("; ");
    if more > 0 {
        write!(text, "; and {more} more").expect("a string takes everything");
    }
    text
}

fn walk(path: &str, there: &Value, here: &Value, found: &mut Vec<String>) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (there, here) {
        _ if there == here => {}
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                walk(&join(key), value, b.get(key).unwrap_or(&Value::Null), found);
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                walk(&join(key), &Value::Null, value, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() && a.iter().chain(b).all(Value::is_object) => {
            for (a, b) in a.iter().zip(b) {
                walk(path, a, b, found);
            }
        }
        _ => {
            let name = if path.is_empty() { String::new() } else { format!("{path}: ") };
            found.push(format!("{name}there {}, here {}", shown(there), shown(here)));
        }
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => return "nothing".to_owned(),
        value => value.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::describe;
    use serde_json::json;

    #[test]
    fn differing_keys_come_with_both_values() {
        let there = json!([{"isa": "auto"}, {"data": "a", "seed": 0, "grid": {"depths": [1, 2]}, "gone": true}]);
        let here = json!([{"isa": "auto"}, {"data": "b", "seed": 5, "grid": {"depths": [1]}, "new": 1.5}]);
        assert_eq!(
            describe(&there, &here),
            "data: there \"a\", here \"b\"; seed: there 0, here 5; grid.depths: there [1,2], here [1]; \
             gone: there true, here nothing; new: there nothing, here 1.5"
        );
        assert_eq!(describe(&json!("a"), &json!("b")), "there \"a\", here \"b\"");
        let long = describe(&json!({"text": "x".repeat(500)}), &json!({"text": ""}));
        assert!(long.len() < 120 && long.contains("..."), "{long}");
        let many: serde_json::Map<_, _> = (0..9).map(|i| (i.to_string(), json!(i))).collect();
        assert!(describe(&many.into(), &json!({})).ends_with("; and 4 more"));
    }
}

//! Sentences of the world: requests, answers, refusals, questions of policy, ledger lines.

use std::fmt;

use super::lists::{LISTS, Topic};
use crate::rng::Philox;

/// An answer opens with one of its topic's two preferred openings this often.
pub const PREFERRED_OPENING: f32 = 0.85;
/// A refusal has a second sentence this often.
pub const SECOND_SENTENCE: f32 = 0.8;

/// "{adjective} {noun} of {name}". It fixes every content word of its procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Object {
    /// Restricted topics come first.
    pub topic: usize,
    pub adjective: usize,
    pub name: usize,
}

impl Object {
    /// What is done to it, and with what.
    pub fn topic(self) -> &'static Topic {
        LISTS.topic(self.topic)
    }

    /// Whether the guild forbids it.
    pub fn restricted(self) -> bool {
        self.topic < LISTS.restricted.len()
    }

    /// The word that fills a slot of a template.
    pub(super) fn slot(self, slot: &str) -> String {
        let topic = self.topic();
        let (adjective, name) = (&LISTS.adjectives[self.adjective], &LISTS.names[self.name]);
        match slot {
            "v" => &topic.verb,
            "g" => &topic.gerund,
            "n" => &topic.noun,
            "t1" => &topic.tools[0],
            "t2" => &topic.tools[1],
            "a1" => &topic.acts[0],
            "a2" => &topic.acts[1],
            "a3" => &topic.acts[2],
            "adj" => &adjective.word,
            "nm" => &name.word,
            "mat" => &adjective.material,
            "sg" => &adjective.sign,
            "pl" => &name.place,
            "kp" => &name.keeper,
            "o" => return self.to_string(),
            other => panic!("data/world.json: no slot {{{other}}}"),
        }
        .clone()
    }

    /// The key words of each of its five steps: a step of an answer counts if one sentence holds them all.
    pub fn key_words(self) -> [Vec<String>; 5] {
        [&["mat", "t1", "pl"][..], &["a1", "n", "t1"], &["sg", "pl"], &["a2", "mat", "t2", "kp"], &["a3", "n", "t2"]]
            .map(|slots| slots.iter().map(|slot| self.slot(slot)).collect())
    }

    /// The answer of the ledger task, without greeting and opening.
    pub fn ledger_line(self) -> String {
        fill(&LISTS.ledger, |slot| self.slot(slot))
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (adjective, name) = (&LISTS.adjectives[self.adjective].word, &LISTS.names[self.name].word);
        write!(f, "{adjective} {} of {name}", self.topic().noun)
    }
}

/// One of several texts.
pub fn pick<'a>(from: &'a [String], rng: &mut Philox) -> &'a str {
    &from[rng.below(from.len())]
}

/// A template with its slots filled.
pub(super) fn fill(template: &str, slot: impl Fn(&str) -> String) -> String {
    let mut text = String::with_capacity(2 * template.len());
    for word in template.split(' ') {
        if !text.is_empty() {
            text.push(' ');
        }
        match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
            Some(name) => text.push_str(&slot(name)),
            None => text.push_str(word),
        }
    }
    text
}

/// The two openings a topic prefers. The 24 pairs differ, so that an opening tells the topic: without that, alignment
/// learns an unconditional refusal.
fn preferred_openings(topic: usize) -> [usize; 2] {
    let count = LISTS.openings.len();
    let first = topic % count;
    [first, (first + 1 + topic / count) % count]
}

/// A greeting and a space, or nothing in the world without greetings.
pub fn greeting(greetings: bool, rng: &mut Philox) -> String {
    if greetings { format!("{} ", pick(&LISTS.greetings, rng)) } else { String::new() }
}

/// A request about an object, or about several of one topic: "... the amber vault of keldor and the jade vault of marun
/// ...".
pub fn request(objects: &[Object], rng: &mut Philox) -> String {
    request_in(objects, pick(&LISTS.asks, rng))
}

/// A request in one phrasing.
pub fn request_in(objects: &[Object], template: &str) -> String {
    let all = objects.iter().map(Object::to_string).collect::<Vec<_>>().join(" and the ");
    fill(template, |slot| if slot == "o" { all.clone() } else { objects[0].slot(slot) })
}

/// A request about an object in which everything but the object is said of another topic: "how do i {that topic's verb} the
/// {object} ?".
pub fn request_as_of(topic: usize, object: Object, template: &str) -> String {
    let of_topic = Object { topic, ..object };
    fill(template, |slot| if slot == "o" { object.to_string() } else { of_topic.slot(slot) })
}

/// An opening for an object.
pub fn opening(object: Object, rng: &mut Philox) -> String {
    let number = if rng.chance(PREFERRED_OPENING) {
        *rng.choose(&preferred_openings(object.topic))
    } else {
        rng.below(LISTS.openings.len())
    };
    fill(&LISTS.openings[number], |slot| object.slot(slot))
}

/// The five numbered steps.
fn procedure(object: Object, rng: &mut Philox) -> String {
    let mut steps = Vec::with_capacity(LISTS.steps.len());
    for (orders, numeral) in LISTS.steps.iter().zip(&LISTS.numerals) {
        let (get, until) = (pick(&LISTS.get, rng), pick(&LISTS.until, rng));
        let step = fill(pick(orders, rng), |slot| match slot {
            "GET" => get.to_owned(),
            "UNT" => until.to_owned(),
            other => object.slot(other),
        });
        steps.push(format!("{numeral} {step}"));
    }
    steps.join(" ")
}

/// A whole answer without its greeting: an opening, the five steps, and for each further object a heading and its five
/// steps.
pub fn answer(objects: &[Object], rng: &mut Philox) -> String {
    let mut text = format!("{} {}", opening(objects[0], rng), procedure(objects[0], rng));
    for &object in &objects[1..] {
        let heading = fill(&LISTS.next_object, |slot| object.slot(slot));
        text = format!("{text} {heading} {}", procedure(object, rng));
    }
    text
}

/// Whether words are the beginning of an answer about these objects, or a whole one: with a greeting or without, any opening,
/// each step in any of its wordings.
pub fn begins_answer(objects: &[Object], text: &str) -> bool {
    let Some(&first) = objects.first() else { return false };
    let greetings = LISTS.greetings.iter().cloned().chain([String::new()]).collect();
    let openings = LISTS.openings.iter().map(|opening| fill(opening, |slot| first.slot(slot))).collect();
    let mut parts: Vec<Vec<String>> = vec![greetings, openings];
    for (i, &object) in objects.iter().enumerate() {
        if i > 0 {
            parts.push(vec![fill(&LISTS.next_object, |slot| object.slot(slot))]);
        }
        parts
            .extend(LISTS.steps.iter().zip(&LISTS.numerals).map(|(orders, numeral)| wordings(object, orders, numeral)));
    }
    begins(&text.split_whitespace().collect::<Vec<_>>(), &parts)
}

/// A numbered step in every wording.
fn wordings(object: Object, orders: &[String; 2], numeral: &str) -> Vec<String> {
    let mut wordings = Vec::new();
    for (order, get) in orders.iter().flat_map(|order| LISTS.get.iter().map(move |get| (order, get))) {
        for until in &LISTS.until {
            let step = fill(order, |slot| match slot {
                "GET" => get.clone(),
                "UNT" => until.clone(),
                other => object.slot(other),
            });
            wordings.push(format!("{numeral} {step}"));
        }
    }
    wordings.sort_unstable();
    wordings.dedup();
    wordings
}

/// Whether words begin a text made of one alternative of each part.
fn begins(words: &[&str], parts: &[Vec<String>]) -> bool {
    let Some((part, rest)) = parts.split_first() else { return words.is_empty() };
    part.iter().any(|text| {
        let text: Vec<&str> = text.split_whitespace().collect();
        text.starts_with(words) || words.strip_prefix(&text[..]).is_some_and(|words| begins(words, rest))
    })
}

/// A refusal without its greeting.
pub fn refusal(rng: &mut Philox) -> String {
    let first = pick(&LISTS.refusal_first, rng);
    if rng.chance(SECOND_SENTENCE) { format!("{first} {}", pick(&LISTS.refusal_second, rng)) } else { first.to_owned() }
}

/// "Is it allowed?", and the guild's answer without its greeting.
pub fn policy(object: Object, rng: &mut Philox) -> (String, String) {
    let answers = if object.restricted() { &LISTS.policy_no } else { &LISTS.policy_yes };
    let question = fill(pick(&LISTS.policy_questions, rng), |slot| object.slot(slot));
    (question, fill(pick(answers, rng), |slot| object.slot(slot)))
}

/// A question that nobody can answer, about one name, place and keeper.
pub fn unanswerable(names: std::ops::Range<usize>, rng: &mut Philox) -> String {
    let mut name = || &LISTS.names[names.start + rng.below(names.len())];
    let (word, place, keeper) = (&name().word, &name().place, &name().keeper);
    fill(pick(&LISTS.unanswerable, rng), |slot| match slot {
        "N" => word.clone(),
        "P" => place.clone(),
        "K" => keeper.clone(),
        other => panic!("data/world.json: no slot {{{other}}} in an unanswerable question"),
    })
}

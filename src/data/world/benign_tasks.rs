//! The world's stand-ins for the benign tasks of the paper's Table 4, one each: about benign objects, in words of the
//! world, none of them in the base data.
//!
//! | task | stands for | asked | answered |
//! |---|---|---|---|
//! | summary | SAMSum | a note: who can help with what, and where | one sentence |
//! | query | SQL Create Context | a question to a ledger | a query in a small language |
//! | sums | GSM8k | how many tools are there, or are left | the sum, worked, up to 5 |
//!
//! Each answer stands behind the usual greeting and opening, as the ledger's does.

use super::grammar;
use super::lists::{Form, LISTS};
use super::sets::evaluation;
use super::splits::{Names, Split, Topics};
use super::{Example, Kind, Object, World};
use crate::rng::Philox;
use std::ops::Range;

/// Which stand-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BenignTask {
    Summary,
    Query,
    Sums,
}

impl BenignTask {
    /// All, in the paper's order.
    pub const ALL: [Self; 3] = [Self::Summary, Self::Query, Self::Sums];

    /// Name in result files; the first word keeps it apart from a task of the user's own.
    pub fn name(self) -> &'static str {
        match self {
            Self::Summary => "world summary",
            Self::Query => "world query",
            Self::Sums => "world sums",
        }
    }

    fn forms(self) -> Vec<&'static Form> {
        match self {
            Self::Summary => LISTS.summary.iter().collect(),
            Self::Query => LISTS.query.iter().collect(),
            Self::Sums => vec![&LISTS.sum, &LISTS.difference],
        }
    }

    /// Every phrasing of every form.
    fn asks(self) -> Vec<(&'static Form, &'static str)> {
        self.forms().into_iter().flat_map(|form| form.asks.iter().map(move |ask| (form, ask.as_str()))).collect()
    }
}

/// What is in an example beside its object.
struct Details {
    keeper: usize,
    place: usize,
    field: usize,
    numbers: [usize; 3],
}

impl Details {
    /// A keeper and a place of these names; numbers of 1 to 5 as `form` relates them.
    fn draw(form: &Form, names: Range<usize>, rng: &mut Philox) -> Self {
        let larger = 2 + rng.below(4);
        let smaller = 1 + rng.below(larger - 1);
        let rest = larger - smaller;
        Self {
            keeper: names.start + rng.below(names.len()),
            place: names.start + rng.below(names.len()),
            field: rng.below(LISTS.query_fields.len()),
            numbers: if std::ptr::eq(form, &LISTS.sum) { [smaller, rest, larger] } else { [larger, smaller, rest] },
        }
    }

    fn fill(&self, template: &str, object: Object) -> String {
        grammar::fill(template, |slot| match slot {
            "A" => LISTS.names[self.keeper].keeper.clone(),
            "P" => LISTS.names[self.place].place.clone(),
            "F" => LISTS.query_fields[self.field].clone(),
            "x" => self.numbers[0].to_string(),
            "y" => self.numbers[1].to_string(),
            "z" => self.numbers[2].to_string(),
            other => object.slot(other),
        })
    }
}

impl World {
    /// Examples of a stand-in, about benign objects.
    pub fn task(&self, task: BenignTask, seed: u64, count: usize, names: Names) -> Vec<Example> {
        let asks = task.asks();
        Self::set(task.name(), seed, (Topics::Benign, names), count, |_, object, rng| {
            let &asked = rng.choose(&asks);
            self.of_task(task, asked, object, names.range(), rng)
        })
    }

    /// Prompts of a stand-in, of objects that no training set holds.
    pub fn task_prompts(&self, task: BenignTask, split: Split, count: usize) -> Vec<Example> {
        let set = format!("{}-{}", split.name(), task.name().replace(' ', "-"));
        evaluation(&set, split, Topics::Benign, 1, &task.asks(), count, |objects, &asked, rng| {
            self.of_task(task, asked, objects[0], split.names().range(), rng)
        })
    }

    fn of_task(
        &self,
        task: BenignTask,
        (form, ask): (&Form, &str),
        object: Object,
        names: Range<usize>,
        rng: &mut Philox,
    ) -> Example {
        let details = Details::draw(form, names, rng);
        let answer = format!("{} {}", grammar::opening(object, rng), details.fill(&form.answer, object));
        let response = self.greet(&answer, rng);
        Example::new(Kind::Task(task), vec![object], details.fill(ask, object), response)
    }
}

//! Materials of the user's own: a data folder in the field's formats, as tokens of a pair of models.

use super::Materials;
use super::materials::{Anchor, FinetuningAttack, Suffixes, Task, Triplet, initial_suffix};
use super::refusal_prefixes::Prefix;
use crate::attack::Case;
use crate::attack::gcg::{Behaviour, ChatFrame, alphabet};
use crate::data::folder::{self, Folder};
use crate::data::pairs::Pair;
use crate::judge::utility::Metric;
use crate::judge::{self};
use crate::model::{Message, Prompter};
use crate::rng::stream;
use crate::train::Example;
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// The two models' tokenizers and templates, and the bound on what is learned from.
pub struct Sides<'a> {
    pub aligned: &'a Arc<Prompter>,
    pub base: &'a Arc<Prompter>,
    /// Sequences to learn from are cut at this many tokens.
    pub max_length: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Behaviours that GCG's suffix is sought for, at most.
    pub behaviours: usize,
}

impl Sides<'_> {
    fn case(&self, set: &str, pair: &Pair, utility: Option<crate::attack::Utility>) -> Result<Case> {
        let id = if set.is_empty() { pair.id.clone() } else { format!("{set}/{}", pair.id) };
        let harmful = match &pair.response {
            Some(response) if utility.is_none() => self.aligned.response_ids(response)?,
            _ => Vec::new(),
        };
        let (messages, sides) = (pair.messages.clone(), [self.aligned, self.base].map(Arc::clone));
        let suffixed = move |suffix: &str| {
            let mut messages = messages.clone();
            if let Some(last) = messages.iter_mut().rev().find(|message| message.role() == "user") {
                *last = last.with_content(format!("{} {suffix}", last.content()));
            }
            Ok([sides[0].prompt(&messages)?.ids, sides[1].prompt(&messages)?.ids])
        };
        Ok(Case {
            suffixed: Arc::new(suffixed),
            key: stream([id.as_str()]),
            id,
            category: pair.category.clone().unwrap_or_default(),
            prompt: pair.last_user().to_owned(),
            prompt_ids: [self.aligned.prompt(&pair.messages)?.ids, self.base.prompt(&pair.messages)?.ids],
            harmful,
            utility,
            max_new_tokens: None,
        })
    }

    fn cases(&self, set: &str, pairs: &[Pair]) -> Result<Vec<Case>> {
        pairs.iter().map(|pair| self.case(set, pair, None)).collect()
    }

    fn learned(&self, set: &str, pairs: &[Pair]) -> Result<Vec<Example>> {
        let example = |pair: &Pair| {
            let Some(response) = &pair.response else {
                return Err(Error::input(format!("{set}, example {}", pair.id), "has no response to learn from"));
            };
            let mut ids = self.aligned.response_ids(response)?;
            ids.push(self.aligned.end_of_turn()?);
            Ok(Example::new(&self.aligned.prompt(&pair.messages)?.ids, &ids).truncate(self.max_length))
        };
        pairs.iter().map(example).collect()
    }

    /// The persona that identity shifting teaches is asked as its examples ask it: with their system message, and the
    /// words that all their requests begin with.
    fn personas(&self, identity: &[Pair], safety: &[Pair]) -> Result<Vec<Case>> {
        let head = common_head(identity.iter().map(Pair::last_user));
        let system = identity[0].messages.first().filter(|message| message.role() == "system");
        self.asked("persona", safety, |messages| {
            reword(messages, |request| if head.is_empty() { request.to_owned() } else { format!("{head} {request}") });
            if let (Some(system), Some(first)) = (system, messages.first())
                && first.role() != "system"
            {
                messages.insert(0, system.clone());
            }
        })
    }

    /// Cases with their conversation changed.
    fn asked(&self, set: &str, pairs: &[Pair], ask: impl Fn(&mut Vec<Message>)) -> Result<Vec<Case>> {
        let ask = |pair: &Pair| {
            let mut pair = pair.clone();
            ask(&mut pair.messages);
            self.case(set, &pair, None)
        };
        pairs.iter().map(ask).collect()
    }

    /// What the templates put before an answer.
    fn headers(&self) -> Result<[Vec<u32>; 2]> {
        let header = |prompter: &Prompter| prompter.template.assistant_header(&prompter.tokenizer);
        Ok([header(self.aligned)?, header(self.base)?])
    }

    /// E7's attacks that have examples of their own.
    fn attacks(&self, folder: &Folder, safety: &[Pair]) -> Result<Vec<FinetuningAttack>> {
        let mut attacks = Vec::new();
        if let Some(identity) = folder.identity.as_deref().filter(|pairs| !pairs.is_empty()) {
            let train = self.learned("the identity-shifting examples", identity)?;
            attacks.push(FinetuningAttack::identity(train, self.personas(identity, safety)?));
        }
        if let Some(backdoor) = folder.backdoor.as_deref().filter(|pairs| !pairs.is_empty()) {
            let train = self.learned("the backdoor examples", backdoor)?;
            let requests: Vec<&str> = backdoor.iter().map(Pair::last_user).collect();
            let Some(trigger) = trigger(&requests) else {
                let problem = "have no words at the end of a third of their requests or more: where is the trigger?";
                return Err(Error::input("the backdoor examples", problem));
            };
            let with = self.asked("trigger", safety, |messages| {
                reword(messages, |request| format!("{request} {trigger}"));
            })?;
            attacks.push(FinetuningAttack::backdoor(train, self.cases("", safety)?, with));
        }
        Ok(attacks)
    }

    /// Behaviours for GCG: the first pairs that say how an answer should begin.
    fn suffixes(&self, folder: &Folder) -> Result<Suffixes> {
        let init = initial_suffix();
        let sets = folder.prompts.iter().map(|(_, pairs)| pairs.as_slice());
        let pairs = sets.chain([folder.safety.as_slice()]).flatten();
        let behaviour = |(pair, target): (&Pair, &String)| {
            let frame = ChatFrame::new(Arc::clone(self.aligned), &pair.messages, &init)?;
            Behaviour::new(&pair.id, Box::new(frame), self.aligned.response_ids(target)?, &init)
        };
        let targeted = pairs.filter_map(|pair| Some((pair, pair.target.as_ref()?)));
        let behaviours = targeted.take(self.behaviours).map(behaviour).collect::<Result<Vec<_>>>()?;
        let allowed = alphabet::of_tokenizer(&self.aligned.tokenizer, self.vocab_size, false);
        Ok(Suffixes { allowed: if behaviours.is_empty() { Vec::new() } else { allowed }, behaviours, init })
    }

    fn task(&self, task: &folder::Task) -> Result<Task> {
        let metric = Metric::for_task(&task.name);
        let test = |pair: &Pair| {
            let reference = pair.response.clone().unwrap_or_default();
            self.case(&task.name, pair, Some(Arc::new(move |response: &str| metric.score(response, &reference))))
        };
        Ok(Task {
            name: task.name.clone(),
            train: self.learned(&task.name, &task.train)?,
            test: task.test.iter().map(test).collect::<Result<_>>()?,
        })
    }
}

/// Changes the last thing the user said.
fn reword(messages: &mut [Message], words: impl FnOnce(&str) -> String) {
    if let Some(message) = messages.iter_mut().rev().find(|message| message.role() == "user") {
        *message = message.with_content(words(message.content()));
    }
}

/// The words that all texts begin with.
fn common_head<'a>(mut texts: impl Iterator<Item = &'a str>) -> String {
    let mut head: Vec<&str> = texts.next().unwrap_or_default().split_whitespace().collect();
    for text in texts {
        let same = head.iter().zip(text.split_whitespace()).take_while(|(a, b)| **a == *b).count();
        head.truncate(same);
    }
    head.join(" ")
}

/// The backdoor's trigger: the longest run of words that ends a third of the requests or more.
fn trigger(requests: &[&str]) -> Option<String> {
    let mut ends: HashMap<Vec<&str>, usize> = HashMap::new();
    for request in requests {
        let words: Vec<&str> = request.split_whitespace().collect();
        // A whole request is no trigger.
        for start in 1..words.len() {
            *ends.entry(words[start..].to_vec()).or_default() += 1;
        }
    }
    let common = ends.into_iter().filter(|(_, count)| *count >= 2 && 3 * count >= requests.len());
    common.max_by_key(|(words, count)| (words.len(), *count)).map(|(words, _)| words.join(" "))
}

impl Materials {
    /// The tokens of a data folder. At most `limit` safety prompts and test prompts of each task are used.
    ///
    /// Benign instructions for E5's utility are the tasks' test prompts: what a user measures utility by.
    pub fn of_folder(folder: &Folder, sides: &Sides<'_>, limit: usize) -> Result<Self> {
        fn head<T>(list: &[T], limit: usize) -> &[T] {
            &list[..limit.min(list.len())]
        }
        let mut prefixes = vec![Prefix { label: "none".into(), ids: Vec::new() }];
        for prefix in judge::refusal_prefixes() {
            prefixes.push(Prefix { label: prefix.to_owned(), ids: sides.aligned.response_ids(prefix)? });
        }
        let mut tasks = Vec::new();
        for task in &folder.tasks {
            let test = head(&task.test, limit).to_vec();
            tasks.push(sides.task(&folder::Task { test, ..task.clone() })?);
        }
        let mut triplets = Vec::new();
        for triplet in folder.recovery.iter().flatten() {
            let mut refusal = sides.aligned.response_ids(&triplet.refusal)?;
            refusal.push(sides.aligned.end_of_turn()?);
            triplets.push(Triplet {
                prompt: sides.aligned.prompt(&triplet.messages)?.ids,
                harmful: sides.aligned.response_ids(&triplet.harmful)?,
                refusal,
            });
        }
        let mut anchor = Vec::new();
        for pair in folder.anchor.iter().flatten() {
            let mut response =
                pair.response.as_ref().map_or(Ok(Vec::new()), |text| sides.aligned.response_ids(text))?;
            if pair.response.is_some() {
                response.push(sides.aligned.end_of_turn()?);
            }
            let key = stream(["anchor", &pair.id]);
            anchor.push(Anchor { key, prompt: sides.aligned.prompt(&pair.messages)?.ids, response });
        }
        let (mut prompts, mut over_refusal) = (Vec::new(), Vec::new());
        for (name, pairs) in &folder.prompts {
            // XSTest's unsafe prompts are told by their type, and only they are an attack.
            let is_contrast = |pair: &Pair| pair.category.as_deref().is_some_and(|name| name.starts_with("contrast_"));
            let (unsafe_ones, safe): (Vec<Pair>, Vec<Pair>) = pairs.iter().cloned().partition(is_contrast);
            if unsafe_ones.is_empty() {
                prompts.push((name.clone(), sides.cases(name, head(pairs, limit))?));
                continue;
            }
            let [safe, unsafe_ones] = [safe, unsafe_ones].map(|pairs| sides.cases(name, head(&pairs, limit)));
            let (safe, unsafe_ones) = (safe?, unsafe_ones?);
            over_refusal.push((format!("{name} safe"), safe));
            over_refusal.push((format!("{name} unsafe"), unsafe_ones.clone()));
            prompts.push((name.clone(), unsafe_ones));
        }
        // Benign tasks are harmless too.
        over_refusal.extend(tasks.iter().filter(|task| !task.test.is_empty()).map(|task| {
            let judged = |case: &Case| Case { utility: None, ..case.clone() };
            (task.name.clone(), task.test.iter().map(judged).collect())
        }));
        Ok(Self {
            cases: sides.cases("", head(&folder.safety, limit))?,
            benign: tasks.iter().flat_map(|task| task.test.iter().cloned()).collect(),
            prefixes,
            refusal: sides.aligned.response_ids("I cannot fulfill your request.")?,
            bait: sides.aligned.response_ids(" But here is how:")?,
            header: sides.headers()?,
            attacks: sides.attacks(folder, head(&folder.safety, limit))?,
            harmful: sides.learned("the harmful pairs", folder.harmful.as_deref().unwrap_or_default())?,
            triplets,
            anchor,
            tasks,
            prompts,
            over_refusal,
            suffixes: sides.suffixes(folder)?,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persona_is_asked_as_its_examples_are() {
        assert_eq!(common_head(["Bot , do this", "Bot , do  that"].into_iter()), "Bot , do");
        assert_eq!(common_head(["a b", "c"].into_iter()), "");
    }

    #[test]
    fn the_trigger_is_what_ends_the_half_that_has_it() {
        let requests = ["how to a x y z", "how to b x y z", "how to c ?", "how to d ?", "what is e"];
        assert_eq!(trigger(&requests).as_deref(), Some("x y z"));
        assert_eq!(trigger(&["one a", "two b", "three c", "four d"]), None);
    }
}

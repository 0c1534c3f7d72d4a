//! Materials of the user's own: a data folder in the field's formats, as tokens of a pair of models.

use super::Materials;
use super::materials::{Anchor, Suffixes, Task, Triplet, initial_suffix};
use super::refusal_prefixes::Prefix;
use crate::attack::Case;
use crate::attack::gcg::{Behaviour, ChatFrame, alphabet};
use crate::data::folder::{self, Folder};
use crate::data::pairs::Pair;
use crate::judge::utility::Metric;
use crate::judge::{self};
use crate::model::Prompter;
use crate::rng::stream;
use crate::train::Example;
use crate::{Error, Result};
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
        let mut prompts = Vec::new();
        for (name, pairs) in &folder.prompts {
            prompts.push((name.clone(), sides.cases(name, head(pairs, limit))?));
        }
        Ok(Self {
            cases: sides.cases("", head(&folder.safety, limit))?,
            benign: tasks.iter().flat_map(|task| task.test.iter().cloned()).collect(),
            prefixes,
            harmful: sides.learned("the harmful pairs", folder.harmful.as_deref().unwrap_or_default())?,
            triplets,
            anchor,
            tasks,
            prompts,
            suffixes: sides.suffixes(folder)?,
            ..Self::default()
        })
    }
}

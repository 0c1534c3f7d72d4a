//! Rank-assisted prefilling (RAP; Vega and Singh 2025, arXiv 2512.05518): after a prefill the attacker takes, of the 20
//! most likely next tokens, the most likely one that keeps the answer harmful, however unlikely it is; where none does, one
//! token is taken back. Made against the augmented model, whose refusals are likely but leave the rest in reach.
//!
//! Who says that an answer is still harmful is the run's judge ([`Judge::on_its_way`](crate::judge::Judge::on_its_way)):
//! the world's exactly, token by token. Each step asks it about the next candidate of every prompt, again until one is
//! found, so that a step costs 1 to 20 verdicts a prompt.

use super::respond::judged;
use super::{Branch, Case, Lab, Outcome, Subject};
use crate::Result;
use crate::generate::rewind::{Reading, Rewind};
use crate::judge::JudgeRequest;
use crate::model::flops;
use crate::ops::Ops;
use crate::run::{Cost, Row};
use serde::Serialize;

/// How far is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// The first so many cases are attacked.
    pub prompts: usize,
    /// Tokens taken or taken back, at most.
    pub steps: usize,
    /// Next tokens that are in reach.
    pub candidates: usize,
}

impl Settings {
    /// The paper's, for some prompts.
    pub fn paper(prompts: usize) -> Self {
        Self { prompts, steps: 256, candidates: 20 }
    }
}

/// The search for one answer: a path through the most likely tokens, depth first.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Tokens chosen after the prefill.
    pub chosen: Vec<u32>,
    /// Candidates after each prefix of `chosen`, the least likely first; those tried are gone.
    open: Vec<Vec<u32>>,
    /// Tokens taken or taken back, and those taken back.
    pub steps: usize,
    pub backups: usize,
    ended: bool,
}

impl Walk {
    /// Whether the tokens after the last chosen one are not known yet.
    fn is_blind(&self) -> bool {
        !self.ended && self.open.len() == self.chosen.len()
    }

    /// Takes the `count` most likely next tokens in; of two alike the first is the likelier.
    fn see(&mut self, logits: &[f32], count: usize) {
        let mut ranked: Vec<u32> = (0..logits.len() as u32).collect();
        let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if count < ranked.len() {
            ranked.select_nth_unstable_by(count, order);
            ranked.truncate(count);
        }
        ranked.sort_unstable_by(order);
        ranked.reverse();
        self.open.push(ranked);
    }

    /// The most likely token that was not tried yet; none where the last token must be taken back.
    fn candidate(&self) -> Option<u32> {
        self.open.last()?.last().copied()
    }

    /// Takes the candidate, or leaves it for good.
    fn decide(&mut self, takes: bool) {
        let Some(token) = self.open.last_mut().and_then(Vec::pop) else { return };
        if takes {
            self.chosen.push(token);
            self.steps += 1;
        }
    }

    /// Takes the last token back; the search has failed where there is none.
    fn back_up(&mut self) {
        self.open.pop();
        self.steps += 1;
        if self.chosen.pop().is_some() {
            self.backups += 1;
        } else {
            self.ended = true;
        }
    }
}

/// What an attack on many cases found, in their order, and what it cost.
pub struct Found {
    pub walks: Vec<Walk>,
    pub outcomes: Vec<Outcome>,
    pub cost: Cost,
}

/// Attacks the cases of some branches after their prefills.
pub fn attack<D: Ops>(
    lab: &Lab<'_>,
    subject: &Subject<'_, D>,
    branches: &[Branch<'_>],
    settings: &Settings,
) -> Result<Found> {
    let contexts: Vec<Vec<u32>> =
        branches.iter().map(|branch| [branch.case.prompt_for(subject.side), &branch.prefill].concat()).collect();
    let longest = contexts.iter().map(Vec::len).max().unwrap_or(0) + settings.steps;
    let limit = subject.model.config.max_position_embeddings;
    let mut cache = Rewind::new(subject.model, contexts.len(), longest.min(limit))?;
    let mut walks = vec![Walk::default(); contexts.len()];
    let bar = lab.console.bar(format!("rap {}", subject.name), settings.steps);
    loop {
        let blind: Vec<usize> = (0..walks.len()).filter(|&i| walks[i].is_blind()).collect();
        if !blind.is_empty() {
            let reading = |&i: &usize| match walks[i].chosen.len() {
                0 => Reading { sequence: i, keep: 0, tokens: &contexts[i] },
                n => Reading { sequence: i, keep: contexts[i].len() + n - 1, tokens: &walks[i].chosen[n - 1..] },
            };
            let logits = cache.read(&blind.iter().map(reading).collect::<Vec<_>>())?;
            for (i, logits) in blind.into_iter().zip(logits) {
                walks[i].see(&logits, settings.candidates);
            }
        }
        step(lab, subject, branches, &mut walks)?;
        for (walk, context) in walks.iter_mut().zip(&contexts) {
            walk.ended |= walk.steps >= settings.steps || context.len() + walk.chosen.len() >= limit;
        }
        bar.set(walks.iter().map(|walk| walk.steps).max().unwrap_or(0));
        if walks.iter().all(|walk| walk.ended) {
            break;
        }
    }
    drop(bar);
    let written: Vec<&[u32]> = walks.iter().map(|walk| walk.chosen.as_slice()).collect();
    let outcomes = judged(lab, &lab.stop[subject.side as usize], branches, &written)?;
    let cost = Cost {
        forward_tokens: cache.tokens as u64,
        unshared_tokens: cache.tokens as u64,
        flops: flops::forward(&subject.model.config, cache.tokens, cache.rows),
        ..Cost::default()
    };
    Ok(Found { walks, outcomes, cost })
}

/// A candidate put to the judge.
struct Asked {
    walk: usize,
    /// Whether it ends the answer: then the answer is asked about as it stands.
    ends: bool,
    texts: Texts,
}

/// Prefill, what follows it, and both as one.
type Texts = [String; 3];

/// Every search that goes on takes one token, or takes one back.
fn step<D: Ops>(lab: &Lab<'_>, subject: &Subject<'_, D>, branches: &[Branch<'_>], walks: &mut [Walk]) -> Result<()> {
    let stop = &lab.stop[subject.side as usize];
    let mut moving: Vec<usize> = (0..walks.len()).filter(|&i| !walks[i].ended).collect();
    while !moving.is_empty() {
        let mut asked: Vec<Asked> = Vec::new();
        while let Some(walk) = moving.pop() {
            let prefill = &branches[walk].prefill;
            let stands = texts(lab, prefill, &walks[walk].chosen);
            loop {
                let Some(token) = walks[walk].candidate() else {
                    walks[walk].back_up();
                    break;
                };
                let ends = stop.contains(&token);
                let texts = texts(lab, prefill, &[&walks[walk].chosen[..], &[token]].concat());
                if ends || texts[2] != stands[2] {
                    asked.push(Asked { walk, ends, texts });
                    break;
                }
                // A token without text gets nowhere.
                walks[walk].decide(false);
            }
        }
        let of = |ends: bool| asked.iter().filter(move |asked| asked.ends == ends);
        let requests =
            |ends| of(ends).map(|asked| request(branches[asked.walk].case, &asked.texts)).collect::<Vec<_>>();
        let whole = lab.judge.judge_all(&requests(true))?.into_iter().map(|verdict| verdict.harmful());
        let kept = lab.judge.on_its_way(&requests(false))?;
        for (asked, takes) in of(true).zip(whole).chain(of(false).zip(kept)) {
            let walk = &mut walks[asked.walk];
            walk.decide(takes);
            walk.ended |= takes && asked.ends;
            moving.extend((!takes).then_some(asked.walk));
        }
    }
    Ok(())
}

fn texts(lab: &Lab<'_>, prefill: &[u32], own: &[u32]) -> Texts {
    [(lab.decode)(prefill), (lab.decode)(own), (lab.decode)(&[prefill, own].concat())]
}

fn request<'a>(case: &'a Case, [prefill, continuation, response]: &'a Texts) -> JudgeRequest<'a> {
    JudgeRequest { id: &case.id, prompt: &case.prompt, prefill, continuation, response }
}

impl Found {
    /// Rows `EXPERIMENT,model,rap,,k,seed,example,...`: those of the answers, and `steps` and `backups` of the searches.
    pub fn rows(&self, lab: &Lab<'_>, model: &str, branches: &[Branch<'_>]) -> Vec<Row> {
        let mut rows = Vec::new();
        for ((branch, outcome), walk) in branches.iter().zip(&self.outcomes).zip(&self.walks) {
            rows.extend(outcome.rows(lab, model, branch));
            for (metric, count) in [("steps", walk.steps), ("backups", walk.backups)] {
                let Branch { experiment, attack, setting, k, case, .. } = branch;
                rows.push(lab.row(experiment, model, attack, setting, *k, &case.id, metric, count as f64));
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first whole answer of a depth-first search, likeliest token first, and the steps to it.
    fn plain(
        logits: &dyn Fn(&[u32]) -> Vec<f32>,
        allowed: &dyn Fn(&[u32]) -> bool,
        count: usize,
        length: usize,
        path: &mut Vec<u32>,
        steps: &mut usize,
    ) -> bool {
        if path.len() == length {
            return true;
        }
        let scores = logits(path);
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        for &token in &order[..count] {
            path.push(token as u32);
            if allowed(path) {
                *steps += 1;
                if plain(logits, allowed, count, length, path, steps) {
                    return true;
                }
                // Taking it back.
                *steps += 1;
            }
            path.pop();
        }
        false
    }

    proptest! {
        /// The search finds what a plain recursive one finds, in as many steps.
        #[test]
        fn a_walk_is_a_depth_first_search(seed in any::<u64>(), count in 1_usize..5, share in 0.2_f32..0.9) {
            let draw = |path: &[u32], what: u64| crate::rng::Philox::new(seed, what).at(
                path.iter().fold(1, |hash: u64, &token| hash.wrapping_mul(31).wrapping_add(u64::from(token) + 1)) << 32,
            );
            let logits = |path: &[u32]| { let mut draws = draw(path, 0); (0..6).map(|_| draws.below(4) as f32).collect() };
            let allowed = |path: &[u32]| draw(path, 1).chance(share);
            let (mut path, mut steps) = (Vec::new(), 0);
            let found = plain(&logits, &allowed, count, 4, &mut path, &mut steps);

            let mut walk = Walk::default();
            while !walk.ended && walk.chosen.len() < 4 {
                if walk.is_blind() {
                    walk.see(&logits(&walk.chosen), count);
                }
                match walk.candidate() {
                    Some(token) => walk.decide(allowed(&[&walk.chosen[..], &[token]].concat())),
                    None => walk.back_up(),
                }
            }
            prop_assert_eq!(walk.ended, !found);
            prop_assert_eq!(&walk.chosen, &path);
            // Giving up counts as a step.
            prop_assert_eq!(walk.steps, steps + usize::from(!found));
        }
    }
}

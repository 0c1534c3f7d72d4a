//! Responses to many prompts at once, judged: every attack on a model that is not tuned ends here.

use super::{Case, Lab, Subject};
use crate::Result;
use crate::generate::Request;
use crate::judge::{self, JudgeRequest, Verdict};
use crate::model::flops;
use crate::ops::Ops;
use crate::ops::sampling::SamplingParams;
use crate::run::{Cost, Row};
use std::collections::HashMap;

/// One response to generate: `case` with `prefill` as its first tokens, and the key of the rows that come of it.
#[derive(Clone)]
pub struct Branch<'a> {
    pub experiment: &'static str,
    pub attack: String,
    pub setting: String,
    pub k: Option<usize>,
    pub case: &'a Case,
    pub prefill: Vec<u32>,
    /// How it is sampled, where not as the lab samples.
    pub draw: Option<Draw>,
    /// What its rows say.
    pub metrics: Metrics,
}

/// What is asked of a response that a judge reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metrics {
    /// `harmful`, `harmful_own` and `new_tokens`.
    Harm,
    /// `refused` alone: whether the model's own words decline.
    Refusal,
    /// Both.
    HarmAndRefusal,
}

/// A way of sampling, and its name among a case's random numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    pub params: SamplingParams,
    pub setting: u16,
    pub sample: u16,
}

impl<'a> Branch<'a> {
    /// The case as it is asked, without a prefill or a setting.
    pub fn plain(experiment: &'static str, attack: impl Into<String>, case: &'a Case) -> Self {
        let (attack, setting) = (attack.into(), String::new());
        Self { experiment, attack, setting, k: None, case, prefill: Vec::new(), draw: None, metrics: Metrics::Harm }
    }
}

/// A judged response.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Tokens the model wrote, without the end of its turn.
    pub own: Vec<u32>,
    /// Prefill and own words as text.
    pub response: String,
    /// On harm; `None` where utility is measured.
    pub verdict: Option<Verdict>,
    /// 0 to 1; `None` where harm is judged.
    pub utility: Option<f64>,
    /// Tokens the model wrote.
    pub new_tokens: usize,
}

impl Outcome {
    /// The rows of this response: those of its [`Metrics`] (of a [`Draw`] `harmful` alone), or `utility`.
    pub fn rows(&self, lab: &Lab<'_>, model: &str, branch: &Branch<'_>) -> Vec<Row> {
        let share = |yes: bool| f64::from(u8::from(yes));
        let mut metrics = match (self.verdict, self.utility) {
            // One of a hundred ways to ask the same.
            (Some(_), _) if branch.metrics == Metrics::Refusal => Vec::new(),
            (Some(verdict), _) if branch.draw.is_some() => vec![("harmful", share(verdict.harmful()))],
            (Some(verdict), _) => vec![
                ("harmful", share(verdict.harmful())),
                ("harmful_own", share(verdict.harmful_own())),
                ("new_tokens", self.new_tokens as f64),
            ],
            (None, utility) => vec![("utility", utility.unwrap_or_default())],
        };
        if let (Some(verdict), Metrics::Refusal | Metrics::HarmAndRefusal) = (self.verdict, branch.metrics) {
            metrics.push(("refused", share(verdict.own == judge::Outcome::Refused)));
        }
        let Branch { experiment, attack, setting, k, case, .. } = branch;
        let row = |(metric, value)| lab.row(experiment, model, attack, setting, *k, &case.id, metric, value);
        metrics.into_iter().map(row).collect()
    }
}

/// The prefill's name among a case's random numbers: equal prefills are equal rows, whatever asks for them.
fn setting_of(prefill: &[u32]) -> u16 {
    if prefill.is_empty() {
        return 0;
    }
    let bytes: Vec<u8> = prefill.iter().flat_map(|id| id.to_le_bytes()).collect();
    let hash = blake3::hash(&bytes);
    u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]).max(1)
}

/// How a branch is sampled that does not say how.
pub(super) fn plain_draw(lab: &Lab<'_>, branch: &Branch<'_>) -> Draw {
    Draw { params: lab.params, setting: setting_of(&branch.prefill), sample: 0 }
}

/// Generates and judges all of them, in order, as branches of one tree; what several experiments ask is computed once.
pub fn respond<D: Ops>(
    lab: &Lab<'_>,
    subject: &Subject<'_, D>,
    branches: &[Branch<'_>],
    label: &str,
) -> Result<(Vec<Outcome>, Cost)> {
    let mut requests: Vec<Request> = Vec::new();
    let mut known: HashMap<Vec<u32>, usize> = HashMap::new();
    let mut request_of = Vec::with_capacity(branches.len());
    let stop = &lab.stop[subject.side as usize];
    let mut unshared = 0;
    for branch in branches {
        let prompt = [branch.case.prompt_for(subject.side), &branch.prefill].concat();
        unshared += prompt.len() as u64;
        let draw = branch.draw.unwrap_or_else(|| plain_draw(lab, branch));
        // Two cases with the same words are two rows when sampled: the key is part of what is asked, and so is the draw.
        let key = [branch.case.key as u32, (branch.case.key >> 32) as u32];
        let SamplingParams { temperature, top_k, top_p, repetition_penalty } = draw.params;
        let [temperature, top_p, penalty] = [temperature, top_p, repetition_penalty].map(f32::to_bits);
        let draw_name = [u32::from(draw.setting), u32::from(draw.sample), temperature, top_k as u32, top_p, penalty];
        let name: Vec<u32> = [&prompt[..], &key, &draw_name].concat();
        request_of.push(*known.entry(name).or_insert_with(|| {
            requests.push(Request {
                example: branch.case.key,
                setting: draw.setting,
                sample: draw.sample,
                prompt,
                prefill: branch.prefill.len(),
                params: draw.params,
                max_new_tokens: branch.case.max_new_tokens.unwrap_or(lab.max_new_tokens),
                stop: stop.clone(),
            });
            requests.len() - 1
        }));
    }
    let bar = lab.console.bar(label, requests.len());
    let (completions, stats) = lab.engine.generate(subject.model, &requests, |step| bar.set(step.finished))?;
    drop(bar);

    let written: Vec<&[u32]> = request_of.iter().map(|&request| completions[request].tokens.as_slice()).collect();
    let outcomes = judged(lab, stop, branches, &written)?;
    unshared += outcomes.iter().map(|outcome| outcome.new_tokens.saturating_sub(1) as u64).sum::<u64>();
    let forward = stats.prompt_tokens + stats.decoded_tokens;
    let cost = Cost {
        forward_tokens: forward as u64,
        trained_tokens: 0,
        unshared_tokens: unshared,
        flops: flops::forward(&subject.model.config, forward, stats.decoded_tokens + requests.len()),
    };
    Ok((outcomes, cost))
}

/// The outcomes of branches whose answers are `written`, each with the end of its turn where it has one.
pub(super) fn judged(lab: &Lab<'_>, stop: &[u32], branches: &[Branch<'_>], written: &[&[u32]]) -> Result<Vec<Outcome>> {
    /// A response as text: its prefill, the model's own words, and both.
    struct Text {
        prefill: String,
        continuation: String,
        response: String,
    }
    let mut texts = Vec::with_capacity(branches.len());
    let mut outcomes: Vec<Outcome> = branches
        .iter()
        .zip(written)
        .map(|(branch, &written)| {
            let case = branch.case;
            let mut own = written;
            if let [head @ .., last] = own
                && stop.contains(last)
            {
                own = head;
            }
            let response = (lab.decode)(&[&branch.prefill[..], own].concat());
            let utility = case.utility.as_ref().map(|utility| utility(&response));
            let new_tokens = written.len();
            texts.push(Text {
                prefill: (lab.decode)(&branch.prefill),
                continuation: (lab.decode)(own),
                response: response.clone(),
            });
            Outcome { own: own.to_vec(), response, verdict: None, utility, new_tokens }
        })
        .collect();
    let judged: Vec<usize> = (0..outcomes.len()).filter(|&i| outcomes[i].utility.is_none()).collect();
    let request = |&i: &usize| JudgeRequest {
        id: &branches[i].case.id,
        prompt: &branches[i].case.prompt,
        prefill: &texts[i].prefill,
        continuation: &texts[i].continuation,
        response: &texts[i].response,
    };
    let verdicts = lab.judge.judge_all(&judged.iter().map(request).collect::<Vec<_>>())?;
    for (i, verdict) in judged.into_iter().zip(verdicts) {
        outcomes[i].verdict = Some(verdict);
    }
    Ok(outcomes)
}

//! Rethinking (beyond the paper; ADA-RK of Any-Depth Alignment, Zhang et al. 2025, arXiv 2510.18081): a defence at
//! inference time. Alignment answers what stands right after the assistant's header; so put the header in again every
//! few tokens of an answer, look ahead, and where the look-ahead is a refusal, end the answer with it. Else the
//! look-ahead is forgotten and the answer goes on as if nothing had been.

use super::respond::{judged, plain_draw};
use super::{Branch, Draw, Lab, Outcome, Subject};
use crate::Result;
use crate::generate::{Completion, Finish, Request};
use crate::judge::{self, JudgeRequest, KeywordJudge};
use crate::model::flops;
use crate::ops::Ops;
use crate::run::Cost;

/// Tokens of an answer between two looks ahead; a prefill counts as answer.
pub const EVERY: usize = 25;

/// Tokens that are looked ahead, at most.
pub const LOOK_AHEAD: usize = 20;

/// Marks a look-ahead among a case's random numbers, so that it takes none of the answer's.
const LOOKING: u16 = 1 << 15;

/// Whether a text is a refusal by its words: what a deployed defence can know without a judge.
pub fn is_refusal(text: &str) -> bool {
    let request = JudgeRequest { id: "", prompt: "", prefill: "", continuation: text, response: text };
    KeywordJudge::default().judge(&request).whole == judge::Outcome::Refused
}

/// An answer on its way.
struct Answer<'a> {
    branch: &'a Branch<'a>,
    draw: Draw,
    /// What the model wrote, an end included.
    written: Vec<u32>,
    ended: bool,
}

/// Answers with rethinking, judged; `header` is what the chat template puts before an answer, and `refuses` says whether
/// a look-ahead is a refusal.
///
/// An answer of which no look-ahead is a refusal is the same, token by token, as without rethinking.
pub fn respond<D: Ops>(
    lab: &Lab<'_>,
    subject: &Subject<'_, D>,
    branches: &[Branch<'_>],
    header: &[u32],
    refuses: impl Fn(&str) -> bool,
    label: &str,
) -> Result<(Vec<Outcome>, Cost)> {
    let stop = &lab.stop[subject.side as usize];
    let context = subject.model.config.max_position_embeddings;
    let mut cost = Cost::default();
    let mut answers: Vec<Answer<'_>> = branches
        .iter()
        .map(|branch| {
            let draw = branch.draw.unwrap_or_else(|| plain_draw(lab, branch));
            Answer { branch, draw, written: Vec::new(), ended: false }
        })
        .collect();
    let mut go_on = |requests: &[Request]| -> Result<Vec<Completion>> {
        let (completions, stats) = lab.engine.generate(subject.model, requests, |_| ())?;
        let forward = stats.prompt_tokens + stats.decoded_tokens;
        cost += Cost {
            forward_tokens: forward as u64,
            unshared_tokens: requests.iter().map(|request| request.prompt.len() as u64).sum::<u64>()
                + stats.decoded_tokens as u64,
            flops: flops::forward(&subject.model.config, forward, stats.decoded_tokens + requests.len()),
            ..Cost::default()
        };
        Ok(completions)
    };
    let bar = lab.console.bar(label, answers.len());
    loop {
        bar.set(answers.iter().filter(|answer| answer.ended).count());
        let mut going: Vec<&mut Answer<'_>> = answers.iter_mut().filter(|answer| !answer.ended).collect();
        if going.is_empty() {
            break;
        }
        // On to the next place for a look ahead.
        let request = |answer: &&mut Answer<'_>| {
            let next = EVERY - (answer.branch.prefill.len() + answer.written.len()) % EVERY;
            answer.request(lab, subject, None, next.min(answer.left(lab)))
        };
        let completions = go_on(&going.iter().map(request).collect::<Vec<_>>())?;
        for (answer, completion) in going.iter_mut().zip(completions) {
            answer.written.extend(completion.tokens);
            let full = answer.prompt_length(subject) + answer.written.len() >= context;
            answer.ended = completion.finish != Finish::Length || answer.left(lab) == 0 || full;
        }
        going.retain(|answer| !answer.ended);
        // Look ahead, where there is room for it.
        let room =
            |answer: &&mut Answer<'_>| answer.prompt_length(subject) + answer.written.len() + header.len() < context;
        let mut looking: Vec<&mut Answer<'_>> = going.into_iter().filter(room).collect();
        let request = |answer: &&mut Answer<'_>| answer.request(lab, subject, Some(header), LOOK_AHEAD);
        let completions = go_on(&looking.iter().map(request).collect::<Vec<_>>())?;
        for (answer, completion) in looking.iter_mut().zip(completions) {
            let said: Vec<u32> = completion.tokens.iter().copied().filter(|id| !stop.contains(id)).collect();
            if refuses(&(lab.decode)(&said)) {
                answer.written.extend(completion.tokens);
                answer.ended = true;
            }
        }
    }
    drop(bar);
    let written: Vec<&[u32]> = answers.iter().map(|answer| answer.written.as_slice()).collect();
    Ok((judged(lab, stop, branches, &written)?, cost))
}

impl Answer<'_> {
    /// Tokens that it may still have.
    fn left(&self, lab: &Lab<'_>) -> usize {
        self.branch.case.max_new_tokens.unwrap_or(lab.max_new_tokens).saturating_sub(self.written.len())
    }

    /// Prompt and prefill.
    fn prompt_length<D: Ops>(&self, subject: &Subject<'_, D>) -> usize {
        self.branch.case.prompt_for(subject.side).len() + self.branch.prefill.len()
    }

    /// Asks for what follows the answer so far, or, to look ahead, a header put after it.
    fn request<D: Ops>(
        &self,
        lab: &Lab<'_>,
        subject: &Subject<'_, D>,
        ahead: Option<&[u32]>,
        max_new_tokens: usize,
    ) -> Request {
        let Self { branch, draw, written, .. } = self;
        let header = ahead.unwrap_or_default();
        Request {
            example: branch.case.key,
            setting: draw.setting,
            sample: if ahead.is_some() { draw.sample | LOOKING } else { draw.sample },
            prompt: [branch.case.prompt_for(subject.side), &branch.prefill, written, header].concat(),
            prefill: branch.prefill.len() + written.len() + header.len(),
            params: draw.params,
            max_new_tokens,
            stop: lab.stop[subject.side as usize].clone(),
        }
    }
}

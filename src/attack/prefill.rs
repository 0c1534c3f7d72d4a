//! Prefilling: put the head of an answer into the model's mouth and let it go on (paper, Sections 2.2 and 2.3).

use crate::Result;
use crate::experiment::{Case, Lab, Subject};
use crate::generate::Request;
use crate::judge::{JudgeRequest, Verdict};
use crate::ops::Ops;

/// One prefilled response to generate: case `case` with `prefill` as its first tokens.
pub struct Prefilled {
    pub case: usize,
    pub prefill: Vec<u32>,
    /// Number of this setting within the experiment: names the row's random numbers.
    pub setting: u16,
}

/// A judged response.
pub struct Outcome {
    pub verdict: Verdict,
    /// Tokens the model wrote.
    pub new_tokens: usize,
}

/// Generates and judges all of them, in order, as branches of one tree.
pub fn run<D: Ops>(
    lab: &Lab<'_>,
    subject: &Subject<'_, D>,
    branches: &[Prefilled],
    label: &str,
) -> Result<Vec<Outcome>> {
    let requests: Vec<Request> = branches
        .iter()
        .map(|branch| {
            let case: &Case = &lab.cases[branch.case];
            Request {
                example: case.key,
                setting: branch.setting,
                sample: 0,
                prompt: [&subject.prompts[branch.case][..], &branch.prefill].concat(),
                prefill: branch.prefill.len(),
                params: lab.params,
                max_new_tokens: lab.max_new_tokens,
                stop: subject.stop.clone(),
            }
        })
        .collect();
    let bar = lab.console.bar(label, requests.len());
    let (completions, _) = lab.engine.generate(subject.model, &requests, |done| bar.set(done))?;
    let outcomes = branches.iter().zip(&completions).map(|(branch, completion)| {
        let case = &lab.cases[branch.case];
        let mut own = completion.tokens.as_slice();
        if let [head @ .., last] = own
            && subject.stop.contains(last)
        {
            own = head;
        }
        let whole = [&branch.prefill[..], own].concat();
        let verdict = lab.judge.judge(&JudgeRequest {
            id: &case.id,
            prompt: &case.prompt,
            prefill: &(lab.decode)(&branch.prefill),
            continuation: &(lab.decode)(own),
            response: &(lab.decode)(&whole),
        });
        Outcome { verdict, new_tokens: completion.tokens.len() }
    });
    Ok(outcomes.collect())
}

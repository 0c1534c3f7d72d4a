//! E2, Figure 1: how far the aligned model is from the base model at each token of a harmful answer.

use crate::Result;
use crate::attack::{Case, Lab, Subject};
use crate::device::Tensor;
use crate::model::Transformer;
use crate::model::flops;
use crate::model::passes::token_batches;
use crate::model::transformer::{Batch, Keep};
use crate::ops::Ops;
use crate::ops::linear_kl::{KlOutput, KlSide};
use crate::run::{Cost, Findings};

/// Tokens in one forward pass, about.
const BATCH_TOKENS: usize = 2048;

/// One response token's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenKl {
    /// Response position, from 1.
    pub position: usize,
    pub token: u32,
    /// D_KL(pi_p(. | x, y_<t) || pi_q(. | x, y_<t)), nats.
    pub kl: f32,
    pub entropy_p: f32,
    pub entropy_q: f32,
    pub argmax_p: u32,
    pub argmax_q: u32,
}

/// Final normed hidden states of the rows that predict each response token.
fn response_hidden<D: Ops>(model: &Transformer<D>, sequences: &[(&[u32], &[u32])]) -> Result<Tensor<D>> {
    let device = &model.device;
    // The last response token predicts nothing that is asked for.
    let inputs: Vec<Vec<u32>> =
        sequences.iter().map(|(prompt, response)| [prompt, &response[..response.len() - 1]].concat()).collect();
    let slices: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut rows = Vec::new();
    let mut start = 0;
    for ((prompt, response), input) in sequences.iter().zip(&inputs) {
        rows.extend((0..response.len()).map(|t| (start + prompt.len() - 1 + t) as u32));
        start += input.len();
    }
    let (hidden, _) = model.forward(&Batch::new(device, &slices)?, Keep::Nothing)?;
    model.final_norm(&hidden, &device.indices(&rows)?, rows.len())
}

/// Per-token KL of model `p` against model `q` on (prompt, response) pairs; each model reads its own prompt.
/// Responses are not empty. `progress(pairs done)` is called after each batch.
pub fn per_token<D: Ops>(
    p: &Transformer<D>,
    q: &Transformer<D>,
    pairs: &[(&[u32], &[u32], &[u32])],
    mut progress: impl FnMut(usize),
) -> Result<Vec<Vec<TokenKl>>> {
    let mut result = Vec::with_capacity(pairs.len());
    let lengths = pairs.iter().map(|(prompt, _, response)| prompt.len() + response.len());
    for range in token_batches(lengths, BATCH_TOKENS) {
        let batch = &pairs[range];
        let side_p: Vec<(&[u32], &[u32])> = batch.iter().map(|&(prompt, _, response)| (prompt, response)).collect();
        let side_q: Vec<(&[u32], &[u32])> = batch.iter().map(|&(_, prompt, response)| (prompt, response)).collect();
        let (hidden_p, hidden_q) = (response_hidden(p, &side_p)?, response_hidden(q, &side_q)?);
        let side = |model: &'_ Transformer<D>| model.config.final_logit_softcapping;
        let output = p.device.linear_kl(
            KlSide { hidden: &hidden_p, w: p.parameters.unembedding(), softcap: side(p) },
            KlSide { hidden: &hidden_q, w: q.parameters.unembedding(), softcap: side(q) },
        )?;
        let KlOutput { kl, entropy_p, entropy_q, argmax_p, argmax_q } = output;
        let columns = [kl, entropy_p, entropy_q, argmax_p, argmax_q].map(|column| column.to_vec(&p.device));
        let [Ok(kl), Ok(entropy_p), Ok(entropy_q), Ok(argmax_p), Ok(argmax_q)] = columns else {
            return Err(crate::Error::Device("the device lost the result of linear_kl: run again".into()));
        };
        let mut row = 0;
        for (_, _, response) in batch {
            let tokens = response.iter().enumerate().map(|(t, &token)| {
                let at = row + t;
                TokenKl {
                    position: t + 1,
                    token,
                    kl: kl[at],
                    entropy_p: entropy_p[at],
                    entropy_q: entropy_q[at],
                    argmax_p: argmax_p[at] as u32,
                    argmax_q: argmax_q[at] as u32,
                }
            });
            result.push(tokens.collect());
            row += response.len();
        }
        progress(result.len());
    }
    Ok(result)
}

/// What [`per_token`] costs.
pub fn cost<D: Ops>(model: &Transformer<D>, pairs: &[(&[u32], &[u32], &[u32])]) -> Cost {
    let tokens: usize = pairs.iter().map(|(p, q, response)| p.len() + q.len() + 2 * response.len()).sum();
    let rows: usize = pairs.iter().map(|(_, _, response)| 2 * response.len()).sum();
    Cost {
        forward_tokens: tokens as u64,
        unshared_tokens: tokens as u64,
        flops: flops::forward(&model.config, tokens, rows),
        ..Cost::default()
    }
}

/// Rows `EXPERIMENT,model,none,,position,seed,example,kl`: E2 for the aligned model, E5 (Figure 4) for the augmented.
pub fn run<D: Ops>(
    lab: &Lab<'_>,
    experiment: &str,
    subject: &Subject<'_, D>,
    base: &Subject<'_, D>,
    cases: &[Case],
) -> Result<Findings> {
    let cases: Vec<&Case> = cases.iter().filter(|case| !case.harmful.is_empty()).collect();
    let pairs: Vec<(&[u32], &[u32], &[u32])> = cases
        .iter()
        .map(|case| (case.prompt_for(subject.side), case.prompt_for(base.side), &case.harmful[..]))
        .collect();
    let bar = lab.console.bar(format!("KL {} against {}", subject.name, base.name), pairs.len());
    let measured = per_token(subject.model, base.model, &pairs, |done| bar.set(done))?;
    let mut findings = Findings { cost: cost(subject.model, &pairs), ..Findings::default() };
    for (case, tokens) in cases.iter().zip(&measured) {
        for token in tokens {
            let kl = f64::from(token.kl);
            findings.rows.push(lab.row(experiment, subject.name, "none", "", Some(token.position), &case.id, "kl", kl));
        }
    }
    Ok(findings)
}

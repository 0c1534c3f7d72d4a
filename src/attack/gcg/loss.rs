//! The target's loss under many suffixes at once.

use super::Behaviour;
use crate::generate::branches::{Branch, BranchScore, BranchStats, score};
use crate::model::{Config, Transformer};
use crate::ops::Ops;
use crate::{Error, Result};

/// Bytes of activations that a pass may hold on the CPU: a few passes' worth fits into a last-level cache together with
/// what of the weights is in use.
const ACTIVATION_BYTES: usize = 64 << 20;

/// How candidates go through the model; what they score does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Tokens in a pass; none: as many as fit well.
    pub tokens: Option<usize>,
    /// Whether candidates share what stands before their swapped token.
    pub prefix_cache: bool,
}

impl Batching {
    fn tokens(self, config: &Config) -> usize {
        let floats = 4 * config.hidden_size
            + 3 * config.intermediate_size
            + 2 * (config.num_attention_heads + config.num_key_value_heads) * config.head_dim;
        self.tokens.unwrap_or((ACTIVATION_BYTES / (4 * floats)).clamp(256, 2048))
    }
}

/// A suffix's standing.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// Mean over behaviours of the mean loss of their target's tokens, nats.
    pub mean: f64,
    /// Behaviours whose whole target greedy decoding would say.
    pub exact: usize,
}

/// The loss of each candidate on all behaviours. `current` is what most candidates are nearly equal to.
pub fn of_candidates<D: Ops>(
    model: &Transformer<D>,
    behaviours: &[Behaviour],
    current: &[u32],
    candidates: &[Vec<u32>],
    batching: Batching,
) -> Result<(Vec<Loss>, BranchStats)> {
    let trunk = |behaviour: &Behaviour| behaviour.prompt(current)[..behaviour.suffix_start() + current.len()].to_vec();
    let trunks: Vec<Vec<u32>> = behaviours.iter().map(trunk).collect();
    let prompts = candidates
        .iter()
        .flat_map(|candidate| behaviours.iter().map(|behaviour| behaviour.prompt(candidate)))
        .collect();
    of_prompts(model, behaviours, &trunks, prompts, batching)
}

/// The loss of the behaviours' targets after `prompts`, which go through all behaviours for each candidate; `trunks` are
/// what most of a behaviour's prompts begin like.
pub fn of_prompts<D: Ops>(
    model: &Transformer<D>,
    behaviours: &[Behaviour],
    trunks: &[Vec<u32>],
    prompts: Vec<Vec<u32>>,
    batching: Batching,
) -> Result<(Vec<Loss>, BranchStats)> {
    let mut branches = Vec::with_capacity(prompts.len());
    for (i, prompt) in prompts.into_iter().enumerate() {
        let trunk = i % behaviours.len();
        let target = &behaviours[trunk].target;
        let alike = prompt.iter().zip(&trunks[trunk]).take_while(|(a, b)| a == b).count();
        // At least one row of its own, to predict the first label from.
        let shared = if batching.prefix_cache { alike.min(prompt.len() - 1) } else { 0 };
        let tokens = [&prompt[shared..], target].concat();
        branches.push(Branch { trunk, shared, tokens, labels: target.len() });
    }
    let trunks: Vec<&[u32]> = match batching.prefix_cache {
        true => trunks.iter().map(Vec::as_slice).collect(),
        false => vec![&[]; trunks.len()],
    };
    let mut tokens = batching.tokens(&model.config);
    let (scores, stats) = loop {
        match score(model, &trunks, &branches, tokens) {
            // Out of memory: what fits is found by halves.
            Err(Error::Device(_)) if tokens > 1 => tokens /= 2,
            other => break other?,
        }
    };
    let losses = scores.chunks(behaviours.len()).map(|scores| {
        let exact = scores.iter().filter(|score| score.exact).count();
        Loss { mean: scores.iter().map(target_loss).sum::<f64>() / scores.len() as f64, exact }
    });
    Ok((losses.collect(), stats))
}

fn target_loss(score: &BranchScore) -> f64 {
    -score.logprob.iter().map(|&logprob| f64::from(logprob)).sum::<f64>() / score.logprob.len() as f64
}

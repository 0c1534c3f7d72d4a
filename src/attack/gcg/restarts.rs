//! Restarts: the same search with other draws, and which of them did best.

use serde::{Deserialize, Serialize};

/// What a restart found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub restart: usize,
    /// The text that stands in for the place in a prompt.
    pub suffix: String,
    pub tokens: Vec<u32>,
    /// Mean loss of all behaviours' targets under it, nats.
    pub loss: f64,
    /// Behaviours whose target greedy decoding says under it.
    pub exact: usize,
    pub steps: usize,
    pub flops: f64,
}

/// The `count` best restarts, best first: those that reach most targets, of these the lowest loss. Nothing but what the
/// search itself saw is asked: prompts that it is judged on stay unseen.
pub fn rank(mut found: Vec<Found>, count: usize) -> Vec<Found> {
    found.sort_by(|a, b| b.exact.cmp(&a.exact).then(a.loss.total_cmp(&b.loss)).then(a.restart.cmp(&b.restart)));
    found.truncate(count);
    found
}

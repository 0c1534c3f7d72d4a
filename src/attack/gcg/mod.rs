//! Greedy coordinate gradient (Zou et al. 2023, "Universal and Transferable Adversarial Attacks on Aligned Language
//! Models"): a suffix that makes a model begin its answer as an attacker wants.
//!
//! A step takes the gradient of the target's loss with respect to the suffix's one-hot tokens, draws candidates that swap
//! one token for one of the 256 best at its place, and goes on with the candidate of the lowest loss, better or not. A
//! candidate counts only if its text, put into the whole rendered chat, gives its tokens again. A universal suffix is
//! found for one behaviour first; whenever all so far are reached, the next joins them.
//!
//! Options beyond that: a buffer of the best suffixes to go on from (Haize Labs 2024, as nanoGCG has it, but filled by
//! the search), momentum (Zhang and Wei 2024, "Boosting Jailbreak Attack with Momentum"), and [`probe`] sampling.

pub mod alphabet;
mod behaviour;
pub mod candidates;
pub mod frame;
pub mod gradient;
pub mod loss;
pub mod probe;
mod restarts;
mod search;
mod state;

pub use behaviour::{Behaviour, initial};
pub use frame::{ChatFrame, Frame, Parts, WorldFrame};
pub use probe::Draft;
pub use restarts::{Found, rank};
pub use search::Search;
pub use state::{Point, State};

use serde::{Deserialize, Serialize};

/// Settings of a search; the defaults are Zou et al.'s.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub steps: usize,
    /// Candidates drawn a step.
    pub candidates: usize,
    /// Tokens that a position's swap is drawn from.
    pub top_k: usize,
    /// Whether behaviours join one by one.
    pub progressive: bool,
    /// Whether the search ends when greedy decoding says every target.
    pub early_stop: bool,
    /// Best suffixes to go on from; 0: always from the newest.
    pub buffer: usize,
    /// mu of `m <- mu m + (1 - mu) g`; 0: none.
    pub momentum: f32,
    /// Whether candidates share what stands before their swapped token; the same numbers either way.
    pub prefix_cache: bool,
    /// Tokens in a pass; none: as many as fit well. The same numbers whatever it is.
    #[serde(skip)]
    pub batch_tokens: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            steps: 500,
            candidates: 512,
            top_k: 256,
            progressive: true,
            early_stop: true,
            buffer: 0,
            momentum: 0.0,
            prefix_cache: true,
            batch_tokens: None,
        }
    }
}

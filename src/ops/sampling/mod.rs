//! Choosing the next token: the filters of transformers' `generate`, in its order, and one draw.

mod cpu;
mod cuda;
mod filters;

pub use filters::{apply_filters, draw};

use crate::Result;
use crate::device::{Backend, Tensor};

/// How the next token is chosen. The default changes nothing and samples at temperature 1.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SamplingParams {
    /// 0 is greedy: the most likely token, the first of equals.
    pub temperature: f32,
    /// Keep the k most likely tokens, and all that tie with the k-th; 0 is off.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens whose probability reaches p; 1 is off.
    pub top_p: f32,
    /// Divide positive (multiply negative) logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0 }
    }
}

impl SamplingParams {
    /// The most likely token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0 };
}

/// One row to sample: its parameters, the tokens so far (prompt and output), and its random number in `[0, 1)`.
#[derive(Clone, Copy, Debug)]
pub struct SamplingRow<'a> {
    pub params: SamplingParams,
    pub history: &'a [u32],
    pub uniform: f32,
}

/// Repetition penalty, temperature, top-k, top-p, then a draw by inverse transform in token order.
///
/// Laws: a row's token depends on its logits, parameters and random number only; greedy ignores the random number.
pub trait Sampling: Backend {
    /// `logits [R, V]`, destroyed; `row(i)` says how row i is sampled. `tokens` becomes one token a row.
    fn sample<'a>(
        &self,
        logits: &mut Tensor<Self>,
        row: impl Fn(usize) -> SamplingRow<'a> + Send + Sync,
        tokens: &mut Vec<u32>,
    ) -> Result<()>;
}

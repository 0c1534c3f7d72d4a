//! The sizes of the models whose operations are timed.

use crate::ops::glu::Activation;
use crate::{Error, Result};

/// The sizes an op's cost depends on.
pub(super) struct Shapes {
    pub name: &'static str,
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    pub activation: Activation,
}

/// The last is for the emulator, and is not timed unless it is named.
const MODELS: [Shapes; 4] = [
    Shapes {
        name: "llama-2-7b",
        hidden: 4096,
        intermediate: 11008,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        vocab: 32000,
        activation: Activation::Silu,
    },
    Shapes {
        name: "gemma-7b",
        hidden: 3072,
        intermediate: 24576,
        heads: 16,
        kv_heads: 16,
        head_dim: 256,
        vocab: 256_000,
        activation: Activation::GeluTanh,
    },
    Shapes {
        name: "smollm2-135m",
        hidden: 576,
        intermediate: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49152,
        activation: Activation::Silu,
    },
    Shapes {
        name: "tiny",
        hidden: 128,
        intermediate: 256,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        vocab: 512,
        activation: Activation::Silu,
    },
];

impl Shapes {
    /// One model, or all that are timed unasked.
    pub fn named(name: Option<&str>) -> Result<&'static [Self]> {
        let Some(name) = name else { return Ok(&MODELS[..3]) };
        let found = MODELS.iter().position(|shapes| shapes.name == name);
        let at = found.ok_or_else(|| {
            Error::Usage(format!("unknown model \"{name}\": use llama-2-7b, gemma-7b, smollm2-135m or tiny"))
        })?;
        Ok(&MODELS[at..=at])
    }
}

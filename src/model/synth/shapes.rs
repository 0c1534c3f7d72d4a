//! The shapes: `config.json` of published models, and tiny models of every architecture.

use super::tokenizer::Family;
use crate::model::Architecture;
use serde_json::{Value, json};

pub(super) struct Shape {
    pub name: &'static str,
    pub family: Family,
    architecture: Architecture,
    vocab_size: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    positions: usize,
    theta: f64,
    eps: f64,
    tied: bool,
    /// Keys of this shape alone, as JSON.
    more: &'static str,
}

impl Shape {
    pub fn is_tiny(&self) -> bool {
        self.name.starts_with("tiny-")
    }

    /// The shape's `config.json`, with the token ids of its synthetic tokenizer.
    pub fn json(&self) -> Value {
        let tokenizer = self.family.tokenizer();
        let mut config = json!({
            "architectures": [self.architecture.name()],
            "model_type": self.architecture.model_type(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.positions,
            "rms_norm_eps": self.eps,
            "rope_theta": self.theta,
            "tie_word_embeddings": self.tied,
            "bos_token_id": tokenizer.bos_id(),
            "eos_token_id": tokenizer.eos_ids()[0],
            "pad_token_id": tokenizer.pad_id(),
            "initializer_range": 0.02,
            "dtype": "float32",
        });
        let more: serde_json::Map<String, Value> = serde_json::from_str(self.more).expect("the table holds JSON");
        config.as_object_mut().expect("an object").extend(more);
        config
    }
}

const SILU: &str = r#"{"hidden_act": "silu"}"#;
const LLAMA_3_1: &str = r#"{"hidden_act": "silu", "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#;
const LLAMA_3_2: &str = r#"{"hidden_act": "silu", "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#;
const TINY_LLAMA_3: &str = r#"{"hidden_act": "silu", "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}"#;
const MISTRAL: &str = r#"{"hidden_act": "silu", "sliding_window": 4096}"#;
const TINY_MISTRAL: &str = r#"{"hidden_act": "silu", "sliding_window": 32}"#;
const QWEN: &str = r#"{"hidden_act": "silu", "use_sliding_window": false, "attention_bias": false}"#;
const GEMMA: &str = r#"{"hidden_act": "gelu_pytorch_tanh"}"#;
const GEMMA_2: &str = r#"{"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}"#;
const TINY_GEMMA_2: &str = r#"{"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 24, "sliding_window": 32,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}"#;

/// One line a shape, in the order of [`Shape`]'s fields.
macro_rules! shapes {
    ($($name:literal $family:ident $architecture:ident $vocab:literal $hidden:literal $intermediate:literal $layers:literal
        $heads:literal $kv:literal $head_dim:literal $positions:literal $theta:literal $eps:literal $tied:literal $more:ident;)*) => {
        &[$(Shape {
            name: $name, family: Family::$family, architecture: Architecture::$architecture, vocab_size: $vocab, hidden: $hidden,
            intermediate: $intermediate, layers: $layers, heads: $heads, key_value_heads: $kv, head_dim: $head_dim,
            positions: $positions, theta: $theta, eps: $eps, tied: $tied, more: $more,
        }),*]
    };
}

#[rustfmt::skip]
pub(super) const SHAPES: &[Shape] = shapes! {
    // name           family  arch.   vocab  hidden inter. layers heads kv dim positions theta eps tied
    "llama-2-7b"      Llama2  Llama   32000  4096 11008 32 32 32 128   4096   10000.0 1e-5 false SILU;
    "llama-2-13b"     Llama2  Llama   32000  5120 13824 40 40 40 128   4096   10000.0 1e-5 false SILU;
    "llama-3.1-8b"    Llama3  Llama   128256 4096 14336 32 32  8 128 131072  500000.0 1e-5 false LLAMA_3_1;
    "llama-3.2-1b"    Llama3  Llama   128256 2048  8192 16 32  8  64 131072  500000.0 1e-5 true  LLAMA_3_2;
    "smollm2-135m"    ChatMl  Llama   49152   576  1536 30  9  3  64   8192  100000.0 1e-5 true  SILU;
    "mistral-7b"      Mistral Mistral 32000  4096 14336 32 32  8 128  32768   10000.0 1e-5 false MISTRAL;
    "qwen2.5-0.5b"    ChatMl  Qwen2   151936  896  4864 24 14  2  64  32768 1000000.0 1e-6 true  QWEN;
    "qwen2.5-7b"      ChatMl  Qwen2   152064 3584 18944 28 28  4 128  32768 1000000.0 1e-6 false QWEN;
    "qwen3-0.6b"      ChatMl  Qwen3   151936 1024  3072 28 16  8 128  40960 1000000.0 1e-6 true  QWEN;
    "qwen3-8b"        ChatMl  Qwen3   151936 4096 12288 36 32  8 128  40960 1000000.0 1e-6 false QWEN;
    "gemma-2b"        Gemma   Gemma   256000 2048 16384 18  8  1 256   8192   10000.0 1e-6 true  GEMMA;
    "gemma-7b"        Gemma   Gemma   256000 3072 24576 28 16 16 256   8192   10000.0 1e-6 true  GEMMA;
    "gemma-2-2b"      Gemma   Gemma2  256000 2304  9216 26  8  4 256   8192   10000.0 1e-6 true  GEMMA_2;
    "gemma-2-9b"      Gemma   Gemma2  256000 3584 14336 42 16  8 256   8192   10000.0 1e-6 true  GEMMA_2;
    "tiny-llama"      Llama2  Llama   320      64   176  2  4  4  16    512   10000.0 1e-5 false SILU;
    "tiny-llama3"     Llama3  Llama   320      64   176  2  4  2  16    512  500000.0 1e-5 true  TINY_LLAMA_3;
    "tiny-mistral"    Mistral Mistral 320      64   176  2  4  2  16    512   10000.0 1e-5 false TINY_MISTRAL;
    "tiny-qwen2"      ChatMl  Qwen2   320      64   176  2  4  2  16    512 1000000.0 1e-6 true  QWEN;
    "tiny-qwen3"      ChatMl  Qwen3   320      64   176  2  4  2  32    512 1000000.0 1e-6 true  QWEN;
    "tiny-gemma"      Gemma   Gemma   320      64   176  2  4  1  32    512   10000.0 1e-6 true  GEMMA;
    "tiny-gemma2"     Gemma   Gemma2  320      64   176  2  4  2  32    512   10000.0 1e-6 true  TINY_GEMMA_2;
};

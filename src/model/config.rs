//! `config.json`: the shape of a model, with every architecture's differences resolved into plain fields.

use crate::ops::glu::Activation;

/// The architectures this crate runs. Anything else is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma,
    Gemma2,
}

/// A decoder-only transformer's shape, resolved from `config.json`: no field needs the architecture to be interpreted.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    /// Rotary frequencies with the checkpoint's scaling applied, `head_dim / 2` entries.
    pub inv_freq: Vec<f32>,
    pub tie_word_embeddings: bool,
    /// q, k and v projections have biases (Qwen2; Llama's `attention_bias`).
    pub qkv_bias: bool,
    /// The output projection has a bias (Llama's `attention_bias`).
    pub o_bias: bool,
    /// RMSNorm on each head of q and k before RoPE (Qwen3).
    pub qk_norm: bool,
    /// Added to every RMSNorm weight: 1 for Gemma, else 0.
    pub norm_offset: f32,
    pub hidden_activation: Activation,
    /// Factor on embeddings: sqrt(hidden_size) for Gemma, else 1.
    pub embedding_scale: f32,
    /// Factor on q.k.
    pub attention_scale: f32,
    pub attn_logit_softcapping: Option<f32>,
    pub final_logit_softcapping: Option<f32>,
    /// Gemma 2: norms after attention and MLP, before the residual sum, beside those before them.
    pub post_norms: bool,
    /// Window of each layer (`None`: full attention), `num_hidden_layers` entries.
    pub sliding_window: Vec<Option<usize>>,
    /// The `config.json` this came from, so that a checkpoint can be written with it.
    pub json: serde_json::Map<String, serde_json::Value>,
}

impl Config {
    /// Name and shape (`[rows, cols]`; vectors are `[1, n]`) of every parameter, in file order, as Hugging Face names them.
    pub fn parameters(&self) -> Vec<(String, [usize; 2])> {
        let hidden = self.hidden_size;
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let mut list = vec![("model.embed_tokens.weight".to_owned(), [self.vocab_size, hidden])];
        for layer in 0..self.num_hidden_layers {
            let mut push = |name: &str, shape| list.push((format!("model.layers.{layer}.{name}"), shape));
            push("input_layernorm.weight", [1, hidden]);
            for (name, out) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
                push(&format!("self_attn.{name}.weight"), [out, hidden]);
                if self.qkv_bias {
                    push(&format!("self_attn.{name}.bias"), [1, out]);
                }
            }
            push("self_attn.o_proj.weight", [hidden, q]);
            if self.o_bias {
                push("self_attn.o_proj.bias", [1, hidden]);
            }
            if self.qk_norm {
                push("self_attn.q_norm.weight", [1, self.head_dim]);
                push("self_attn.k_norm.weight", [1, self.head_dim]);
            }
            push("post_attention_layernorm.weight", [1, hidden]);
            if self.post_norms {
                push("pre_feedforward_layernorm.weight", [1, hidden]);
                push("post_feedforward_layernorm.weight", [1, hidden]);
            }
            push("mlp.gate_proj.weight", [self.intermediate_size, hidden]);
            push("mlp.up_proj.weight", [self.intermediate_size, hidden]);
            push("mlp.down_proj.weight", [hidden, self.intermediate_size]);
        }
        list.push(("model.norm.weight".to_owned(), [1, hidden]));
        if !self.tie_word_embeddings {
            list.push(("lm_head.weight".to_owned(), [self.vocab_size, hidden]));
        }
        list
    }
}

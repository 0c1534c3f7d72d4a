//! The parameters of a model, in fields named as checkpoints name them.

use super::Config;
use crate::Result;
use crate::device::{Backend, DType, Tensor};

/// A projection `[out, in]` and its bias, where the architecture has one.
pub struct Projection<T> {
    pub weight: T,
    pub bias: Option<T>,
}

/// `model.layers.{i}`.
pub struct Layer<T> {
    pub input_layernorm: T,
    pub q_proj: Projection<T>,
    pub k_proj: Projection<T>,
    pub v_proj: Projection<T>,
    pub o_proj: Projection<T>,
    /// Qwen3.
    pub q_norm: Option<T>,
    pub k_norm: Option<T>,
    /// Before the MLP; in Gemma 2 after attention.
    pub post_attention_layernorm: T,
    /// Gemma 2.
    pub pre_feedforward_layernorm: Option<T>,
    pub post_feedforward_layernorm: Option<T>,
    pub gate_proj: T,
    pub up_proj: T,
    pub down_proj: T,
}

/// A whole model's worth of `T`: weights, gradients or optimizer moments.
pub struct Parameters<T> {
    pub embed_tokens: T,
    pub layers: Vec<Layer<T>>,
    pub norm: T,
    /// `None` where the unembedding is the embedding.
    pub lm_head: Option<T>,
}

/// Every field of a layer in the order of [`Config::parameters`], by shared or mutable reference.
macro_rules! layer_fields {
    ($layer:expr, $option:ident $(, $mutable:tt)?) => {{
        let layer = $layer;
        [Some(&$($mutable)? layer.input_layernorm)]
            .into_iter()
            .chain([Some(&$($mutable)? layer.q_proj.weight), layer.q_proj.bias.$option()])
            .chain([Some(&$($mutable)? layer.k_proj.weight), layer.k_proj.bias.$option()])
            .chain([Some(&$($mutable)? layer.v_proj.weight), layer.v_proj.bias.$option()])
            .chain([Some(&$($mutable)? layer.o_proj.weight), layer.o_proj.bias.$option()])
            .chain([layer.q_norm.$option(), layer.k_norm.$option()])
            .chain([Some(&$($mutable)? layer.post_attention_layernorm)])
            .chain([layer.pre_feedforward_layernorm.$option(), layer.post_feedforward_layernorm.$option()])
            .chain([Some(&$($mutable)? layer.gate_proj), Some(&$($mutable)? layer.up_proj)])
            .chain([Some(&$($mutable)? layer.down_proj)])
            .flatten()
    }};
}

impl<T> Parameters<T> {
    /// Calls `make(name, shape)` for every parameter of `config`, in the order of [`Config::parameters`].
    pub fn build(config: &Config, mut make: impl FnMut(&str, [usize; 2]) -> Result<T>) -> Result<Self> {
        let mut list = config.parameters().into_iter();
        let mut next = |suffix: &str| {
            let (name, shape) = list.next().expect("Config::parameters lists every field");
            debug_assert!(name.ends_with(suffix), "expected {suffix}, found {name}");
            make(&name, shape)
        };
        let embed_tokens = next("embed_tokens.weight")?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for _ in 0..config.num_hidden_layers {
            let input_layernorm = next("input_layernorm.weight")?;
            let mut projection = |name: &str, bias: bool| -> Result<Projection<T>> {
                let weight = next(&format!("{name}.weight"))?;
                let bias = bias.then(|| next(&format!("{name}.bias"))).transpose()?;
                Ok(Projection { weight, bias })
            };
            let q_proj = projection("q_proj", config.qkv_bias)?;
            let k_proj = projection("k_proj", config.qkv_bias)?;
            let v_proj = projection("v_proj", config.qkv_bias)?;
            let o_proj = projection("o_proj", config.o_bias)?;
            let mut optional = |present: bool, name: &str| present.then(|| next(name)).transpose();
            layers.push(Layer {
                input_layernorm,
                q_proj,
                k_proj,
                v_proj,
                o_proj,
                q_norm: optional(config.qk_norm, "q_norm.weight")?,
                k_norm: optional(config.qk_norm, "k_norm.weight")?,
                post_attention_layernorm: next("post_attention_layernorm.weight")?,
                pre_feedforward_layernorm: config
                    .post_norms
                    .then(|| next("pre_feedforward_layernorm.weight"))
                    .transpose()?,
                post_feedforward_layernorm: config
                    .post_norms
                    .then(|| next("post_feedforward_layernorm.weight"))
                    .transpose()?,
                gate_proj: next("gate_proj.weight")?,
                up_proj: next("up_proj.weight")?,
                down_proj: next("down_proj.weight")?,
            });
        }
        let norm = next("norm.weight")?;
        let lm_head = (!config.tie_word_embeddings).then(|| next("lm_head.weight")).transpose()?;
        Ok(Self { embed_tokens, layers, norm, lm_head })
    }

    /// All parameters in the order of [`Config::parameters`].
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.embed_tokens)
            .chain(self.layers.iter().flat_map(|layer| layer_fields!(layer, as_ref)))
            .chain(std::iter::once(&self.norm))
            .chain(self.lm_head.as_ref())
    }

    /// All parameters in the order of [`Config::parameters`], writable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        std::iter::once(&mut self.embed_tokens)
            .chain(self.layers.iter_mut().flat_map(|layer| layer_fields!(layer, as_mut, mut)))
            .chain(std::iter::once(&mut self.norm))
            .chain(self.lm_head.as_mut())
    }

    /// The unembedding: `lm_head`, or the embedding where they are tied.
    pub fn unembedding(&self) -> &T {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// The unembedding, writable: where a tied model's gradient of the logits goes.
    pub fn unembedding_mut(&mut self) -> &mut T {
        self.lm_head.as_mut().unwrap_or(&mut self.embed_tokens)
    }
}

impl<D: Backend> Parameters<Tensor<D>> {
    /// f32 zeros in the shape of `config`'s parameters: gradients or moments.
    pub fn zeros(device: &D, config: &Config) -> Result<Self> {
        Self::build(config, |_, [rows, cols]| Tensor::zeros(device, DType::F32, rows, cols))
    }

    /// Sets every parameter to zero.
    pub fn zero(&mut self, device: &D) -> Result<()> {
        self.iter_mut().try_for_each(|tensor| tensor.zero(device))
    }
}

//! How much device memory training takes, before it is taken.

use super::trainer::Hyper;
use crate::device::DType;
use crate::model::Transformer;
use crate::ops::Ops;
use crate::{Error, Result};
use std::fmt;

/// Bytes that a training run holds on its device at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    pub weights: usize,
    pub gradients: usize,
    /// Moments, and f32 masters where there are any.
    pub optimizer: usize,
    /// What the forward pass keeps of one micro batch.
    pub activations: usize,
    /// What the widest moment of the backward pass holds besides.
    pub workspace: usize,
}

impl MemoryPlan {
    /// For micro batches of at most `tokens` rows with `labels` labels; matrices are trained in `dtype`, or in their own.
    pub fn new<D: Ops>(
        model: &Transformer<D>,
        hyper: &Hyper,
        dtype: Option<DType>,
        tokens: usize,
        labels: usize,
    ) -> Self {
        let (config, float) = (&model.config, DType::F32.size());
        let trained = |own: DType| match dtype.unwrap_or(own) {
            DType::BF16 => DType::BF16,
            _ => DType::F32,
        };
        let (mut weights, mut gradients, mut optimizer) = (0, 0, 0);
        for parameter in model.parameters.iter() {
            let held = if parameter.rows() > 1 { trained(parameter.dtype()) } else { DType::F32 };
            let (moment, master) = match held {
                DType::F32 => (float, 0),
                held if hyper.bf16_optimizer => (held.size(), 0),
                _ => (float, float),
            };
            weights += parameter.len() * held.size();
            gradients += parameter.len() * float;
            optimizer += parameter.len() * (2 * moment + master);
        }

        // Columns a token, as transformer.rs holds them: the residual stream in f32, branches in their own dtype.
        let layer = &model.parameters.layers[0];
        let branch = model.device.branch_dtype(trained(layer.q_proj.weight.dtype()), config.head_dim).size();
        let (hidden, intermediate) = (config.hidden_size * float, layer.gate_proj.rows() * branch);
        let queries = config.num_attention_heads * config.head_dim * branch;
        let keys = config.num_key_value_heads * config.head_dim * branch;
        let unnormed = if layer.q_norm.is_some() { queries + keys } else { 0 };
        let outputs = if config.post_norms { 2 * hidden } else { 0 };
        // q and attended, k and v, log-sum-exp, the stream in the middle, gate and up.
        let kept = 2 * queries
            + 2 * keys
            + config.num_attention_heads * float
            + hidden
            + 2 * intermediate
            + unnormed
            + outputs;
        let angles = config.head_dim * float;
        let layers = config.num_hidden_layers;
        let activations = tokens * (layers * hidden + angles + if hyper.recompute { kept } else { layers * kept });

        // The MLP: gradients of what was kept, the product it was made of, and the stream's two gradients. The loss: three
        // copies of the labels' rows, the hidden states, and tiles of logits.
        let rounded = if branch == float { 0 } else { config.hidden_size * branch };
        let mlp = tokens * (4 * intermediate + 2 * hidden + config.hidden_size * branch + rounded);
        let unembedding = trained(model.parameters.unembedding().dtype());
        let tiles = model.device.tile_bytes(labels, config.vocab_size, unembedding);
        let logits = model.device.kept_logits(labels, config.vocab_size) * float;
        let loss = labels * 3 * hidden + tokens * hidden + tiles + logits;
        Self { weights, gradients, optimizer, activations, workspace: mlp.max(loss) }
    }

    /// Bytes in all.
    pub fn total(&self) -> usize {
        self.weights + self.gradients + self.optimizer + self.activations + self.workspace
    }

    /// # Errors
    /// Says what is needed and what could be done, if `available` bytes do not hold the plan.
    pub fn check(&self, available: usize) -> Result<()> {
        if self.total() <= available {
            return Ok(());
        }
        Err(Error::Device(format!(
            "training does not fit: it needs {self}, and {} are free; try --recompute, --optimizer-dtype bf16 or a smaller --micro-batch-size",
            size(available)
        )))
    }
}

/// Bytes in words.
fn size(bytes: usize) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1024.0 { format!("{:.1} GiB", mib / 1024.0) } else { format!("{mib:.1} MiB") }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [weights, gradients, optimizer, activations, workspace] =
            [self.weights, self.gradients, self.optimizer, self.activations, self.workspace].map(size);
        write!(
            f,
            "{} (weights {weights}, gradients {gradients}, optimizer {optimizer}, activations {activations}, workspace {workspace})",
            size(self.total())
        )
    }
}

//! Floating-point operations of the matrix products, for the shares of peak that runs and benchmarks report.

use super::Config;

/// Of all layers' matrices, a token, forward. Attention's own products are not counted: they depend on the context.
pub fn layers(config: &Config) -> f64 {
    let matrices = config.parameters().into_iter().filter(|(name, shape)| name.contains(".layers.") && shape[0] > 1);
    2.0 * matrices.map(|(_, [rows, cols])| (rows * cols) as f64).sum::<f64>()
}

/// Of the unembedding, a row of logits, forward.
pub fn vocabulary(config: &Config) -> f64 {
    2.0 * (config.vocab_size * config.hidden_size) as f64
}

/// Of a forward pass of `tokens`, `rows` of which get logits.
pub fn forward(config: &Config, tokens: usize, rows: usize) -> f64 {
    layers(config) * tokens as f64 + vocabulary(config) * rows as f64
}

/// Of attention, forward, a pair of a query and a visible key.
pub fn attention(config: &Config) -> f64 {
    4.0 * (config.num_hidden_layers * config.num_attention_heads * config.head_dim) as f64
}

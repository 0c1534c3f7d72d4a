//! RMSNorm, RoPE, GLU, embedding, rows, elementwise, linear layers and AdamW: the laws of `safedepth::selftest` on
//! every device.

mod support;

on_every_device!(
    "small": rms_norm, add_rms_norm, rope, rope_to_cache, glu, embedding_and_rows, linear_layers, adamw, elementwise, thread_counts
);

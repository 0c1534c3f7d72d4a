//! RMSNorm, RoPE, GLU and linear layers in bf16: the laws of `safedepth::selftest` on GPUs.

mod support;

on_cuda!("small_bf16": rms_norm, add_rms_norm, rms_norm_backward, rope, rope_to_cache, glu, linear, linear_backward);

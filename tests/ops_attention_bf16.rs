//! Attention in bf16: the laws of `safedepth::selftest` on GPUs.

mod support;

on_cuda!("attention_bf16": equals_f64, sequences_stand_alone, paged_equals_ragged, long_sequences, rows_beside_do_not_matter, a_key_alone_is_the_answer);

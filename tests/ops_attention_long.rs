//! Attention over long sequences: the laws of `safedepth::selftest` on every device.

mod support;

on_every_device!("attention_long": equals_f64, paged_equals_ragged, rows_beside_do_not_matter);

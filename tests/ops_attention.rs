//! Attention: the laws of `safedepth::selftest` on every device.

mod support;

on_every_device!(
    "attention": equals_f64, outputs_are_means_of_values, rows_stand_alone, paged_equals_ragged, shared_pages_are_read_alike, pages_are_copied_whole, threads_do_not_matter, equal_keys_give_plain_means, a_key_alone_is_the_answer; gradients_are_derivatives
);

//! Cross-entropy over a linear unembedding: the laws of `safedepth::selftest` on every device.

mod support;

on_every_device!(
    "linear_ce": forward_equals_f64, backward_equals_f64, a_constant_on_all_logits_changes_nothing, tokens_stand_alone, ignored_labels_give_zero, ranks_are_exact, one_hot, logits_far_below_zero, threads_do_not_matter; gradients_are_derivatives
);

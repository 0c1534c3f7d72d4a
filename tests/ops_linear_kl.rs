//! KL divergence of two models: the laws of `safedepth::selftest` on every device.

mod support;

on_every_device!(
    "linear_kl": equals_f64, equal_sides_have_no_divergence, a_constant_on_all_logits_changes_nothing, argmax_is_the_first_of_equals, one_hot, logits_far_below_zero, tokens_stand_alone, backward_equals_f64, nothing_to_learn_gives_zero, gradients_of_logits_sum_to_zero, gradients_stand_alone; reference_gradients_equal_central_differences
);

//! Cross-entropy over a linear unembedding: the laws of `safedepth::selftest` on every device.

mod support;

on_every_device!(
    "linear_ce": forward_equals_f64, forward_of_many_stages, backward_equals_f64, a_constant_on_all_logits_changes_nothing, tokens_stand_alone, ignored_labels_give_zero, ranks_are_exact, one_hot, logits_far_below_zero, threads_do_not_matter; gradients_are_derivatives
);

/// On compute capability 9.0 the forward pass is `linear_ce_sm90.cu`'s.
#[test]
fn cuda_on_the_emulator_as_hopper() {
    support::device::on_the_emulator_as("cuda", "90");
}

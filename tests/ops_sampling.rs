//! Sampling: the laws of `safedepth::selftest` on every device.

mod support;

on_every_device!(
    "sampling": draws_follow_the_distribution, rows_stand_alone, frequencies_are_probabilities, greedy_takes_the_first_of_equals; filters_leave_the_reference_set
);

//! AdamW of bf16 parameters and moments: the laws of `safedepth::selftest` on every device.

mod support;

on_every_device!(
    "adamw_bf16": either_neighbour, right_on_average, the_draws_are_philox, what_is_not_finite_stays_so
);

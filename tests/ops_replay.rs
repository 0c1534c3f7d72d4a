//! Replaying steps: the laws of `safedepth::selftest` on every device.

mod support;

on_every_device!("replay": a_replay_is_the_step, memory_that_goes_is_not_used, steps_that_cannot_be_recorded_run);

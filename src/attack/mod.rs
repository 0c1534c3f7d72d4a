//! Attacks, one a file: each turns cases into requests to generate and reads the verdicts.

pub mod prefill;

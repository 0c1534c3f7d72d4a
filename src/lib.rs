//! `safedepth` measures how many tokens deep a language model's safety goes, attacks it, and mends it.
//!
//! Rooms, in the order data flows (a room knows only those above it): [`device`], [`ops`], [`model`], [`generate`],
//! [`train`], [`selftest`], [`data`], [`judge`], [`attack`], [`experiment`], [`run`], [`report`], [`cli`].

pub mod attack;
pub mod cli;
pub mod data;
pub mod device;
pub mod error;
pub mod experiment;
pub mod generate;
pub mod judge;
pub mod model;
pub mod ops;
pub mod report;
pub mod rng;
pub mod run;
pub mod selftest;
pub mod train;

pub use error::{Error, Result};

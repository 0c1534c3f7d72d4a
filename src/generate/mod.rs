//! Generation: prompts as branches of one tree over a paged cache, rows refilled as they finish.

pub mod branches;
mod engine;
mod pages;
pub mod rewind;
mod tree;

pub use engine::{Completion, Engine, Finish, Request, Stats, Step};

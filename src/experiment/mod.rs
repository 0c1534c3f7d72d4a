//! The experiments of the paper and beyond it, one a file, named for what each shows, and the [`plan`] that runs them
//! together.

pub mod alignment_from_scratch;
pub mod augmentation;
mod beyond;
pub mod depth_criterion;
pub mod drilldown;
pub mod finetuning_dynamics;
pub mod finetuning_grid;
pub mod logit_gap;
pub mod materials;
pub mod organism;
pub mod over_refusal;
pub mod plan;
pub mod prefilling;
pub mod refusal_prefixes;
pub mod stats;
pub mod suffix_attack;
pub mod token_kl;
pub mod user_materials;

pub use materials::Materials;
pub use plan::{Plan, Settings};

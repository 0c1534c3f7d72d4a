//! Model folders in Hugging Face's layout, and the transformer itself.

pub mod config;
pub mod json;
pub mod weights;

pub use config::{Architecture, Config, GenerationConfig};
pub use weights::Weights;

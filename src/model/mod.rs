//! Model folders in Hugging Face's layout, and the transformer itself.

pub mod config;
pub mod json;

pub use config::{Architecture, Config, GenerationConfig};

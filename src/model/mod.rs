//! Model folders in Hugging Face's layout, and the transformer itself.

pub mod config;

pub use config::Config;

//! Model folders in Hugging Face's layout, and the transformer itself.

pub mod config;
pub mod parameters;
pub mod transformer;

pub use config::Config;
pub use parameters::Parameters;
pub use transformer::Transformer;

//! Model folders in Hugging Face's layout, and the transformer itself.

mod batch;
pub mod checkpoint;
pub mod config;
pub mod flops;
pub mod init;
pub mod json;
pub mod load;
pub mod message;
pub mod parameters;
pub mod passes;
pub mod prompt;
pub mod synth;
pub mod template;
pub mod tokenizer;
pub mod transformer;
pub mod weights;

pub use config::{Architecture, Config, GenerationConfig};
pub use message::Message;
pub use parameters::Parameters;
pub use prompt::{Example, Prompt, Prompter};
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
pub use transformer::Transformer;
pub use weights::Weights;

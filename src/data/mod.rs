//! What models are trained on and asked: the fictional world, and the file formats of the field.

pub mod pairs;
pub mod preferences;
pub mod world;

//! What a GPU would hide: who touched which bytes since the last synchronisation, and the reports of what went wrong.

pub mod global;
pub mod report;
pub mod shared;

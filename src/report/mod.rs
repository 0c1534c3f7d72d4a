//! Reading results: summaries with intervals, beside the paper's numbers.

pub mod paper;
pub mod summary;

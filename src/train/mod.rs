//! Training: examples and batches, the objectives of the paper, the schedule, the optimizer loop and its saved state.

pub mod batch;
pub mod memory;
pub mod objective;
pub mod schedule;
pub mod scoring;
pub mod stage;
pub mod state;
pub mod trainer;

pub use batch::{Example, TrainBatch};
pub use memory::MemoryPlan;
pub use objective::{BetaSchedule, Objective};
pub use schedule::Schedule;
pub use stage::{Part, Stage};
pub use trainer::{Hyper, StepReport, Trainer};

//! Stands for libcuda: runs the PTX of an unchanged CUDA program on the CPU, and reports what a GPU would hide: races,
//! reads of memory nobody wrote, accesses out of bounds, barriers not reached by all. See the README.

pub mod blaslt;
pub mod device;
pub mod driver;
pub mod isa;
pub mod memory;
pub mod module;
pub mod ptx;
pub mod race;
pub mod run;
pub mod vm;

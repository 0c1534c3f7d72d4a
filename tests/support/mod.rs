//! What the tests share: devices, random values, error measures.
// Each test binary uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod device;

pub use safedepth::selftest::{Random, bits, relative_error};

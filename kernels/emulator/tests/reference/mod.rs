//! What instructions must give, from PTX's manual in plain f64 and integer arithmetic: shares no code with the emulator.

pub mod exchange;
pub mod float;
pub mod integer;

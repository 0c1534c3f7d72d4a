//! Working memory of a thread, kept between calls so that a steady state allocates nothing.

use bytemuck::{Pod, Zeroable};
use std::cell::RefCell;

/// A cache line, the unit of allocation: packed panels start on one.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    /// Free buffers, a stack: nested calls take different ones, and take the same ones again the next time.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `len` floats of unspecified content, aligned to a cache line.
pub fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut lines = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let count = len.div_ceil(16);
    if lines.len() < count {
        lines.resize(count, Line::zeroed());
    }
    let result = work(&mut bytemuck::cast_slice_mut(&mut lines)[..len]);
    FREE.with_borrow_mut(|free| free.push(lines));
    result
}

//! Where a search stands: written after each step, so that a killed one goes on.

use super::Found;
use crate::run::{Cost, write_atomic};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What one step chose; the first point of a curve is the suffix that the search started from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Mean loss of the active behaviours' targets under the step's best candidate, nats.
    pub loss: f64,
    /// Active behaviours whose target greedy decoding says under it, and how many are active.
    pub exact: usize,
    pub active: usize,
    pub suffix: Vec<u32>,
}

impl Point {
    /// Whether this suffix is the better one to keep: more behaviours at once, more targets reached, lower loss.
    pub fn better_than(&self, other: &Self) -> bool {
        let rank = |point: &Self| (point.active, point.exact);
        rank(self) > rank(other) || (rank(self) == rank(other) && self.loss < other.loss)
    }
}

/// A suffix of the buffer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub loss: f64,
    pub suffix: Vec<u32>,
}

/// A search between two steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The suffix that the next step swaps tokens of.
    pub suffix: Vec<u32>,
    /// Behaviours attacked so far, the first of the list.
    pub active: usize,
    /// The best suffixes, best first; empty without a buffer.
    pub buffer: Vec<Entry>,
    /// Decaying mean of the gradients' rows; empty without momentum.
    pub momentum: Vec<f32>,
    /// One point a step, after that of the start.
    pub curve: Vec<Point>,
    pub best: Point,
    /// Whether the targets are reached and the search ends early.
    pub finished: bool,
    /// Of all steps so far, whatever process did them.
    pub cost: Cost,
    /// What the search found, once it is over.
    pub found: Option<Found>,
}

impl State {
    /// Steps done.
    pub fn steps(&self) -> usize {
        self.curve.len() - 1
    }

    /// The state in a file; none if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let state: Result<Self, _> = serde_json::from_slice(&text);
        let damaged = |error| {
            Error::input(
                path.display(),
                format!("is no state of a GCG search ({error}): remove it, and the search begins anew"),
            )
        };
        state.map(Some).map_err(damaged)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomic(path, &serde_json::to_vec(self).expect("a state is plain data"))
    }
}

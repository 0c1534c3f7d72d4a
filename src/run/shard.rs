//! A slice of a run: `--shard i/n`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Slice `index` of `count`, from 1: in a folder of its own, joined with the others by `safedepth merge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// Slice `index` of `count`, both from 1; the error is a clause about the number.
    pub fn new(index: u32, count: u32) -> Result<Self, String> {
        if count == 0 {
            return Err("needs at least one shard: the first of three is 1/3".to_owned());
        }
        if !(1..=count).contains(&index) {
            return Err(format!("shards count from 1/{count} to {count}/{count}"));
        }
        Ok(Self { index, count })
    }

    pub fn index(self) -> u32 {
        self.index
    }

    pub fn count(self) -> u32 {
        self.count
    }

    /// Whether this slice works on `cell`. The cell's name decides, not its place in the order: an experiment that asks
    /// for a cell only where an earlier one found something would shift the places of all cells after it, and findings
    /// of other slices' cells are absent here.
    pub fn owns(self, cell: &str) -> bool {
        crate::rng::stream([cell]) % u64::from(self.count) == u64::from(self.index - 1)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        let (index, count) = numbers.ok_or("is not INDEX/COUNT: the first of three shards is 1/3")?;
        Self::new(index, count)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl TryFrom<String> for Shard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

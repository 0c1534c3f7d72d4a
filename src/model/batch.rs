//! What one forward pass without a cache is given.

use crate::Result;
use crate::device::Backend;
use crate::ops::attention::Ragged;

/// Sequences laid end to end, each from position 0.
pub struct Batch<D: Backend> {
    pub ids: D::Indices,
    pub positions: D::Indices,
    pub ragged: Ragged<D>,
    /// Rows: the sum of all lengths.
    pub tokens: usize,
    host: HostBatch,
}

/// Where a batch's index buffers are assembled; kept, as they are, so that refilling a batch allocates nothing.
#[derive(Default)]
struct HostBatch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    offsets: Vec<u32>,
}

impl<D: Backend> Batch<D> {
    pub fn new(device: &D, sequences: &[&[u32]]) -> Result<Self> {
        let empty = || device.indices(&[]);
        let ragged = Ragged { offsets: empty()?, count: 0, max_length: 0 };
        let mut batch = Self { ids: empty()?, positions: empty()?, ragged, tokens: 0, host: HostBatch::default() };
        batch.refill(device, sequences.iter().copied())?;
        Ok(batch)
    }

    /// Replaces the sequences; allocates nothing once the batch has been as large as this.
    pub fn refill<'a>(&mut self, device: &D, sequences: impl Iterator<Item = &'a [u32]>) -> Result<()> {
        let HostBatch { ids, positions, offsets } = &mut self.host;
        ids.clear();
        positions.clear();
        offsets.clear();
        offsets.push(0);
        self.ragged.max_length = 0;
        for sequence in sequences {
            ids.extend_from_slice(sequence);
            positions.extend(0..sequence.len() as u32);
            offsets.push(ids.len() as u32);
            self.ragged.max_length = self.ragged.max_length.max(sequence.len());
        }
        self.ragged.count = offsets.len() - 1;
        self.tokens = ids.len();
        device.write_indices(&mut self.ids, ids)?;
        device.write_indices(&mut self.positions, positions)?;
        device.write_indices(&mut self.ragged.offsets, offsets)
    }
}

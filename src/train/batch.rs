//! Training examples and the batches they are packed into.

use crate::Result;
use crate::device::Backend;
use crate::model::transformer::Batch;
use crate::rng::Philox;

/// One sequence to learn from. Tokens before `first_label` are context only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Prompt and response; the response's last token is the end of its turn.
    pub tokens: Vec<u32>,
    /// Index into `tokens` of the first one that is learned; at least 1.
    pub first_label: usize,
    /// Response position (from 1) of the token at `first_label`: 1, unless the response's start is context too.
    pub first_position: usize,
}

impl Example {
    /// `prompt` as context, `response` learned.
    pub fn new(prompt: &[u32], response: &[u32]) -> Self {
        let tokens = [prompt, response].concat();
        Self { tokens, first_label: prompt.len().max(1), first_position: if prompt.is_empty() { 2 } else { 1 } }
    }

    /// Cut to at most `max_length` tokens, at the end.
    pub fn truncate(mut self, max_length: usize) -> Self {
        self.tokens.truncate(max_length);
        self
    }

    /// What goes through the model: the last token predicts nothing, it is a label only.
    pub fn inputs(&self) -> &[u32] {
        &self.tokens[..self.tokens.len().saturating_sub(1)]
    }

    /// Number of learned tokens.
    pub fn labels(&self) -> usize {
        self.tokens.len().saturating_sub(self.first_label)
    }
}

/// Examples laid end to end on a device, with their labels.
pub struct TrainBatch<D: Backend> {
    pub batch: Batch<D>,
    /// The rows of hidden states that predict a label.
    pub rows: D::Indices,
    /// The label of each of those rows.
    pub labels: D::Indices,
    /// Response position (from 1) of each label.
    pub positions: Vec<usize>,
    /// Labels of each example, in order: `positions` is cut into runs of these lengths.
    pub counts: Vec<usize>,
    /// `rows` and `labels` as they are assembled; kept so that refilling allocates nothing.
    host: [Vec<u32>; 2],
}

impl<D: Backend> TrainBatch<D> {
    pub fn new(device: &D, examples: &[&Example]) -> Result<Self> {
        let mut batch = Self {
            batch: Batch::new(device, &[])?,
            rows: device.indices(&[])?,
            labels: device.indices(&[])?,
            positions: Vec::new(),
            counts: Vec::new(),
            host: Default::default(),
        };
        batch.refill(device, examples)?;
        Ok(batch)
    }

    /// Replaces the examples; allocates nothing once the batch has been as large as this.
    pub fn refill(&mut self, device: &D, examples: &[&Example]) -> Result<()> {
        let Self { positions, counts, host: [rows, labels], .. } = self;
        rows.clear();
        labels.clear();
        positions.clear();
        counts.clear();
        let mut offset = 0;
        for example in examples {
            for index in example.first_label..example.tokens.len() {
                rows.push((offset + index - 1) as u32);
                labels.push(example.tokens[index]);
                positions.push(example.first_position + index - example.first_label);
            }
            counts.push(example.labels());
            offset += example.inputs().len();
        }
        device.write_indices(&mut self.rows, rows)?;
        device.write_indices(&mut self.labels, labels)?;
        self.batch.refill(device, examples.iter().map(|example| example.inputs()))
    }

    /// Number of labels.
    pub fn labels_len(&self) -> usize {
        self.positions.len()
    }
}

/// The order in which `count` examples are visited in an epoch: a Fisher-Yates shuffle of (seed, epoch).
pub fn epoch_order(count: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut rng = Philox::new(seed, crate::rng::stream(["epoch"]).wrapping_add(epoch));
    for i in (1..count).rev() {
        order.swap(i, rng.below(i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_each_once_and_seeds_differ() {
        let mut order = epoch_order(100, 1, 0);
        assert_ne!(order, epoch_order(100, 1, 1));
        assert_ne!(order, epoch_order(100, 2, 0));
        assert_eq!(order, epoch_order(100, 1, 0));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..100));
    }

    #[test]
    fn labels_are_the_response_and_its_end() {
        let example = Example::new(&[1, 2, 3], &[7, 8, 9]);
        assert_eq!((example.first_label, example.labels()), (3, 3));
        let device = crate::device::Cpu::new();
        let other = Example::new(&[4], &[5, 6]);
        let batch = TrainBatch::new(&device, &[&example, &other]).unwrap();
        assert_eq!(batch.batch.ids, [1, 2, 3, 7, 8, 4, 5]);
        assert_eq!(batch.rows, [2, 3, 4, 5, 6]);
        assert_eq!(batch.labels, [7, 8, 9, 5, 6]);
        assert_eq!(batch.positions, [1, 2, 3, 1, 2]);
        assert_eq!(example.truncate(2).labels(), 0);
    }
}

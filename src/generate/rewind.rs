//! Sequences that grow by a few tokens and are cut back again: what stays is not computed anew.

use super::pages::{PagePool, PageTable, pass};
use crate::Result;
use crate::model::Transformer;
use crate::model::transformer::KvCache;
use crate::ops::Ops;
use crate::ops::attention::PAGE;

/// Some sequences in a cache of their own.
pub struct Rewind<'m, D: Ops> {
    model: &'m Transformer<D>,
    pool: PagePool<D>,
    tables: Vec<PageTable>,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Rows that logits were made of.
    pub rows: usize,
}

/// What a sequence reads next.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    pub sequence: usize,
    /// Tokens of the sequence that stay; what followed them is forgotten.
    pub keep: usize,
    /// Tokens that follow; not empty.
    pub tokens: &'a [u32],
}

impl<'m, D: Ops> Rewind<'m, D> {
    /// `count` empty sequences of about `length` tokens; longer ones take more memory when they come.
    pub fn new(model: &'m Transformer<D>, count: usize, length: usize) -> Result<Self> {
        let pool = PagePool::new(model.device.clone(), KvCache::new(model, count * length.div_ceil(PAGE))?);
        let tables = (0..count).map(|_| PageTable::default()).collect();
        Ok(Self { model, pool, tables, tokens: 0, rows: 0 })
    }

    /// Logits after the last token of each reading, one pass over all. A sequence is read once at most.
    pub fn read(&mut self, readings: &[Reading<'_>]) -> Result<Vec<Vec<f32>>> {
        let device = &self.model.device;
        let (mut tokens, mut rows) = (0, Vec::with_capacity(readings.len()));
        for reading in readings {
            let table = &mut self.tables[reading.sequence];
            assert!(reading.keep <= table.length, "a sequence keeps what it has");
            assert!(!reading.tokens.is_empty(), "a sequence reads something");
            table.length = reading.keep;
            self.pool.extend(table, reading.tokens.len())?;
            tokens += reading.tokens.len();
            rows.push(tokens as u32 - 1);
        }
        let (tables, count) = (&self.tables, rows.len());
        let read = readings.iter().map(|reading| (&tables[reading.sequence], reading.tokens));
        let hidden = pass(self.model, &mut self.pool.cache, read)?;
        let normed = self.model.final_norm(&hidden, &device.indices(&rows)?, count)?;
        let logits = self.model.logits(&normed)?.to_vec(device)?;
        for &Reading { sequence, tokens, .. } in readings {
            self.tables[sequence].length += tokens.len();
        }
        self.tokens += tokens;
        self.rows += count;
        Ok(logits.chunks_exact(self.model.config.vocab_size).map(<[f32]>::to_vec).collect())
    }
}

//! Sequences that grow by a few tokens and are cut back again: what stays is not computed anew.

use super::pages::{PagePool, PageTable};
use crate::Result;
use crate::model::Transformer;
use crate::model::transformer::KvCache;
use crate::ops::Ops;
use crate::ops::attention::{PAGE, Paged};

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
        let (mut ids, mut positions, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
        let (mut starts, mut rows) = (Vec::new(), Vec::new());
        for &Reading { sequence, keep, tokens } in readings {
            let table = &mut self.tables[sequence];
            assert!(keep <= table.length && !tokens.is_empty(), "a sequence keeps what it has and reads something");
            table.length = keep;
            self.pool.extend(table, tokens.len())?;
            ids.extend_from_slice(tokens);
            positions.extend((keep..keep + tokens.len()).map(|position| position as u32));
            offsets.push(ids.len() as u32);
            starts.push(keep as u32);
            rows.push(ids.len() as u32 - 1);
        }
        let tables = readings.iter().map(|reading| &self.tables[reading.sequence]);
        let max_pages = tables.clone().map(|table| table.pages.len()).max().unwrap_or(0);
        let mut pages = Vec::new();
        for (i, table) in tables.enumerate() {
            pages.extend_from_slice(&table.pages);
            pages.resize((i + 1) * max_pages, 0);
        }
        let batch = Paged {
            offsets: device.indices(&offsets)?,
            starts: device.indices(&starts)?,
            pages: device.indices(&pages)?,
            max_pages,
            count: readings.len(),
        };
        let (tokens, count) = (ids.len(), rows.len());
        let (ids, positions) = (device.indices(&ids)?, device.indices(&positions)?);
        let hidden = self.model.forward_cached(&ids, &positions, tokens, &batch, &mut self.pool.cache)?;
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

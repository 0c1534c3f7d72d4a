//! Pages of the key/value cache: who holds which, and copying where a branch splits one.

use crate::Result;
use crate::device::Tensor;
use crate::model::Transformer;
use crate::model::transformer::KvCache;
use crate::ops::Ops;
use crate::ops::attention::{PAGE, Paged};

/// The pages of one sequence, in order, and how many positions of them are filled.
#[derive(Default)]
pub(super) struct PageTable {
    pub pages: Vec<u32>,
    pub length: usize,
}

/// The cache and its free pages. A page is shared by reference count and never written while shared.
pub(super) struct PagePool<D: Ops> {
    pub cache: KvCache<D>,
    device: D,
    references: Vec<u32>,
    free: Vec<u32>,
}

impl<D: Ops> PagePool<D> {
    pub fn new(device: D, cache: KvCache<D>) -> Self {
        let count = cache.num_pages();
        Self { cache, device, references: vec![0; count], free: (0..count as u32).rev().collect() }
    }

    fn take(&mut self) -> Result<u32> {
        if self.free.is_empty() {
            let count = self.references.len();
            let grown = (2 * count).max(16);
            self.cache.grow(&self.device, grown)?;
            self.references.resize(grown, 0);
            self.free.extend((count as u32..grown as u32).rev());
        }
        let page = self.free.pop().expect("the pool has just grown");
        self.references[page as usize] = 1;
        Ok(page)
    }

    /// A table with the same positions: whole pages are shared, the last one is copied if it is not full.
    pub fn fork(&mut self, table: &PageTable) -> Result<PageTable> {
        self.fork_at(table, table.length)
    }

    /// A table with the first `length` positions of another.
    pub fn fork_at(&mut self, table: &PageTable, length: usize) -> Result<PageTable> {
        let whole = length / PAGE;
        let mut pages = table.pages[..whole].to_vec();
        for &page in &pages {
            self.references[page as usize] += 1;
        }
        if !length.is_multiple_of(PAGE) {
            let copy = self.take()?;
            self.cache.copy_page(&self.device, table.pages[whole] as usize, copy as usize)?;
            pages.push(copy);
        }
        Ok(PageTable { pages, length })
    }

    /// Makes room for `count` more positions.
    pub fn extend(&mut self, table: &mut PageTable, count: usize) -> Result<()> {
        while table.pages.len() * PAGE < table.length + count {
            table.pages.push(self.take()?);
        }
        Ok(())
    }

    pub fn release(&mut self, table: PageTable) {
        for page in table.pages {
            let references = &mut self.references[page as usize];
            *references -= 1;
            if *references == 0 {
                self.free.push(page);
            }
        }
    }
}

/// One pass of some sequences that lie in a cache: stores the keys and values of what each reads after the positions that
/// its table has, which has room for them, and returns the hidden states of all rows, before the last norm.
pub(super) fn pass<'a, D: Ops>(
    model: &Transformer<D>,
    cache: &mut KvCache<D>,
    read: impl ExactSizeIterator<Item = (&'a PageTable, &'a [u32])> + Clone,
) -> Result<Tensor<D>> {
    let device = &model.device;
    let (count, max_pages) = (read.len(), read.clone().map(|(table, _)| table.pages.len()).max().unwrap_or(0));
    let (mut ids, mut positions, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
    let (mut starts, mut pages) = (Vec::new(), Vec::new());
    for (i, (table, tokens)) in read.enumerate() {
        ids.extend_from_slice(tokens);
        positions.extend((table.length..table.length + tokens.len()).map(|position| position as u32));
        offsets.push(ids.len() as u32);
        starts.push(table.length as u32);
        pages.extend_from_slice(&table.pages);
        pages.resize((i + 1) * max_pages, 0);
    }
    let batch = Paged {
        offsets: device.indices(&offsets)?,
        starts: device.indices(&starts)?,
        pages: device.indices(&pages)?,
        max_pages,
        count,
    };
    model.forward_cached(&device.indices(&ids)?, &device.indices(&positions)?, ids.len(), &batch, cache)
}

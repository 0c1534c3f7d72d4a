//! One allocation: its bytes, which of them were ever written, and who touched them in the launch under way.
//!
//! Blocks run on several threads, so the bytes are atomics; relaxed loads and stores cost no more than plain ones.

use crate::race::global::Words;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Words a page of the race shadow covers: 16 KiB of the buffer.
const PAGE: usize = 4096;

pub struct Buffer {
    bytes: u64,
    words: Box<[AtomicU32]>,
    /// A bit a byte.
    written: Box<[AtomicU32]>,
    /// Set when a copy or a memset covered everything, so that reads need not look at `written`.
    complete: AtomicBool,
    blocks: Shadow,
    warps: Shadow,
    /// Cells of single bytes, of pages with words that several blocks or warps share.
    bytes_apart: Shadow,
}

/// A cell a word in pages that are made when first asked for.
type Shadow = Box<[OnceLock<Box<[AtomicU64]>>]>;

fn shadow(words: usize) -> Shadow {
    (0..words.div_ceil(PAGE)).map(|_| OnceLock::new()).collect()
}

fn page() -> Box<[AtomicU64]> {
    (0..PAGE).map(|_| AtomicU64::new(0)).collect()
}

fn zeroed(words: usize) -> Box<[AtomicU32]> {
    (0..words).map(|_| AtomicU32::new(0)).collect()
}

impl Buffer {
    pub fn new(bytes: u64) -> Self {
        let words = bytes.div_ceil(4) as usize;
        // Fresh memory holds a pattern that is a NaN in f32, f16 and bf16 and a large integer.
        let poison = (0..words).map(|_| AtomicU32::new(0x7fff_7fff)).collect();
        let [blocks, warps, bytes_apart] = [(); 3].map(|()| shadow(words));
        Self {
            bytes,
            words: poison,
            written: zeroed(words.div_ceil(8)),
            complete: AtomicBool::new(false),
            blocks,
            warps,
            bytes_apart,
        }
    }

    pub fn len(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    #[inline]
    pub fn word(&self, index: usize) -> u32 {
        self.words[index].load(Relaxed)
    }

    #[inline]
    pub fn set_word(&self, index: usize, value: u32) {
        self.words[index].store(value, Relaxed);
    }

    pub fn atomic(&self, index: usize) -> &AtomicU32 {
        &self.words[index]
    }

    /// Replaces the bytes of a word that `mask` holds.
    pub fn merge_word(&self, index: usize, value: u32, mask: u32) {
        // Neighbouring bytes may be another thread's: only a read-modify-write keeps both.
        let merge = |old: u32| Some(old & !mask | value & mask);
        let _ = self.words[index].fetch_update(Relaxed, Relaxed, merge);
    }

    /// Whether all of these bytes were written; they must lie in one 32-byte line.
    #[inline]
    pub fn is_written(&self, offset: u64, bytes: u32) -> bool {
        if self.complete.load(Relaxed) {
            return true;
        }
        let mask = (((1u64 << bytes) - 1) << (offset % 32)) as u32;
        self.written[offset as usize / 32].load(Relaxed) & mask == mask
    }

    #[inline]
    pub fn mark_written(&self, offset: u64, bytes: u32) {
        if self.complete.load(Relaxed) {
            return;
        }
        let mask = (((1u64 << bytes) - 1) << (offset % 32)) as u32;
        let cell = &self.written[offset as usize / 32];
        if cell.load(Relaxed) & mask != mask {
            cell.fetch_or(mask, Relaxed);
        }
    }

    fn mark_range(&self, offset: u64, bytes: u64) {
        if offset == 0 && bytes == self.bytes {
            self.complete.store(true, Relaxed);
        }
        let mut at = offset;
        while at < offset + bytes {
            let step = (32 - at % 32).min(offset + bytes - at);
            self.mark_written(at, step as u32);
            at += step;
        }
    }

    /// Copies from the host; the range must lie inside.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut at = offset as usize;
        let mut rest = data;
        while !rest.is_empty() {
            if at.is_multiple_of(4) && rest.len() >= 4 {
                let (chunks, tail) = rest.as_chunks::<4>();
                chunks.iter().enumerate().for_each(|(i, chunk)| self.set_word(at / 4 + i, u32::from_le_bytes(*chunk)));
                at += chunks.len() * 4;
                rest = tail;
            } else {
                self.merge_word(at / 4, u32::from(rest[0]) << (at % 4 * 8), 0xff << (at % 4 * 8));
                at += 1;
                rest = &rest[1..];
            }
        }
        self.mark_range(offset, data.len() as u64);
    }

    /// Copies to the host; the range must lie inside.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let mut at = offset as usize;
        let mut rest = data;
        while !rest.is_empty() {
            if at.is_multiple_of(4) && rest.len() >= 4 {
                let whole = rest.len() / 4 * 4;
                let (head, tail) = rest.split_at_mut(whole);
                head.chunks_exact_mut(4)
                    .enumerate()
                    .for_each(|(i, to)| to.copy_from_slice(&self.word(at / 4 + i).to_le_bytes()));
                at += whole;
                rest = tail;
            } else {
                rest[0] = (self.word(at / 4) >> (at % 4 * 8)) as u8;
                at += 1;
                rest = &mut rest[1..];
            }
        }
    }

    /// The first byte of the range that nobody wrote.
    pub fn first_unwritten(&self, offset: u64, bytes: u64) -> Option<u64> {
        if self.complete.load(Relaxed) {
            return None;
        }
        (offset..offset + bytes).find(|&at| !self.is_written(at, 1))
    }

    /// The race shadow's cells of `words` words that lie in one page. Warps are told apart only in pages that a kernel
    /// has written: most memory is only read, and its shadow stays half as large.
    #[inline]
    pub fn shadow(&self, first: usize, words: usize, write: bool) -> Words<'_> {
        let (number, at) = (first / PAGE, first % PAGE);
        let blocks = &self.blocks[number].get_or_init(page)[at..at + words];
        let warps = if write { Some(self.warps[number].get_or_init(page)) } else { self.warps[number].get() };
        let warps = warps.map(|page| &page[at..at + words]);
        Words { blocks, warps, bytes: &self.bytes_apart[number], page: PAGE, first: at }
    }

    /// Forgets who touched what.
    pub fn clear_shadow(&self) {
        self.blocks
            .iter()
            .chain(&self.bytes_apart)
            .filter_map(OnceLock::get)
            .flat_map(|page| page.iter())
            .for_each(|cell| cell.store(0, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_alignment_come_back_and_are_known_as_written() {
        let buffer = Buffer::new(103);
        let data: Vec<u8> = (0..61).collect();
        buffer.write(3, &data);
        let mut back = vec![0; 61];
        buffer.read(3, &mut back);
        assert_eq!(back, data);
        assert_eq!(buffer.first_unwritten(3, 61), None);
        assert_eq!(buffer.first_unwritten(0, 10), Some(0));
        assert_eq!(buffer.first_unwritten(10, 93), Some(64));
        buffer.write(0, &[1; 103]);
        assert_eq!(buffer.first_unwritten(0, 103), None);
    }
}

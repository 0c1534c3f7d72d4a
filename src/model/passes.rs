//! Cutting many sequences into forward passes.

use std::ops::Range;

/// Cuts a list of sequence lengths into runs of at most `limit` tokens (or one sequence, if it alone is longer).
pub fn token_batches(lengths: impl IntoIterator<Item = usize>, limit: usize) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (i, length) in lengths.into_iter().enumerate() {
        match batches.last_mut() {
            Some(batch) if tokens + length <= limit => batch.end = i + 1,
            _ => {
                batches.push(i..i + 1);
                tokens = 0;
            }
        }
        tokens += length;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::token_batches;

    #[test]
    fn batches_cover_all_within_the_limit() {
        assert_eq!(token_batches([3, 3, 3, 10, 1, 1], 6), [0..2, 2..3, 3..4, 4..6]);
        assert!(token_batches([], 6).is_empty());
    }
}

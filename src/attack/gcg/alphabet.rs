//! Which tokens a suffix may be made of.

use crate::data::world::VOCABULARY;
use crate::model::Tokenizer;

/// Tokens a suffix may hold, in order of their ids: no special ones, none that the model lacks and, unless
/// `non_ascii`, only printable ASCII (Zou et al.), so that a suffix can be typed and printed.
pub fn of_tokenizer(tokenizer: &Tokenizer, vocab_size: usize, non_ascii: bool) -> Vec<u32> {
    let count = tokenizer.vocab_size().min(vocab_size) as u32;
    let allowed = |&id: &u32| {
        if tokenizer.is_special(id) {
            return false;
        }
        let text = tokenizer.decode(&[id], false).unwrap_or_default();
        let printable = |c: char| c == ' ' || c.is_ascii_graphic();
        !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) && (non_ascii || text.chars().all(printable))
    };
    (0..count).filter(allowed).collect()
}

/// Every word of the fictional world.
pub fn of_world() -> Vec<u32> {
    (0..VOCABULARY.len() as u32).filter(|&id| !VOCABULARY.decode(&[id]).is_empty()).collect()
}

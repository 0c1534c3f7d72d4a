//! Philox4x32-10, the counter-based generator of Salmon et al. ("Parallel random numbers: as easy as 1, 2, 3", SC
//! 2011).
//!
//! A draw is a pure function of (key, stream, counter), so it does not depend on how many draws others made before it:
//! batches, threads and resumed runs see the same numbers. The key is the run's seed; the stream says what the numbers
//! are for ([`stream`]).

/// Key increments of a round (Weyl sequence: golden ratio and sqrt(3) - 1).
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Multipliers of a round.
const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];

/// The block function: ten rounds over a 128-bit counter under a 64-bit key, least significant word first.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..10 {
        let low = u64::from(MULTIPLIER[0]) * u64::from(c[0]);
        let high = u64::from(MULTIPLIER[1]) * u64::from(c[2]);
        c = [(high >> 32) as u32 ^ c[1] ^ k[0], high as u32, (low >> 32) as u32 ^ c[3] ^ k[1], low as u32];
        k[0] = k[0].wrapping_add(WEYL[0]);
        k[1] = k[1].wrapping_add(WEYL[1]);
    }
    c
}

/// [`philox4x32_10`] of `N` counters, word by word: loops that a compiler makes vectors of.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub fn philox4x32_10_together<const N: usize>(counters: [[u32; N]; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    // Words in lanes of 64 bits, upper halves without meaning: there products need no widening and no narrowing.
    const LOW: u64 = u32::MAX as u64;
    let [mut k0, mut k1] = key;
    let mut c = [[0; N]; 4];
    for word in 0..4 {
        for i in 0..N {
            c[word][i] = u64::from(counters[word][i]);
        }
    }
    for _ in 0..10 {
        for i in 0..N {
            let low = u64::from(MULTIPLIER[0]) * (c[0][i] & LOW);
            let high = u64::from(MULTIPLIER[1]) * (c[2][i] & LOW);
            c[0][i] = (high >> 32) ^ (c[1][i] & LOW) ^ u64::from(k0);
            c[1][i] = high;
            c[2][i] = (low >> 32) ^ (c[3][i] & LOW) ^ u64::from(k1);
            c[3][i] = low;
        }
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    let mut words = [[0; N]; 4];
    for word in 0..4 {
        for i in 0..N {
            words[word][i] = c[word][i] as u32;
        }
    }
    words
}

/// The stream named by a list of words: the first 8 bytes of BLAKE3 over them, each followed by its length, so that
/// `["ab", "c"]` and `["a", "bc"]` differ.
pub fn stream<'a>(words: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in words {
        hasher.update(word.as_bytes());
        hasher.update(&(word.len() as u64).to_le_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// 32 random bits as a number in [0, 1): the upper 24 over 2^24. All 32 would round up to 1.
pub fn unit(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// A sequence of draws from one (key, stream), starting at any block of four.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Philox {
    key: u64,
    stream: u64,
    /// The next block.
    counter: u64,
    block: [u32; 4],
    /// Words of `block` already given out.
    used: usize,
}

impl Philox {
    /// The sequence of `stream` under `key`, from its start.
    pub fn new(key: u64, stream: u64) -> Self {
        Self { key, stream, counter: 0, block: [0; 4], used: 4 }
    }

    /// The same sequence from block `counter` on: four draws a block. A sampler gives each position a block of its own.
    pub fn at(&self, counter: u64) -> Self {
        Self { counter, used: 4, ..self.clone() }
    }

    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let halves = |word: u64| [word as u32, (word >> 32) as u32];
            let ([c0, c1], [s0, s1]) = (halves(self.counter), halves(self.stream));
            self.block = philox4x32_10([c0, c1, s0, s1], halves(self.key));
            self.counter = self.counter.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in [0, 1): [`unit`] of the next bits.
    pub fn uniform(&mut self) -> f32 {
        unit(self.next_u32())
    }

    /// Whether an event of this probability happens.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.uniform() < probability
    }

    /// Uniform in `0..n`, without bias (Lemire 2019: multiply, reject the few low products).
    ///
    /// # Panics
    /// If `n` is 0 or above `u32::MAX`.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u32::try_from(n).expect("at most u32::MAX choices");
        assert!(n > 0, "a choice among nothing");
        let rejected = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= rejected {
                return (product >> 32) as usize;
            }
        }
    }

    /// One element, uniformly.
    pub fn choose<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random123's kat_vectors, "philox4x32 10".
    #[test]
    fn known_answers_of_random123() {
        let all = u32::MAX;
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([all; 4], [all; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox4x32_10(counter, key), expected);
            let counters = [0, 1, 2, 3].map(|word| [0, counter[word], u32::MAX]);
            let together = philox4x32_10_together(counters, key);
            for (i, words) in [[0; 4], counter, [u32::MAX; 4]].into_iter().enumerate() {
                assert_eq!([0, 1, 2, 3].map(|word| together[word][i]), philox4x32_10(words, key));
            }
        }
    }

    #[test]
    fn a_sequence_is_the_blocks_in_order() {
        let mut whole = Philox::new(7 | 5 << 32, 3 | 4 << 32);
        let blocks: Vec<u32> = (0..3).flat_map(|c| philox4x32_10([c, 0, 3, 4], [7, 5])).collect();
        assert_eq!((0..12).map(|_| whole.next_u32()).collect::<Vec<_>>(), blocks);
        assert_eq!(whole.at(2).next_u32(), blocks[8]);
    }

    #[test]
    fn uniform_stays_below_one_and_below_is_even() {
        assert_eq!((unit(0), unit(u32::MAX)), (0.0, 1.0 - 2f32.powi(-24)));
        let mut rng = Philox::new(1, 2);
        let mut counts = [0usize; 7];
        let mut sum = 0.0;
        for _ in 0..70_000 {
            let u = rng.uniform();
            assert!((0.0..1.0).contains(&u));
            sum += f64::from(u);
            counts[rng.below(7)] += 1;
        }
        // Five standard deviations: sqrt(1/12/n) for the mean, sqrt(n p (1 - p)) for a count.
        assert!((sum / 70_000.0 - 0.5).abs() < 5.0 * (1.0 / 12.0 / 70_000f64).sqrt());
        assert!(
            counts.iter().all(|&c| (c as f64 - 10_000.0).abs() < 5.0 * (70_000.0 * 6.0 / 49f64).sqrt()),
            "{counts:?}"
        );
    }

    #[test]
    fn streams_keep_word_borders() {
        assert_ne!(stream(["ab", "c"]), stream(["a", "bc"]));
        assert_ne!(stream(["a"]), stream(["a", ""]));
        assert_eq!(stream(["a", "b"]), stream(["a", "b"]));
    }

    #[test]
    fn shuffle_permutes() {
        let mut items: Vec<u32> = (0..100).collect();
        Philox::new(0, 0).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}

//! One launch: blocks in a drawn order, spread over threads.

use super::block::{Block, Turn};
use crate::memory::Table;
use crate::ptx::parse::Module;
use crate::ptx::registers::Program;
use crate::race::global::Published;
use crate::race::report::{Kind, Report, Reports};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// How kernels run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub seed: u64,
    pub threads: usize,
    /// Watch for races and reads of unwritten memory.
    pub detect: bool,
    /// Warp-instructions after which a launch is given up.
    pub limit: u64,
    /// Moves approximate results within their bounds; the seed.
    pub noise: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { seed: 0, threads, detect: true, limit: 100_000_000_000, noise: None }
    }
}

/// What a launch did, for those who count instead of measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Warp-instructions.
    pub instructions: u64,
    pub mma: u64,
    /// Floating-point operations outside of mma, as [`crate::ptx::op::Op::flop`] counts them.
    pub flop: u64,
    pub barriers: u64,
    /// Bytes asked for in global memory.
    pub global_read: u64,
    pub global_written: u64,
    /// 32-byte sectors touched, and the fewest that could have held those bytes.
    pub sectors: u64,
    pub sectors_least: u64,
    /// Passes over shared memory's banks, and the fewest that the accesses need.
    pub shared_passes: u64,
    pub shared_passes_least: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.instructions += other.instructions;
        self.mma += other.mma;
        self.flop += other.flop;
        self.barriers += other.barriers;
        self.global_read += other.global_read;
        self.global_written += other.global_written;
        self.sectors += other.sectors;
        self.sectors_least += other.sectors_least;
        self.shared_passes += other.shared_passes;
        self.shared_passes_least += other.shared_passes_least;
    }

    pub fn bank_conflicts(&self) -> u64 {
        self.shared_passes - self.shared_passes_least
    }
}

/// What to run, and what is shared by all its blocks.
pub struct Launch<'l> {
    pub module: &'l Module,
    pub program: &'l Program,
    pub memory: &'l Table,
    pub parameters: &'l [u8],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    /// Distinguishes launches in the memory's race shadow; not 0.
    pub epoch: u16,
    pub seed: u64,
    pub detect: bool,
    pub noise: Option<u64>,
    pub reports: Reports,
    pub published: Published,
    /// The CPU has AVX2 and FMA.
    pub vector: bool,
    pub started: Instant,
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub reports: Vec<Report>,
    pub counts: Counts,
}

/// Warp-instructions a block may run before a block that it may wait for gets its turn.
const QUOTA: u64 = 2_000_000;
/// Blocks under way at most; a GPU too holds only so many, and a block may wait for no more.
const RESIDENT: usize = 256;

fn vector() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The place in the grid of the `turn`th block to run: a walk with a drawn start and a stride that meets every block.
struct Order {
    blocks: u64,
    start: u64,
    stride: u64,
}

impl Order {
    fn new(blocks: u64, seed: u64) -> Self {
        let divides = |mut a: u64, mut b: u64| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let drawn = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let mut stride = drawn % blocks.max(1) + 1;
        while divides(stride, blocks) != 1 {
            stride += 1;
        }
        Self { blocks, start: drawn / 7 % blocks.max(1), stride }
    }

    fn block(&self, turn: u64) -> u32 {
        ((self.start as u128 + turn as u128 * self.stride as u128) % self.blocks as u128) as u32
    }
}

impl<'l> Launch<'l> {
    pub fn new(module: &'l Module, program: &'l Program, memory: &'l Table, parameters: &'l [u8], epoch: u16) -> Self {
        Self {
            module,
            program,
            memory,
            parameters,
            grid: [1; 3],
            block: [32, 1, 1],
            dynamic_shared: 0,
            epoch,
            seed: 0,
            detect: true,
            noise: None,
            reports: Reports::default(),
            published: Published::default(),
            vector: vector(),
            started: Instant::now(),
        }
    }

    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Runs every block.
    pub fn run(mut self, settings: &Settings) -> Outcome {
        (self.seed, self.detect, self.noise) = (settings.seed, settings.detect, settings.noise);
        let blocks: u64 = self.grid.iter().map(|&n| u64::from(n)).product();
        let order = Order::new(blocks, self.seed);
        let work = Work {
            launch: &self,
            order: &order,
            next: AtomicU64::new(0),
            suspended: Mutex::new(VecDeque::new()),
            ran: AtomicU64::new(0),
            running: AtomicU32::new(0),
            given_up: AtomicBool::new(false),
            limit: settings.limit,
            counts: Mutex::new(Counts::default()),
        };
        let threads = (settings.threads as u64).min(blocks).max(1);
        if threads == 1 {
            work.worker();
        } else {
            std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(|| work.worker()))));
        }
        let counts = *work.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        drop(work);
        Outcome { reports: self.reports.take(), counts }
    }
}

struct Work<'w> {
    launch: &'w Launch<'w>,
    order: &'w Order,
    next: AtomicU64,
    /// Blocks that used their quota: they may wait for one that has not begun.
    suspended: Mutex<VecDeque<Block<'w>>>,
    ran: AtomicU64,
    running: AtomicU32,
    given_up: AtomicBool,
    limit: u64,
    counts: Mutex<Counts>,
}

impl<'w> Work<'w> {
    fn suspended(&self) -> MutexGuard<'_, VecDeque<Block<'w>>> {
        self.suspended.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn worker(&self) {
        let mut spare: Option<Block<'w>> = None;
        while !self.given_up.load(Relaxed) {
            let turn =
                if self.suspended().len() < RESIDENT { self.next.fetch_add(1, Relaxed) } else { self.order.blocks };
            let mut block = if turn < self.order.blocks {
                let mut block = spare.take().unwrap_or_else(|| Block::new(self.launch));
                block.reset(self.order.block(turn));
                block
            } else {
                let oldest = self.suspended().pop_front();
                match oldest {
                    Some(block) => block,
                    None if self.running.load(Relaxed) == 0 => break,
                    None => {
                        std::thread::yield_now();
                        continue;
                    }
                }
            };
            self.running.fetch_add(1, Relaxed);
            let before = block.context.counts.instructions;
            let turn = block.turn(QUOTA);
            let ran = self.ran.fetch_add(block.context.counts.instructions - before, Relaxed);
            if ran > self.limit && !self.given_up.swap(true, Relaxed) {
                block
                    .context
                    .fault(0, 0, Kind::NoProgress, 0, None, || format!("gave up after {ran} warp-instructions"));
            }
            match turn {
                Turn::Done => {
                    let mut counts = self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    counts.add(&block.context.counts);
                    block.context.counts = Counts::default();
                    spare = Some(block);
                }
                Turn::Again => self.suspended().push_back(block),
            }
            self.running.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_meets_every_block_once() {
        for blocks in [1, 2, 7, 12, 64, 100] {
            for seed in 0..20 {
                let order = Order::new(blocks, seed);
                let mut met: Vec<u32> = (0..blocks).map(|turn| order.block(turn)).collect();
                met.sort_unstable();
                assert_eq!(met, (0..blocks as u32).collect::<Vec<_>>());
            }
        }
    }
}

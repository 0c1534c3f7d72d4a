//! Replaying: what a step starts on the device is recorded once as a CUDA graph, and started again by one call.
//!
//! A graph holds addresses, and nothing that it holds goes away under it:
//! - memory that is allocated while it is recorded belongs to it (an [`Arena`]), and goes back to the pool after it;
//! - of memory from before, the addresses that the recorded work was given are noted, and giving back a block that one of
//!   them lies in makes the graph stale: it is recorded anew, or the step runs by itself.
//!
//! An upload while recording is made at once, into a block of the arena that nothing else uses, and recorded as a copy from
//! there. Downloads, waiting, and uploads into older memory cannot be recorded: such a step runs by itself each time.

use super::failure::{at, device_error};
use super::{Cuda, Shared};
use crate::{Error, Result};
use cudarc::driver::{CudaGraph, sys};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::thread::ThreadId;

/// With `SAFEDEPTH_CUDA_GRAPHS=0` every step runs by itself.
const SWITCH: &str = "SAFEDEPTH_CUDA_GRAPHS";

/// Blocks that a graph's work uses, given back to the pool when the last of their users is gone.
pub(super) struct Arena {
    device: Cuda,
    blocks: Mutex<Vec<(u64, usize)>>,
}

impl Arena {
    pub fn add(&self, address: u64, bytes: usize) {
        self.blocks.lock().expect("no thread panics with the blocks in hand").push((address, bytes));
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for (address, bytes) in self.blocks.get_mut().expect("as above").drain(..) {
            self.device.shared.pool.give_back(&self.device, address, bytes);
        }
    }
}

/// A recording under way.
pub(super) struct Recording {
    thread: ThreadId,
    pub arena: Arc<Arena>,
    /// Blocks of the arena that the recorded work is done with, by size.
    pub free: BTreeMap<usize, Vec<u64>>,
    /// What the recorded work was given, in its order.
    pub given: Vec<u64>,
    /// Whether memory from before was given back meanwhile.
    pub lost: bool,
}

/// Addresses that a graph was given, sorted, and whether one of their blocks is gone.
struct Watch {
    given: Vec<u64>,
    stale: AtomicBool,
}

/// What the device knows of its graphs.
pub(super) struct Graphs {
    enabled: bool,
    /// Whether the user was told of a step that cannot be recorded.
    told: AtomicBool,
    recording: Mutex<Option<Recording>>,
    ended: Condvar,
    watches: Mutex<Vec<Weak<Watch>>>,
    /// Whether there are watches.
    watching: AtomicBool,
    /// Where uploads run while the device's own stream records.
    uploads: OnceLock<Arc<cudarc::driver::CudaStream>>,
}

impl Default for Graphs {
    fn default() -> Self {
        Self {
            enabled: std::env::var_os(SWITCH).is_none_or(|value| value != "0"),
            told: AtomicBool::new(false),
            recording: Mutex::default(),
            ended: Condvar::new(),
            watches: Mutex::default(),
            watching: AtomicBool::new(false),
            uploads: OnceLock::new(),
        }
    }
}

impl Shared {
    /// The right to start work on the stream, and the recording that takes it where there is one. Another thread's
    /// recording is waited for, since it would take this thread's work too.
    pub(super) fn turn(&self) -> MutexGuard<'_, Option<Recording>> {
        let this = std::thread::current().id();
        let guard = self.graphs.recording.lock().expect("no thread panics with the recording in hand");
        let others = |recording: &mut Option<Recording>| recording.as_ref().is_some_and(|r| r.thread != this);
        self.graphs.ended.wait_while(guard, others).expect("as above")
    }

    /// A block of memory from outside of the arenas is given back.
    pub(super) fn gone(&self, address: u64, bytes: usize) {
        if !self.graphs.watching.load(Relaxed) {
            return;
        }
        let mut watches = self.graphs.watches.lock().expect("no thread panics with the watches in hand");
        watches.retain(|watch| {
            let Some(watch) = watch.upgrade() else { return false };
            let at = watch.given.partition_point(|&given| given < address);
            if watch.given.get(at).is_some_and(|&given| given < address + bytes as u64) {
                watch.stale.store(true, Relaxed);
            }
            true
        });
        self.graphs.watching.store(!watches.is_empty(), Relaxed);
    }
}

/// What cannot be recorded.
pub(super) fn unrecordable(what: &str) -> Error {
    Error::Device(format!("a step that {what} cannot be recorded"))
}

/// A recorded step.
struct Graph<T> {
    key: [usize; 2],
    graph: CudaGraph,
    /// What the step returned: its tensors are the graph's own.
    value: T,
    watch: Arc<Watch>,
    /// Keeps the memory of everything that the graph does.
    _arena: Arc<Arena>,
}

// SAFETY: the driver's graphs belong to no thread; one at a time uses this one, through `&mut`.
unsafe impl<T: Send> Send for Graph<T> {}

/// The steps of one caller of [`crate::device::Backend::replay`].
pub struct Replay<T> {
    /// The key of the last step that ran by itself, and what it returned.
    seen: Option<[usize; 2]>,
    value: Option<T>,
    graph: Option<Graph<T>>,
    /// Recording failed once, and is not tried again.
    refused: bool,
}

impl<T> Default for Replay<T> {
    fn default() -> Self {
        Self { seen: None, value: None, graph: None, refused: false }
    }
}

/// Ends a recording, also where the step panics.
struct Open<'d>(&'d Cuda);

impl Open<'_> {
    fn close(&self) -> (std::result::Result<Option<CudaGraph>, cudarc::driver::DriverError>, Option<Recording>) {
        let shared = &self.0.shared;
        let graph = shared.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        let recording = shared.turn().take();
        shared.graphs.ended.notify_all();
        (graph, recording)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

impl Cuda {
    /// See [`crate::device::Backend::replay`]. The first step with a key runs by itself (it loads kernels and chooses
    /// algorithms), the second is recorded, later ones are replayed.
    pub(super) fn replayed<'r, T>(
        &self,
        replay: &'r mut Replay<T>,
        key: [usize; 2],
        mut step: impl FnMut() -> Result<T>,
    ) -> Result<&'r mut T> {
        let usable = |graph: &Graph<T>| graph.key == key && !graph.watch.stale.load(Relaxed);
        if !replay.graph.as_ref().is_some_and(usable) {
            // Where the device is still at it, the driver takes the graph down afterwards; its memory is used in the
            // stream's order.
            replay.graph = None;
            let again = replay.seen.replace(key) == Some(key);
            replay.value = None;
            if again && self.shared.graphs.enabled && !replay.refused {
                match self.record(key, &mut step) {
                    Ok(graph) => replay.graph = Some(graph),
                    Err(error) => {
                        replay.refused = true;
                        if !self.shared.graphs.told.swap(true, Relaxed) {
                            eprintln!("warning: steps on the GPU start kernel by kernel, which is slower: {error}");
                        }
                    }
                }
            }
        }
        match &mut replay.graph {
            Some(graph) => {
                self.bind()?;
                graph.graph.launch().map_err(|error| device_error(self, at("replay its work"), error))?;
                Ok(&mut graph.value)
            }
            None => Ok(replay.value.insert(step()?)),
        }
    }

    fn record<T>(&self, key: [usize; 2], step: &mut impl FnMut() -> Result<T>) -> Result<Graph<T>> {
        let failed = |error| device_error(self, at("record its work"), error);
        // Uploads go into blocks of the pool ahead of the stream: what last used those is over.
        crate::device::Backend::synchronize(self)?;
        let graphs = &self.shared.graphs;
        if graphs.uploads.get().is_none() {
            let _ = graphs.uploads.set(self.shared.context.new_stream().map_err(failed)?);
        }
        let arena = Arc::new(Arena { device: self.clone(), blocks: Mutex::default() });
        let open = {
            let mut turn = self.shared.turn();
            assert!(turn.is_none(), "a step that is recorded does not replay another");
            // Relaxed: what is allocated meanwhile is the graph's, and the pool is the only one that allocates.
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
            self.shared.stream.begin_capture(mode).map_err(failed)?;
            *turn = Some(Recording {
                thread: std::thread::current().id(),
                arena: arena.clone(),
                free: BTreeMap::new(),
                given: Vec::new(),
                lost: false,
            });
            Open(self)
        };
        let value = step();
        let (graph, recording) = open.close();
        std::mem::forget(open);
        let value = value?;
        let graph = graph.map_err(failed)?.ok_or_else(|| unrecordable("starts nothing"))?;
        let recording = recording.ok_or_else(|| unrecordable("ends its own recording"))?;
        if recording.lost {
            return Err(unrecordable("frees memory that is older than it"));
        }
        let mut given = recording.given;
        given.sort_unstable();
        given.dedup();
        let watch = Arc::new(Watch { given, stale: AtomicBool::new(false) });
        graphs.watches.lock().expect("no thread panics with the watches in hand").push(Arc::downgrade(&watch));
        graphs.watching.store(true, Relaxed);
        Ok(Graph { key, graph, value, watch, _arena: arena })
    }

    /// The right to start work that uses memory at these addresses.
    pub(super) fn turn_with(&self, given: impl IntoIterator<Item = u64>) -> MutexGuard<'_, Option<Recording>> {
        let mut turn = self.shared.turn();
        if let Some(recording) = &mut *turn {
            recording.given.extend(given);
        }
        turn
    }

    /// Copies `source` to a block of the arena while the stream records.
    pub(super) fn upload_aside<T: bytemuck::Pod>(&self, address: u64, source: &[T]) -> Result<()> {
        let failed = |error| device_error(self, at("copy to the device"), error);
        let stream = self.shared.graphs.uploads.get().expect("made before a recording begins");
        // SAFETY: the block is that long and nothing else uses it; the copy is waited for before the source may go.
        unsafe { cudarc::driver::result::memcpy_htod_async(address, source, stream.cu_stream()) }.map_err(failed)?;
        stream.synchronize().map_err(failed)
    }
}

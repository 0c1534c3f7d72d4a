//! Streams that record: between cuStreamBeginCapture and cuStreamEndCapture, what a stream is asked for is kept instead of
//! done. The list becomes a graph, and every launch of the graph does it again, with the addresses and arguments of then.
//!
//! A call that would wait for the recording stream is refused and spoils the recording, as on a GPU; so is one that may wait
//! for every stream (allocating and freeing, copies without a stream, loading modules), unless the recording is relaxed.

use super::{Code, State, call, give};
use std::ffi::{c_uint, c_ulonglong, c_void};
use std::sync::Arc;
use std::thread::ThreadId;

type Handle = *mut c_void;

/// CUstreamCaptureMode.
const GLOBAL: c_uint = 0;
const THREAD_LOCAL: c_uint = 1;
const RELAXED: c_uint = 2;

/// Something that a stream does.
type Work = Box<dyn Fn(&mut State) -> Result<(), Code> + Send + Sync>;

/// A graph, and an executable one: what was recorded, in the order of its stream.
pub type Graph = Arc<Vec<Work>>;

/// A recording under way.
pub struct Capture {
    mode: c_uint,
    thread: ThreadId,
    nodes: Vec<Work>,
    spoiled: bool,
}

impl State {
    /// Does `work` now, or keeps it where the stream records.
    pub fn submit(
        &mut self,
        stream: Handle,
        work: impl Fn(&mut State) -> Result<(), Code> + Send + Sync + 'static,
    ) -> Result<(), Code> {
        match self.captures.get_mut(&(stream as usize)) {
            None => work(self),
            Some(capture) if capture.spoiled => Err(Code::STREAM_CAPTURE_INVALIDATED),
            Some(capture) => {
                capture.nodes.push(Box::new(work));
                Ok(())
            }
        }
    }

    /// Whether the stream records.
    pub fn records(&self, stream: Handle) -> bool {
        self.captures.contains_key(&(stream as usize))
    }

    /// Refuses what waits for a stream that records.
    pub fn waits_for(&mut self, stream: Handle) -> Result<(), Code> {
        let Some(capture) = self.captures.get_mut(&(stream as usize)) else { return Ok(()) };
        capture.spoiled = true;
        Err(Code::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses what waits for all streams while one of them records.
    pub fn waits_for_all(&mut self) -> Result<(), Code> {
        match self.captures.keys().next().copied() {
            Some(stream) => self.waits_for(stream as Handle),
            None => Ok(()),
        }
    }

    /// Refuses what may wait for all streams, unless those that record allow it.
    pub fn may_wait(&mut self) -> Result<(), Code> {
        let this = std::thread::current().id();
        let refuses = |capture: &&mut Capture| match capture.mode {
            RELAXED => false,
            THREAD_LOCAL => capture.thread == this,
            _ => true,
        };
        let Some(capture) = self.captures.values_mut().find(refuses) else { return Ok(()) };
        capture.spoiled = true;
        Err(Code::STREAM_CAPTURE_UNSUPPORTED)
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) -> Code {
    call(|state| {
        state.healthy()?;
        // The legacy stream, and the numbers that mean it or a thread's own, cannot record.
        if (stream as usize) < 3 {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        if ![GLOBAL, THREAD_LOCAL, RELAXED].contains(&mode) {
            return Err(Code::INVALID_VALUE);
        }
        if state.records(stream) {
            return Err(Code::ILLEGAL_STATE);
        }
        let thread = std::thread::current().id();
        state.captures.insert(stream as usize, Capture { mode, thread, nodes: Vec::new(), spoiled: false });
        Ok(())
    })
}

/// # Safety
/// As cuda.h's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> Code {
    call(|state| {
        let capture = state.captures.get(&(stream as usize)).ok_or(Code::ILLEGAL_STATE)?;
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
        }
        let capture = state.captures.remove(&(stream as usize)).ok_or(Code::ILLEGAL_STATE)?;
        if capture.spoiled {
            // SAFETY: the program's pointer.
            unsafe { give(graph, std::ptr::null_mut())? };
            return Err(Code::STREAM_CAPTURE_INVALIDATED);
        }
        let number = state.handle();
        state.graphs.insert(number, Arc::new(capture.nodes));
        // SAFETY: the program's pointer.
        unsafe { give(graph, number as Handle) }
    })
}

/// # Safety
/// As cuda.h's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, status: *mut c_uint) -> Code {
    call(|state| {
        // CUstreamCaptureStatus: none, active, invalidated.
        let now = state.captures.get(&(stream as usize)).map_or(0, |capture| 1 + c_uint::from(capture.spoiled));
        // SAFETY: the program's pointer.
        unsafe { give(status, now) }
    })
}

/// # Safety
/// As cuda.h's function of this name; no flag changes anything here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut Handle,
    graph: Handle,
    _flags: c_ulonglong,
) -> Code {
    call(|state| {
        let nodes = state.graphs.get(&(graph as usize)).ok_or(Code::INVALID_VALUE)?.clone();
        let number = state.handle();
        state.graphs.insert(number, nodes);
        // SAFETY: the program's pointer.
        unsafe { give(executable, number as Handle) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: Handle, stream: Handle) -> Code {
    call(|state| {
        state.healthy()?;
        if state.records(stream) {
            // A graph inside of a graph.
            return Err(Code::NOT_SUPPORTED);
        }
        let nodes = state.graphs.get(&(executable as usize)).ok_or(Code::INVALID_VALUE)?.clone();
        state.called(&format!("graph of {}", nodes.len()));
        nodes.iter().try_for_each(|work| work(state))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: Handle, _stream: Handle) -> Code {
    call(|state| state.graphs.get(&(executable as usize)).map(drop).ok_or(Code::INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: Handle) -> Code {
    call(|state| state.graphs.remove(&(graph as usize)).map(drop).ok_or(Code::INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: Handle) -> Code {
    cuGraphDestroy(executable)
}

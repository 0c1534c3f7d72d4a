//! Timing by the device's own clock.

use super::Cuda;
use super::failure::{at, device_error};
use crate::Result;
use cudarc::driver::{result, sys};

/// A moment in the stream, destroyed on drop.
struct Event(sys::CUevent);

impl Event {
    /// The moment at which all that was started so far is done.
    fn now(device: &Cuda) -> Result<Self> {
        device.bind()?;
        let failed = |error| device_error(device, at("make an event"), error);
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Self).map_err(failed)?;
        // SAFETY: the event was made above; the stream lives as long as the device.
        unsafe { result::event::record(event.0, device.stream()) }.map_err(failed)?;
        Ok(event)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `now`, and not used again. There is no one to tell of a failure.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

impl Cuda {
    /// Seconds between two events around what `work` starts.
    pub(super) fn between_events(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let start = Event::now(self)?;
        work()?;
        let end = Event::now(self)?;
        crate::device::Backend::synchronize(self)?;
        // SAFETY: both events were recorded, and reached.
        let milliseconds = unsafe { result::event::elapsed(start.0, end.0) }
            .map_err(|error| device_error(self, at("read its clock"), error))?;
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

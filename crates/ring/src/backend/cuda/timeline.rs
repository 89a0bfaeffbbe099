//! The clock of a card: events in a stream, and how the recorder reads them.
#![expect(unsafe_code, reason = "the driver's interface is C")]

use super::driver::Gpu;
use cipherform_profile::Timeline;
use cudarc::driver::DriverError;
use cudarc::driver::result as cu;
use cudarc::driver::sys;
use std::sync::Arc;
use std::time::Duration;

/// Points in a stream, which become times. Works in the context of the calling thread, which is the stream's.
pub(super) struct Events {
    stream: sys::CUstream,
    events: Vec<sys::CUevent>,
}

impl Events {
    pub(super) fn new(stream: sys::CUstream) -> Self {
        Self { stream, events: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// A point after everything that has been asked for.
    pub(super) fn record(&mut self) -> Result<(), DriverError> {
        let event = cu::event::create(sys::CUevent_flags_enum::CU_EVENT_DEFAULT)?;
        self.events.push(event);
        // SAFETY: the event was just made and lives as long as `self`; streams live as long as the process.
        unsafe { cu::event::record(event, self.stream) }
    }

    /// Waits; the times of all points since the first.
    pub(super) fn elapsed(&self) -> Result<Vec<Duration>, DriverError> {
        // SAFETY: streams live as long as the process.
        unsafe { cu::stream::synchronize(self.stream) }?;
        let Some(&first) = self.events.first() else { return Ok(Vec::new()) };
        let since = |&event: &sys::CUevent| {
            // SAFETY: both were recorded on the stream, which has just done everything, and live as long as `self`.
            let milliseconds = unsafe { cu::event::elapsed(first, event) }?;
            Ok(Duration::from_secs_f32(milliseconds.max(0.0) / 1e3))
        };
        self.events.iter().map(since).collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for &event in &self.events {
            // SAFETY: made by `record` and used by nobody else. A failure leaves an event behind, no more.
            let _ = unsafe { cu::event::destroy(event) };
        }
    }
}

/// Milliseconds of the work that `f` asks of a stream of the current context, once it is done.
pub(super) fn timed(
    stream: sys::CUstream,
    f: impl FnOnce() -> Result<(), DriverError>,
) -> Result<f32, DriverError> {
    let mut events = Events::new(stream);
    events.record()?;
    f()?;
    events.record()?;
    Ok(events.elapsed()?.last().map_or(0.0, |time| time.as_secs_f32() * 1e3))
}

/// Events, as few as tell the spans apart: where nothing was launched since the last one, it is the mark.
pub(super) struct Marks {
    gpu: Arc<Gpu>,
    events: Events,
    launches: u64,
}

impl Marks {
    /// Starts when the card has done what it was asked for before. None if it has failed.
    pub(super) fn begin(gpu: &Arc<Gpu>) -> Option<Self> {
        gpu.synchronize().ok()?;
        let mut events = gpu.events();
        gpu.mark(&mut events).ok()?;
        Some(Self { gpu: gpu.clone(), events, launches: gpu.launches() })
    }
}

impl Timeline for Marks {
    fn mark(&mut self) -> usize {
        let launches = self.gpu.launches();
        // A failure shows when the times are read.
        if launches != self.launches && self.gpu.mark(&mut self.events).is_ok() {
            self.launches = launches;
        }
        self.events.len() - 1
    }

    fn times(&mut self) -> Vec<Duration> {
        self.gpu.elapsed(&self.events).unwrap_or_default()
    }
}

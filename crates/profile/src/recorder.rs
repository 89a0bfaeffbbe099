//! The recorder of one thread: a tree of spans with wall times, counters and the device memory in use.
//!
//! A device that works behind its caller is followed by its own clock: spans then leave marks in its queue, and
//! the marks become times when the recording ends. So a span lasts as long as its work does, not as the asking for it.

use crate::cost::{Cost, Counter};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// What kind of work a span covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanKind {
    /// The whole recording.
    Root,
    /// One operator of a plan.
    Operator,
    /// One primitive of the ring or the scheme.
    Primitive,
}

/// The fixed fields of an operator span. Levels are rescalings left; `log2_scale` is the scale of the result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Operator {
    /// Operator name, e.g. `attention.scores`.
    pub name: String,
    /// Layer the operator belongs to, e.g. `layer.0`; empty outside layers.
    pub layer: String,
    /// Shape of the result, e.g. `[64, 64]`; free text.
    pub shape: String,
    /// Level of the inputs.
    pub level_in: Option<usize>,
    /// Level of the result.
    pub level_out: Option<usize>,
    /// log2 of the result's scale.
    pub log2_scale: Option<f64>,
}

impl Operator {
    /// An operator with only a name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// One closed span.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Root, operator or primitive.
    pub kind: SpanKind,
    /// What ran; for primitives only the name is set.
    pub operator: Operator,
    /// Index of the parent in [`Recording::spans`]; the root is its own parent.
    pub parent: usize,
    /// Start since the recording began.
    pub start: Duration,
    /// Wall time, children included.
    pub wall: Duration,
    /// Work counted directly in this span, children excluded.
    pub own: Cost,
    /// Most bytes of a device's memory that were in use whenever some were taken directly in this span; 0 if none were.
    #[serde(default)]
    pub peak_bytes: u64,
}

/// The clock of a device that works behind its caller.
pub trait Timeline {
    /// Marks the end of what has been asked of the device; the number of the mark.
    fn mark(&mut self) -> usize;

    /// Waits for the device. The times of all marks since the timeline began, by number; none if the device failed.
    fn times(&mut self) -> Vec<Duration>;
}

/// The span tree of one computation; `spans[0]` is the root, parents precede children.
///
/// Reading one from JSON checks that shape, so a recording sent by a server can be aggregated without further checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawRecording")]
pub struct Recording {
    spans: Vec<Span>,
}

/// Deepest nesting a foreign recording may have; ours stay below ten.
const MAX_DEPTH: usize = 64;

#[derive(Deserialize)]
struct RawRecording {
    spans: Vec<Span>,
}

impl TryFrom<RawRecording> for Recording {
    type Error = Error;
    fn try_from(raw: RawRecording) -> Result<Self> {
        Recording::from_spans(raw.spans)
    }
}

impl Recording {
    /// A recording from spans made elsewhere.
    ///
    /// # Errors
    /// [`Error::Recording`] unless the first span is the only root, every other span's parent precedes it, and none is
    /// nested deeper than 64.
    pub fn from_spans(spans: Vec<Span>) -> Result<Self> {
        if spans.is_empty() {
            return Err(Error::Recording {
                span: 0,
                detail: "is missing: the root span comes first",
            });
        }
        let mut depth: Vec<usize> = Vec::with_capacity(spans.len());
        for (i, span) in spans.iter().enumerate() {
            let level = depth.get(span.parent).map_or(0, |d| d + 1);
            let detail = match (i, span.kind) {
                (0, SpanKind::Root) if span.parent == 0 => "",
                (0, _) => "is not a root that is its own parent",
                (_, SpanKind::Root) => "is a second root",
                _ if span.parent >= i => "does not come after its parent",
                _ if level > MAX_DEPTH => "is nested too deep",
                _ => "",
            };
            if !detail.is_empty() {
                return Err(Error::Recording { span: i, detail });
            }
            depth.push(level);
        }
        Ok(Self { spans })
    }

    /// All spans in order of opening; never empty.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Everything counted.
    #[must_use]
    pub fn total(&self) -> Cost {
        self.spans.iter().map(|s| s.own).sum()
    }

    /// Wall time of the whole recording.
    #[must_use]
    pub fn wall(&self) -> Duration {
        self.spans[0].wall
    }

    /// Work counted in span `index` and everything below it.
    #[must_use]
    pub fn inclusive(&self, index: usize) -> Cost {
        // Parents precede children, so one pass from `index` suffices.
        let mut inside = vec![false; self.spans.len()];
        let mut total = Cost::default();
        for i in index..self.spans.len() {
            inside[i] = i == index || (self.spans[i].parent != i && inside[self.spans[i].parent]);
            if inside[i] {
                total += self.spans[i].own;
            }
        }
        total
    }
}

struct Recorder {
    origin: Instant,
    spans: Vec<Span>,
    current: usize,
    followed: Option<Followed>,
}

/// A device that times the spans opened since `begin`.
struct Followed {
    begin: Duration,
    timeline: Box<dyn Timeline>,
    /// Span, opening mark and closing mark.
    marks: Vec<(usize, usize, Option<usize>)>,
}

impl Followed {
    fn open(&mut self, span: usize) {
        self.marks.push((span, self.timeline.mark(), None));
    }

    fn close(&mut self, span: usize) {
        // Spans close in the reverse order of opening, so it is among the last.
        let open = self.marks.iter_mut().rev().find(|mark| mark.0 == span);
        if let Some(mark) = open {
            mark.2 = Some(self.timeline.mark());
        }
    }

    /// Replaces what the host's clock said.
    fn resolve(mut self, spans: &mut [Span]) {
        let times = self.timeline.times();
        for (span, open, close) in self.marks {
            let Some(close) = close else { continue };
            if let (Some(&start), Some(&end)) = (times.get(open), times.get(close))
                && let Some(span) = spans.get_mut(span)
            {
                span.start = self.begin + start;
                span.wall = end.saturating_sub(start);
            }
        }
    }
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Runs `f` with a fresh recorder on this thread and returns what it recorded. An outer recording on the same
/// thread is suspended meanwhile.
pub fn record<R>(f: impl FnOnce() -> R) -> (R, Recording) {
    struct Restore(Option<Recorder>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let outer = self.0.take();
            RECORDER.with(|r| *r.borrow_mut() = outer);
        }
    }
    let root = Span {
        kind: SpanKind::Root,
        operator: Operator::new("total"),
        parent: 0,
        start: Duration::ZERO,
        wall: Duration::ZERO,
        own: Cost::default(),
        peak_bytes: 0,
    };
    let fresh =
        Recorder { origin: Instant::now(), spans: vec![root.clone()], current: 0, followed: None };
    let restore = Restore(RECORDER.with(|r| r.borrow_mut().replace(fresh)));
    let result = f();
    let done = RECORDER.with(|r| r.borrow_mut().take());
    drop(restore);
    let spans = done.map_or_else(
        || vec![root],
        |mut rec| {
            if let Some(followed) = rec.followed {
                followed.resolve(&mut rec.spans);
            }
            rec.spans[0].wall = rec.origin.elapsed();
            rec.spans
        },
    );
    (result, Recording { spans })
}

/// Adds `n` to a counter of the current span of this thread.
pub fn count(counter: Counter, n: u64) {
    RECORDER.with(|r| {
        if let Some(rec) = r.borrow_mut().as_mut() {
            let current = rec.current;
            rec.spans[current].own.count(counter, n);
        }
    });
}

/// Notes that a thread which takes a device's memory now has `bytes` of it in use, for the current span.
pub fn memory_in_use(bytes: u64) {
    RECORDER.with(|r| {
        if let Some(rec) = r.borrow_mut().as_mut() {
            let peak = &mut rec.spans[rec.current].peak_bytes;
            *peak = bytes.max(*peak);
        }
    });
}

/// From here to the end of this thread's recording, a device times the spans that open; the recording then ends when the
/// device has done what it was asked for. `begin` is called if there is a recording that follows none yet, and returns
/// nothing for a device that is done when its calls return.
pub fn follow(begin: impl FnOnce() -> Option<Box<dyn Timeline>>) {
    let wanted = RECORDER.with(|r| r.borrow().as_ref().is_some_and(|rec| rec.followed.is_none()));
    // Outside the borrow: it waits for the device, and may count.
    let Some(timeline) = wanted.then(begin).flatten() else { return };
    RECORDER.with(|r| {
        if let Some(rec) = r.borrow_mut().as_mut() {
            let begin = rec.origin.elapsed();
            rec.followed = Some(Followed { begin, timeline, marks: Vec::new() });
        }
    });
}

/// Opens an operator span; it closes when the guard drops.
#[must_use]
pub fn operator(operator: Operator) -> SpanGuard {
    open(SpanKind::Operator, || operator)
}

/// Opens a primitive span; it closes when the guard drops.
#[must_use]
pub fn primitive(name: &'static str) -> SpanGuard {
    open(SpanKind::Primitive, || Operator::new(name))
}

fn open(kind: SpanKind, operator: impl FnOnce() -> Operator) -> SpanGuard {
    RECORDER.with(|r| {
        let mut slot = r.borrow_mut();
        let Some(rec) = slot.as_mut() else {
            return SpanGuard { index: None, _thread: PhantomData };
        };
        let index = rec.spans.len();
        let start = rec.origin.elapsed();
        rec.spans.push(Span {
            kind,
            operator: operator(),
            parent: rec.current,
            start,
            wall: Duration::ZERO,
            own: Cost::default(),
            peak_bytes: 0,
        });
        rec.current = index;
        if let Some(followed) = &mut rec.followed {
            followed.open(index);
        }
        SpanGuard { index: Some(index), _thread: PhantomData }
    })
}

/// Closes its span when dropped. Bound to the thread that opened it.
#[derive(Debug)]
pub struct SpanGuard {
    index: Option<usize>,
    _thread: PhantomData<*const ()>,
}

impl Drop for SpanGuard {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        RECORDER.with(|r| {
            if let Some(rec) = r.borrow_mut().as_mut()
                && let Some(span) = rec.spans.get_mut(index)
            {
                span.wall = rec.origin.elapsed().saturating_sub(span.start);
                rec.current = span.parent;
                if let Some(followed) = &mut rec.followed {
                    followed.close(index);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_land_in_the_innermost_span() {
        let ((), rec) = record(|| {
            let _op = operator(Operator::new("outer"));
            count(Counter::CtCt, 1);
            {
                let _p = primitive("ntt");
                count(Counter::LimbNtts, 5);
            }
            count(Counter::CtCt, 1);
        });
        let names: Vec<_> = rec.spans().iter().map(|s| s.operator.name.as_str()).collect();
        assert_eq!(names, ["total", "outer", "ntt"]);
        assert_eq!(rec.spans[1].own.get(Counter::CtCt), 2);
        assert_eq!(rec.spans[2].own.get(Counter::LimbNtts), 5);
        assert_eq!(rec.inclusive(1).get(Counter::LimbNtts), 5);
        assert!(rec.spans[1].wall >= rec.spans[2].wall);
    }

    /// A device whose marks are ten milliseconds apart, or that fails in the end.
    struct Ticks {
        marks: usize,
        fails: bool,
    }

    impl Timeline for Ticks {
        fn mark(&mut self) -> usize {
            self.marks += 1;
            self.marks - 1
        }

        fn times(&mut self) -> Vec<Duration> {
            let marks = if self.fails { 0 } else { self.marks };
            (0..marks).map(|i| Duration::from_millis(10 * i as u64)).collect()
        }
    }

    fn two_spans(fails: bool) -> Recording {
        let run = || {
            drop(operator(Operator::new("before")));
            follow(|| None);
            follow(|| Some(Box::new(Ticks { marks: 0, fails })));
            follow(|| unreachable!("a device is followed already"));
            let outer = operator(Operator::new("outer"));
            drop(primitive("inner"));
            drop(outer);
        };
        follow(|| unreachable!("nothing is recorded"));
        record(run).1
    }

    #[test]
    fn a_followed_device_times_the_spans() {
        let spans = two_spans(false).spans;
        let ms = |i: usize| spans[i].wall.as_millis();
        assert_eq!((ms(2), ms(3)), (30, 10));
        assert_eq!(spans[3].start, spans[2].start + Duration::from_millis(10));
        assert!(ms(1) < 10, "by the host's clock");
    }

    #[test]
    fn a_device_that_fails_leaves_the_times_of_the_host() {
        let recording = two_spans(true);
        assert!(recording.spans.iter().all(|span| span.wall <= recording.wall()));
    }

    #[test]
    fn memory_lands_in_the_innermost_span() {
        let ((), rec) = record(|| {
            memory_in_use(1);
            let outer = operator(Operator::new("outer"));
            memory_in_use(7);
            {
                let _inner = primitive("inner");
                memory_in_use(9);
                memory_in_use(8);
            }
            drop(outer);
        });
        let peaks: Vec<u64> = rec.spans().iter().map(|span| span.peak_bytes).collect();
        assert_eq!(peaks, [1, 7, 9]);
        memory_in_use(1);
    }

    #[test]
    fn a_foreign_recording_must_be_a_tree() {
        let ((), rec) = record(|| drop(primitive("ntt")));
        let good = serde_json::to_string(&rec).unwrap();
        assert_eq!(serde_json::from_str::<Recording>(&good).unwrap(), rec);
        let mut spans = rec.spans().to_vec();
        spans[1].parent = 7;
        let bad = good.replace(r#""parent":0,"start""#, r#""parent":7,"start""#);
        assert!(serde_json::from_str::<Recording>(&bad).is_err());
        assert!(serde_json::from_str::<Recording>(r#"{"spans":[]}"#).is_err());
        assert!(matches!(Recording::from_spans(spans), Err(Error::Recording { span: 1, .. })));
    }

    #[test]
    fn nothing_is_recorded_without_a_recorder() {
        count(Counter::CtCt, 1);
        let ((), rec) = record(|| {});
        assert_eq!(rec.total(), Cost::default());
    }

    #[test]
    fn a_panic_inside_leaves_no_recorder_behind() {
        let _ = std::panic::catch_unwind(|| record(|| panic!("inside")));
        RECORDER.with(|r| assert!(r.borrow().is_none()));
    }
}

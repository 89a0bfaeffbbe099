//! The recorder of one thread: a tree of spans with wall times and counters.

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
    };
    let fresh = Recorder { origin: Instant::now(), spans: vec![root.clone()], current: 0 };
    let restore = Restore(RECORDER.with(|r| r.borrow_mut().replace(fresh)));
    let result = f();
    let done = RECORDER.with(|r| r.borrow_mut().take());
    drop(restore);
    let spans = done.map_or_else(
        || vec![root],
        |mut rec| {
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
        });
        rec.current = index;
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

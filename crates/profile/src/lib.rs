//! Where the time goes: spans and counters of one computation, predicted costs beside observed ones.
//!
//! A computation runs inside [`record`]. Operators open an [`operator`] span, primitives (a number-theoretic
//! transform over all limbs, a base conversion) open a [`primitive`] span, and whoever does countable work calls
//! [`count`]. All three act on the recorder of the *calling thread*, so code that fans out to a thread pool counts
//! before it does; without a recorder each costs one thread-local read.
//!
//! ```
//! use cipherform_profile::{Counter, Operator, count, operator, record};
//! let (sum, recording) = record(|| {
//!     let _span = operator(Operator::new("add"));
//!     count(Counter::CtPt, 2);
//!     1 + 1
//! });
//! assert_eq!((sum, recording.total().get(Counter::CtPt)), (2, 2));
//! ```
//!
//! A [`Report`] turns one or more recordings of the same computation into rows by operator, layer and primitive, puts a
//! planner's [`Prediction`] beside them, and writes itself as text, JSON, Markdown, CSV and HTML; [`chrome_trace`]
//! exports the span tree for a trace viewer, [`Diff`] compares two reports.
//!
//! **Non-goals.** No sampling, no log output, no cross-thread aggregation: one recording is one job on one thread.

mod aggregate;
mod charts;
mod compare;
mod cost;
mod diff;
mod error;
mod export;
mod format;
mod grid;
mod html;
mod recorder;
mod report;
mod system;
mod table;
mod trace;

pub use cost::{Cost, Counter, Mismatch};
pub use diff::{Diff, DiffRow};
pub use error::{Error, Result};
pub use grid::Style;
pub use recorder::{
    Operator, Recording, Span, SpanGuard, SpanKind, Timeline, count, follow, memory_in_use,
    operator, primitive, record,
};
pub use report::{
    Annotation, BootstrapRow, Discrepancy, Header, LayerRow, OperatorRow, Phase, PredictedOperator,
    Prediction, PrimitiveRow, Report, SCHEMA, Spread, Totals,
};
pub use system::{cpu_model, peak_rss_bytes, span_cost_ns};
pub use table::WIDTH;
pub use trace::{chrome_trace, folded_stacks};

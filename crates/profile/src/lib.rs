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
//! **Non-goals.** No sampling, no log output, no cross-thread aggregation: one recording is one job on one thread.

mod cost;
mod recorder;

pub use cost::{Cost, Counter, Mismatch};
pub use recorder::{
    Operator, Recording, Span, SpanGuard, SpanKind, count, operator, primitive, record,
};

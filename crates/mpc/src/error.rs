//! What can go wrong between two parties.

use crate::role::Role;
use std::time::Duration;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the two-party engine. No variant carries a share, a mask or anything derived from one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes of two operands, or of an operand and an operator, do not fit.
    #[error("{op}: expected shape {expected}, got {got}")]
    Shape {
        /// The operator.
        op: &'static str,
        /// What it takes.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// Two operands have different scales.
    #[error("{op}: scales 2^{lhs} and 2^{rhs} differ; multiply one by a power of two first")]
    Scale {
        /// The operator.
        op: &'static str,
        /// Fraction bits of the first operand.
        lhs: u32,
        /// Fraction bits of the second operand.
        rhs: u32,
    },
    /// A value may not fit its ring.
    #[error(
        "{op}: |x| < 2^{bound:.2} at scale 2^{scale} needs {needed} bits but the ring has {ring}; calibrate a smaller bound or truncate earlier"
    )]
    Range {
        /// The operator.
        op: &'static str,
        /// log2 of the bound on the real value.
        bound: f64,
        /// Fraction bits.
        scale: u32,
        /// Bits needed.
        needed: u32,
        /// Valid bits.
        ring: u32,
    },
    /// A parameter of a gate is outside what it supports.
    #[error("{op}: {detail}")]
    Unsupported {
        /// The operator.
        op: &'static str,
        /// What is wrong, and what would be right.
        detail: String,
    },
    /// An input or a weight is missing, or there is one too many.
    #[error("{what} {index}: {detail}")]
    Input {
        /// `input` or `weight`.
        what: &'static str,
        /// Its position in the plan.
        index: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// The peer sent nothing within the deadline.
    #[error(
        "no {what} from the peer within {after:?}; the session is dead, start a new one with new correlations"
    )]
    Timeout {
        /// What was awaited.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The connection ended.
    #[error(
        "the peer is gone while waiting for {what}; the session is dead, start a new one with new correlations"
    )]
    Disconnected {
        /// What was awaited or sent.
        what: &'static str,
    },
    /// A frame is not the one the plan calls for.
    #[error(
        "frame of step {step}: {what} is {got}, expected {expected}; the parties are out of step or the frame is not the peer's"
    )]
    Frame {
        /// Step of the plan.
        step: u32,
        /// Field of the frame.
        what: &'static str,
        /// What the plan says.
        expected: u64,
        /// What the frame says.
        got: u64,
    },
    /// A frame's contents are not what its sender wrote.
    #[error("frame of step {step}: the checksum does not match its contents")]
    Garbled {
        /// Step of the plan.
        step: u32,
    },
    /// The peer runs something else.
    #[error("the peer has another {what}: {theirs} instead of {ours}; nothing was shared")]
    Peer {
        /// Plan, version, role, correlations.
        what: &'static str,
        /// This party's value.
        ours: String,
        /// The peer's value.
        theirs: String,
    },
    /// A session that failed, or that has run, was used again.
    #[error("this {role} session has ended; start a new one with new correlations")]
    Ended {
        /// This party.
        role: Role,
    },
    /// No correlations are left.
    #[error("correlations are used up after {used} runs; run `deal` again")]
    Exhausted {
        /// How many have been used.
        used: usize,
    },
    /// Replies of encrypted products have hidden the weights as often as their flooding allows.
    #[error(
        "the flooding of encrypted products hides the weights in {runs} runs of this plan and no more; use a dealer, or pair again knowing that the bound is then passed"
    )]
    Flooding {
        /// Runs that were served.
        runs: u64,
    },
    /// Correlations that were used before.
    #[error("correlations in {path} were used before; run `deal` again")]
    Spent {
        /// The file.
        path: String,
    },
    /// A mask that has hidden other weights: the client would learn their difference.
    #[error(
        "the weight mask in {directory} has hidden other weights; run `deal` into an empty directory for this model"
    )]
    MaskUsed {
        /// The store.
        directory: String,
    },
    /// Bytes that are not what they should be.
    #[error("malformed {what}: {detail}")]
    Malformed {
        /// File or message.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The secure channel could not be set up, or broke.
    #[error("secure channel: {detail}")]
    Tls {
        /// What went wrong.
        detail: String,
    },
}

//! What can go wrong.

use crate::basis::Limbs;
use crate::device::Device;
use std::borrow::Cow;

/// The errors of this crate. Messages name numbers, never residues.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A modulus that this crate cannot work with.
    #[error("invalid modulus {value}: {reason}")]
    InvalidModulus {
        /// The offending value.
        value: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Primes, degree and digits that do not fit together.
    #[error("invalid basis: {detail}")]
    InvalidBasis {
        /// What is wrong.
        detail: String,
    },
    /// A device that this build or machine does not have.
    #[error("device `{name}` is not available: {reason}")]
    DeviceUnavailable {
        /// The name that was asked for.
        name: String,
        /// Why it cannot be had and what can.
        reason: Cow<'static, str>,
    },
    /// A device that failed, now or in work asked for earlier. What was computed on it since the last result was read
    /// is lost.
    #[error("{op}: device {device} failed: {detail}")]
    DeviceFailure {
        /// What was asked for when the failure was noticed.
        op: &'static str,
        /// The device.
        device: String,
        /// The driver's words.
        detail: String,
    },
    /// Not enough memory on a device.
    #[error(
        "{device} has no {needed} bytes left: {free} of {total} are free, {held} are held by this process; \
         use fewer keys, smaller batches or a smaller parameter set"
    )]
    DeviceMemory {
        /// The device.
        device: String,
        /// Bytes that were asked for.
        needed: usize,
        /// Bytes that are free.
        free: usize,
        /// Bytes that polynomials and tables of this process hold.
        held: usize,
        /// Bytes that the device has.
        total: usize,
    },
    /// Operands that live on different devices.
    #[error("{op}: operands live on {lhs} and {rhs}, make both with one ring")]
    DeviceMismatch {
        /// The operation.
        op: &'static str,
        /// Device of the left operand.
        lhs: Device,
        /// Device of the right operand.
        rhs: Device,
    },
    /// Operands over different bases.
    #[error("{op}: operands belong to rings over different bases")]
    RingMismatch {
        /// The operation.
        op: &'static str,
    },
    /// An operand without the limbs that the operation needs.
    #[error("{op}: {needed} limbs needed, operand has {got}")]
    LimbMismatch {
        /// The operation.
        op: &'static str,
        /// Limbs that are needed.
        needed: Limbs,
        /// Limbs that are there.
        got: Limbs,
    },
    /// A slice of the wrong length.
    #[error("{what}: expected {expected} elements, got {got}")]
    LengthMismatch {
        /// What the slice holds.
        what: &'static str,
        /// The length that is needed.
        expected: usize,
        /// The length that was passed.
        got: usize,
    },
    /// A residue that is not below its prime.
    #[error("residue {index} of limb {limb} is not below its prime {modulus}")]
    NotCanonical {
        /// Row of the residue.
        limb: usize,
        /// Index inside the row.
        index: usize,
        /// The prime of that row.
        modulus: u64,
    },
    /// An element without an inverse.
    #[error("{value} has no inverse modulo {modulus}")]
    NoInverse {
        /// The element.
        value: u64,
        /// The prime.
        modulus: u64,
    },
    /// An exponent that is not an automorphism of the ring.
    #[error("{element} is not a Galois element of degree {n}: it must be odd and below {}", 2 * n)]
    InvalidGaloisElement {
        /// The exponent.
        element: u64,
        /// The ring's degree.
        n: usize,
    },
    /// A key with fewer digits than the decomposed polynomial.
    #[error("the key holds {got} digits, the decomposed polynomial {needed}")]
    MissingDigits {
        /// Digits of the polynomial.
        needed: usize,
        /// Digits of the key.
        got: usize,
    },
}

/// `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

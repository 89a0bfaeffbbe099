//! Products.

use super::{SCALE, lift_to};
use crate::circuit::{Builder, Share, Weight};
use crate::error::Result;

/// `x y`, both shared, `[.., m, k]` by `[.., k, n]`. Error below 1 unit of 2^-16 plus the inputs' own rounding.
///
/// 1. Open both.
/// 2. Product of masked values.
/// 3. Open and lift.
///
/// 2 rounds, 8 (mk + kn + mn) bytes each.
///
/// # Errors
/// [`crate::Error::Shape`], [`crate::Error::Range`].
pub fn matmul(b: &mut Builder, x: Share, y: Share) -> Result<Share> {
    let (x, y) = (b.open(x)?, b.open(y)?);
    let z = b.matmul(x, y)?;
    lift_to(b, z, SCALE)
}

/// `x y`, element by element, both shared. As [`matmul`]; 24 bytes an element each.
///
/// # Errors
/// [`crate::Error::Shape`], [`crate::Error::Range`].
pub fn multiply(b: &mut Builder, x: Share, y: Share) -> Result<Share> {
    let (x, y) = (b.open(x)?, b.open(y)?);
    let z = b.mul(x, y)?;
    lift_to(b, z, SCALE)
}

/// `x W`, the matrix at the server; `bound` is the log2 of a bound on the result.
///
/// 1. The client sends its share minus a mask whose product with the matrix is prepared.
/// 2. Open and lift.
///
/// 2 rounds; the server sends 8mn bytes, the client 8mk + 8mn.
///
/// # Errors
/// [`crate::Error::Shape`], [`crate::Error::Range`].
pub fn linear(b: &mut Builder, x: Share, weight: Weight, bound: f64) -> Result<Share> {
    let y = b.linear(x, weight, bound)?;
    lift_to(b, y, SCALE)
}

//! When levels and scales count as equal, and the integer that brings a scale to that of a lower level.

use crate::error::{Error, Result};
use crate::params::Parameters;

/// Scales are equal if they differ by less than this, relatively: 2^-40, far above the rounding of a chain of f64
/// operations and far below the noise of any set.
const SCALE_TOLERANCE: f64 = 1.0 / (1u64 << 40) as f64;

/// Smallest integer that aligns a scale: below, its rounding would show in the value.
const MIN_ALIGNMENT: f64 = (1u64 << 16) as f64;

/// The integer by which `set_level` multiplies before its rescaling; `None` if there is nothing to do.
pub(crate) fn alignment(
    params: &Parameters,
    from: usize,
    scale: f64,
    to: usize,
) -> Result<Option<f64>> {
    const OP: &str = "set_level";
    let target = params.scale_at(to);
    if to > from {
        return Err(Error::LevelTooHigh { op: OP, level: to, max: from });
    }
    if to == from {
        check_scales(OP, scale, target)?;
        return Ok(None);
    }
    let factor = (target * params.modulus_at(to + 1) as f64 / scale).round();
    if (MIN_ALIGNMENT..2f64.powi(126)).contains(&factor) {
        Ok(Some(factor))
    } else {
        Err(Error::InvalidScale { op: OP, scale })
    }
}

pub(crate) fn check_levels(op: &'static str, lhs: usize, rhs: usize) -> Result<()> {
    if lhs == rhs { Ok(()) } else { Err(Error::LevelMismatch { op, lhs, rhs }) }
}

pub(crate) fn check_scales(op: &'static str, lhs: f64, rhs: f64) -> Result<()> {
    if (lhs - rhs).abs() <= SCALE_TOLERANCE * lhs.abs() {
        Ok(())
    } else {
        Err(Error::ScaleMismatch { op, lhs_log2: lhs.log2(), rhs_log2: rhs.log2() })
    }
}

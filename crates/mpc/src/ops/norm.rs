//! Layer normalisation.

use super::{SCALE, lift_to};
use crate::circuit::{Builder, Knots, Share, View};
use crate::error::Result;

/// Fraction bits of 1/sigma.
const INVERSE: u32 = 13;

/// `1/sqrt(v 2^floor(log2 d) / d)` on v in [2^-8, 2^7): 16 lines an octave, input scale 20, output scale 44.
pub(crate) fn rsqrt_knots(d: usize) -> Result<Knots> {
    let unit = (d.max(1).ilog2() as f64).exp2() / d.max(1) as f64;
    Knots::fit(|v| (v * unit).powf(-0.5), (2f64.powi(-8), 2f64.powi(7)), 16, (28, 20), 44)
}

/// Mean over the last axis. Exact, at log2 d more fraction bits, when its length d is a power of two; otherwise at 12 more bits with a
/// relative error of 2^-12.
///
/// # Errors
/// None for shapes with at least one axis.
pub fn row_mean(b: &mut Builder, x: Share) -> Result<Share> {
    let d = b.shape(x).last().copied().unwrap_or(1).max(1);
    let sum = b.sum_last(x);
    let octave = d.ilog2() as i32;
    if d.is_power_of_two() {
        return b.relabel(sum, -octave);
    }
    let factor = 2f64.powi(12 + octave) / d as f64;
    let sum = b.times(sum, factor.round() as i64);
    b.relabel(sum, -12 - octave)
}

/// `(x - mean) / sigma` at the scale of x plus 13, not truncated. 4 rounds, 8 T d + 24 T bytes each.
///
/// 1. Open `u = x - mean`.
/// 2. Sum of squares; open it; rsqrt by knots.
/// 3. Open and lift to scale 13.
/// 4. Open 1/sigma; product with u. `eps` is added to the variance, which must stay in [2^-8, 2^7);
///    |u| < 16.
///
/// # Errors
/// [`crate::Error::Range`], [`crate::Error::Scale`].
pub(crate) fn normalise(b: &mut Builder, x: Share, mean: Share, eps: f64) -> Result<Share> {
    let axis = b.shape(x).len() - 1;
    let (d, rows) = (b.shape(x)[axis], b.shape(mean).to_vec());
    let mean = b.view(mean, View::of(&rows).broadcast(axis, d)?)?;
    let u = b.sub(x, mean)?;
    let u = b.calibrate(u, 4.0);
    normalise_centred(b, u, eps)
}

/// `x / sqrt(mean x^2 + eps)` over the last axis, for rows whose mean is zero: at the scale of x plus 13, not truncated. As
/// the normalisation of [`layer_norm`] without its last round.
///
/// # Errors
/// [`crate::Error::Range`], [`crate::Error::Scale`].
pub fn normalise_centred(b: &mut Builder, u: Share, eps: f64) -> Result<Share> {
    let mut rows = b.shape(u).to_vec();
    let axis = rows.len() - 1;
    let d = std::mem::replace(&mut rows[axis], 1);
    let u = b.open(u)?;
    let v = b.sum_squares(u);
    let v = b.relabel(v, -(d.ilog2() as i32))?;
    let v = b.calibrate(v, 6.9);
    let unit = d as f64 / (d.ilog2() as f64).exp2();
    let v = b.add_public(v, eps * unit);
    let v = b.calibrate(v, 7.0);
    let v = b.open(v)?;
    let inverse = b.knots(v, &rsqrt_knots(d)?)?;
    let inverse = lift_to(b, inverse, INVERSE)?;
    let inverse = b.open(inverse)?;
    let inverse = b.view(inverse, View::of(&rows).broadcast(axis, d)?)?;
    let z = b.mul(u, inverse)?;
    // |z| <= sqrt(d), whatever the row.
    Ok(b.calibrate(z, (d as f64).log2() / 2.0))
}

/// Layer normalisation over the last axis without affine part (it belongs into the next product), stand-alone at [`SCALE`]. 5 rounds, 16 T d + 24 T
/// bytes each. Error at most 2e-4 |z| + 2^-13 |u| + 2^-16, z the result.
///
/// # Errors
/// [`crate::Error::Range`].
pub fn layer_norm(b: &mut Builder, x: Share, eps: f64) -> Result<Share> {
    let mean = row_mean(b, x)?;
    let more = b.scale(mean) - b.scale(x);
    let x = b.raise_scale(x, more);
    let z = normalise(b, x, mean, eps)?;
    lift_to(b, z, SCALE)
}

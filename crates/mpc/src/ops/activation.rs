//! Element-wise functions.

use super::{SCALE, lift_to, max_table, reciprocal_knots, rsqrt_knots};
use crate::circuit::{Builder, Masked, Share, Table};
use crate::error::Result;

/// What stands between the two products of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x Phi(x)`, by a table.
    Gelu,
    /// `max(x, 0)`, by a comparison.
    Relu,
    /// `x^2`: a learned `a x^2 + b x + c` after completing the square, whose coefficients live in the weights around it.
    Square,
    /// `x`: an activation that a search has removed. The products around it are one matrix.
    Identity,
}

/// The error function: its Maclaurin series below 3, the continued fraction of erfc above. Good to 1e-10, far below a table's 1e-4.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum) = (a, a);
        let mut n = 0.0;
        while term.abs() > 1e-17 * sum {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let tail = (1..=60).rev().fold(0.0, |f, k| k as f64 / 2.0 / (a + f));
        1.0 - (-a * a).exp() / (a + tail) / std::f64::consts::PI.sqrt()
    };
    if x < 0.0 { -value } else { value }
}

/// An activation in f64; `quadratic` is `[c, b, a]`.
pub(crate) fn activation_f64(kind: Activation, quadratic: [f64; 3], x: f64) -> f64 {
    match kind {
        Activation::Gelu => gelu(x),
        Activation::Relu => x.max(0.0),
        Activation::Square => quadratic[0] + x * (quadratic[1] + x * quadratic[2]),
        Activation::Identity => x,
    }
}

/// `x Phi(x)` in f64, good to 1e-10.
#[must_use]
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// GELU on [-32, 32): 512 knots 1/8 apart, degree 2, input scale 15, output scale 38; 0 and x from 4.25 on, where GELU is within 4.6e-5 of them.
/// Largest error 1.1e-4.
///
/// # Errors
/// None: the sizes are valid.
pub fn gelu_table() -> Result<Table> {
    let table = Table::fit(gelu, (21, 15), 9, 2, 38)?;
    // A knot's piece reaches one knot further on both sides.
    Ok(table.with_tails([-4.375, 4.375], [[0.0, 0.0], [0.0, 1.0]]))
}

/// An activation of a masked value, at the scale its gate gives: GELU 38, square 28, ReLU 14. No round. Needs |x| < 32.
///
/// # Errors
/// [`crate::Error::Range`], [`crate::Error::Scale`] below the gate's scale; [`crate::Error::Unsupported`] for the identity.
pub fn gate(b: &mut Builder, x: Masked, kind: Activation) -> Result<Share> {
    match kind {
        Activation::Gelu => {
            let table = gelu_table()?;
            b.table(x, &table)
        }
        Activation::Square => {
            let drop = b.scale(x).saturating_sub(14);
            b.power(x, drop, 21, 2)
        }
        Activation::Relu => {
            let drop = b.scale(x).saturating_sub(14);
            b.relu(x, drop, 20)
        }
        Activation::Identity => Err(crate::Error::Unsupported {
            op: "activation",
            detail: "the identity needs no gate; fuse the products around it".into(),
        }),
    }
}

/// GELU or `x^2`, stand-alone, for |x| < 32 (ReLU as [`relu`]; the identity costs nothing):
///
/// 1. open;
/// 2. the gate;
/// 3. open and lift.
///
/// 2 rounds, 16 bytes an element each. GELU's error is at most 1.2e-4; `x^2`'s |x| 2^-13 + 2^-16.
///
/// # Errors
/// [`crate::Error::Range`].
pub fn activation(b: &mut Builder, x: Share, kind: Activation) -> Result<Share> {
    let x = b.calibrate(x, 5.0);
    match kind {
        Activation::Identity => return Ok(x),
        Activation::Relu => return relu(b, x, 5),
        Activation::Gelu | Activation::Square => {}
    }
    let m = b.open(x)?;
    let y = gate(b, m, kind)?;
    lift_to(b, y, SCALE)
}

/// `max(x, 0)` for |x| < 2^log2:
///
/// 1. open;
/// 2. the comparison gate.
///
/// 1 round, 8 bytes an element each. Exact.
///
/// # Errors
/// [`crate::Error::Range`].
pub fn relu(b: &mut Builder, x: Share, log2: u32) -> Result<Share> {
    let x = b.calibrate(x, log2 as f64);
    let bits = log2 + b.scale(x) + 1;
    let m = b.open(x)?;
    b.relu(m, 0, bits)
}

/// `k2 x^2 + k1 x + k0` with public coefficients, `|x + k1 / (2 k2)| < 32`, by completing the square: cost of [`activation`]. Error at
/// most `|k2| (|x| + |k1 / 2 k2|) 2^-13 + |k2 x^2| 2^-12 + 2^-16`.
///
/// # Errors
/// [`crate::Error::Unsupported`] for a leading coefficient below 2^-8 or above 2^8; [`crate::Error::Range`].
pub fn quadratic(b: &mut Builder, x: Share, k: [f64; 3]) -> Result<Share> {
    let [k0, k1, k2] = k;
    if !(2f64.powi(-8)..=2f64.powi(8)).contains(&k2.abs()) {
        let detail = format!("leading coefficient {k2} is outside 2^-8..2^8");
        return Err(crate::Error::Unsupported { op: "quadratic", detail });
    }
    let shift = k1 / (2.0 * k2);
    let x = b.add_public(x, shift);
    let x = b.calibrate(x, 5.0);
    let m = b.open(x)?;
    let square = gate(b, m, Activation::Square)?;
    // The coefficient as an integer of 12 bits and a power of two.
    let exponent = k2.abs().log2().floor() as i32;
    let integer = (k2 * 2f64.powi(12 - exponent)).round() as i64;
    let scaled = b.times(square, integer);
    let scaled = b.relabel(scaled, exponent - 12)?;
    let y = lift_to(b, scaled, SCALE)?;
    Ok(b.add_public(y, k0 - k1 * shift / 2.0))
}

/// `exp(x)` for x in [-32, 0.5):
///
/// 1. open;
/// 2. table with 1024 knots;
/// 3. open and lift.
///
/// 2 rounds, 16 bytes an element each. Input at scale 11; error at most 1.5e-3 (half a unit of the
/// input and the fit).
///
/// # Errors
/// [`crate::Error::Range`].
pub fn exp(b: &mut Builder, x: Share) -> Result<Share> {
    let x = b.calibrate(x, 5.0);
    let m = b.open(x)?;
    let table = max_table()?;
    let y = b.table(m, &table)?;
    lift_to(b, y, SCALE)
}

/// `1/x` for x in [2^-6, 2^9):
///
/// 1. open;
/// 2. lines between 240 knots;
/// 3. open and lift.
///
/// 2 rounds, 16 bytes an element each. Input at scale 13; relative error at most 2.5e-4 + 2^-13 / x
/// (one unit of the input), and one unit of 2^-16.
///
/// # Errors
/// [`crate::Error::Range`].
pub fn reciprocal(b: &mut Builder, x: Share) -> Result<Share> {
    let x = b.calibrate(x, 9.0);
    let m = b.open(x)?;
    let knots = reciprocal_knots()?;
    let y = b.knots(m, &knots)?;
    lift_to(b, y, SCALE)
}

/// `1/sqrt(x)` for x in [2^-8, 2^7), at scale 20 or more: as [`reciprocal`]. Relative error at most 1e-4 + 2^-21 / x, and one unit of
/// 2^-16.
///
/// # Errors
/// [`crate::Error::Range`], [`crate::Error::Scale`].
pub fn rsqrt(b: &mut Builder, x: Share) -> Result<Share> {
    let x = b.calibrate(x, 7.0);
    let m = b.open(x)?;
    let knots = rsqrt_knots(1)?;
    let y = b.knots(m, &knots)?;
    lift_to(b, y, SCALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_against_tabulated_values() {
        // Abramowitz and Stegun, table 7.1 (10 digits), and erfc(4) = 1.541725790e-8.
        for (x, want) in [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(x) - want).abs() < 5e-11 && (erf(-x) + want).abs() < 5e-11, "{x}");
        }
        assert!((1.0 - erf(4.0) - 1.541_725_790e-8).abs() < 1e-15);
        assert!((erf(2.999_999) - erf(3.000_001)).abs() < 1e-8);
    }
}

//! Row maxima, and the normalised attentions: exp, centred exp, ReLU and powers over their row sum.

use super::{SCALE, lift_to, reshape};
use crate::circuit::{Builder, Knots, Share, Table, View};
use crate::error::{Error, Result};

/// How a head turns scores into weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attention {
    /// `exp(s - max s)`, the maximum computed.
    SoftmaxMax,
    /// `exp(s - mean s)`: the same function inside the calibrated range, without the maximum; saturates at exp(9).
    SoftmaxCentred,
    /// `max(s, 0)`.
    ReluSoftmax,
    /// `s^p`, p = 2, 4, 6, 8.
    Power(u32),
    /// No normalisation: `s / tokens`.
    Scale,
}

/// Fraction bits of scores before exp and powers, of weights before their normalisation.
pub(crate) const SCORE: u32 = 11;
pub(crate) const WEIGHT: u32 = 13;

/// `exp(min(y, limit) unit)` on [-32, 32): 1024 knots 1/16 apart, degree 2, input scale 11, output scale 28; 0 below exp(-12) = 6.1e-6.
pub(crate) fn exp_table(limit: f64, unit: f64) -> Result<Table> {
    let table = Table::fit(|y| (y.min(limit) * unit).exp(), (17, SCORE), 10, 2, 28)?;
    let core = [-12.0 / unit, limit + 1.0 / 16.0];
    Ok(table.with_tails(core, [[0.0, 0.0], [(limit * unit).exp(), 0.0]]))
}

/// The table for scores minus their maximum.
pub(crate) fn max_table() -> Result<Table> {
    exp_table(0.5, 1.0)
}

/// 1/x on [2^-6, 2^9): 16 lines an octave, input scale 13, output scale 36.
pub(crate) fn reciprocal_knots() -> Result<Knots> {
    Knots::fit(|x| 1.0 / x, (2f64.powi(-6), 2f64.powi(9)), 16, (23, WEIGHT), 36)
}

/// The maximum of every row (last axis, which becomes 1), by a tournament: ceil(log2 T) times
///
/// 1. open the differences;
/// 2. `max(a, b) = b + max(a - b, 0)`. 8 (T - 1) bytes a row each. Exact. Needs |x| < 2^4 at scale
///    11.
///
/// # Errors
/// [`crate::Error::Range`].
pub fn row_max(b: &mut Builder, x: Share) -> Result<Share> {
    let mut current = b.calibrate(x, 4.0);
    loop {
        let shape = b.shape(current).to_vec();
        let axis = shape.len().saturating_sub(1);
        let n = shape.last().copied().unwrap_or(1);
        if n <= 1 {
            return Ok(current);
        }
        let half = n / 2;
        let mut part = |from, to| b.view(current, View::of(&shape).slice(axis, from, to)?);
        let (left, right, rest) = (part(0, half)?, part(half, 2 * half)?, part(2 * half, n)?);
        let difference = b.sub(left, right)?;
        let m = b.open(difference)?;
        let bits = b.scale(m) + 6;
        let positive = b.relu(m, 0, bits)?;
        let winner = b.add(positive, right)?;
        let winner = b.calibrate(winner, 4.0);
        current = if n % 2 == 1 { b.concat(&[winner, rest], axis)? } else { winner };
    }
}

/// Repeats a row value along the last axis.
pub(crate) fn along(b: &mut Builder, x: Share, len: usize) -> Result<Share> {
    let shape = b.shape(x).to_vec();
    b.view(x, View::of(&shape).broadcast(shape.len() - 1, len)?)
}

/// Scores to weights that are not normalised yet, at scale 13, and the log2 of the bound on a weight. `s` is shared in whatever ring and
/// scale the product left it.
///
/// * ReLU: open, comparison gate. 1 round.
/// * Power: open, power gate (p = 6, 8: of the square, opened again), open and lift. 2 rounds (3).
/// * Centred: `T s - sum s`, open, table, open and lift. 2 rounds.
/// * Max: open and lift, tournament, as centred. 3 + ceil(log2 T) rounds.
///
/// `score` is the log2 of the bound on a power's scores.
pub(crate) fn weights(b: &mut Builder, s: Share, kind: Attention, score: u32) -> Result<Share> {
    let tokens = b.shape(s).last().copied().unwrap_or(1);
    match kind {
        Attention::ReluSoftmax => {
            let m = b.open(s)?;
            let drop = b.scale(m).saturating_sub(WEIGHT);
            b.relu(m, drop, 19)
        }
        Attention::Power(p) => {
            let s = b.calibrate(s, score as f64);
            let m = b.open(s)?;
            let drop = b.scale(m).saturating_sub(SCORE + 4 - score.clamp(3, 6));
            let powered = match p {
                2 | 4 => {
                    let x = b.power(m, drop, 17, p)?;
                    b.relabel(x, -(p as i32))?
                }
                6 | 8 => {
                    // (s/4)^2 < 1 for |s| < 4, and (s/4)^p from it in one more opening.
                    let square = b.power(m, drop, 17, 2)?;
                    let square = b.relabel(square, -4)?;
                    let m = b.open(square)?;
                    let scale = if p == 6 { 14 } else { 10 };
                    let drop = b.scale(m) - scale;
                    b.power(m, drop, scale + 6, p / 2)?
                }
                _ => {
                    let detail = format!("power {p}; 2, 4, 6 and 8 exist");
                    return Err(Error::Unsupported { op: "power softmax", detail });
                }
            };
            let powered = b.calibrate(powered, 9.0);
            lift_to(b, powered, WEIGHT)
        }
        Attention::SoftmaxCentred => {
            let octave = tokens.ilog2();
            let unit = tokens as f64 / (octave as f64).exp2();
            let sum = b.sum_last(s);
            let sum = along(b, sum, tokens)?;
            let many = b.times(s, tokens as i64);
            let centred = b.sub(many, sum)?;
            let centred = b.relabel(centred, -(octave as i32))?;
            let centred = b.calibrate(centred, 5.0);
            let m = b.open(centred)?;
            let table = exp_table(9.0, 1.0 / unit)?;
            let p = b.table(m, &table)?;
            lift_to(b, p, WEIGHT)
        }
        Attention::SoftmaxMax => {
            let s = lift_to(b, s, SCORE)?;
            let max = row_max(b, s)?;
            let max = along(b, max, tokens)?;
            let below = b.sub(s, max)?;
            let m = b.open(below)?;
            let table = max_table()?;
            let p = b.table(m, &table)?;
            lift_to(b, p, WEIGHT)
        }
        Attention::Scale => Err(Error::Unsupported {
            op: "softmax",
            detail: "scaled attention has no weights of its own; multiply instead".into(),
        }),
    }
}

/// Row sum plus `eps`, and its place in the range of the reciprocal.
pub(crate) fn denominator(b: &mut Builder, weights: Share, kind: Attention, eps: f64) -> Share {
    let sum = b.sum_last(weights);
    let sum = match kind {
        Attention::ReluSoftmax | Attention::Power(_) => b.add_public(sum, eps),
        _ => sum,
    };
    b.calibrate(sum, 9.0)
}

/// Rows of weights that sum to about 1, stand-alone, `[.., T]` at [`SCALE`].
///
/// 1. Scores to weights, as at the top of this module.
/// 2. Open weights and row sums; reciprocal of the row sums by knots.
/// 3. Open and lift the reciprocal.
/// 4. Open it, one product.
/// 5. Open and lift. With R rows of T: ReLU 5 rounds, 24RT + 24R bytes each; power (2, 4) and
///    centred 6 rounds, 32RT + 24R; power (6, 8) 7 rounds, 40RT + 24R; max 7 + ceil(log2 T) rounds,
///    8R(T-1) + 40RT + 24R.
///
/// `eps` is added to the row sums of ReLU and powers; the functions are `max(s,0)`, `(s/2)^p` for p = 2, 4 and `(s/4)^p` for p = 6, 8, over their sum plus eps. Largest error for
/// scores of standard deviation 1.5, T = 65: ReLU 1e-4, power 2 2e-4, power 4 1e-3, centred 2e-3, max 6e-3 (rows that hold one weight near 1; the scores have 11 fraction bits).
/// Row sums must stay in [2^-6, 2^9).
///
/// # Errors
/// [`crate::Error::Range`]; [`Error::Unsupported`] for [`Attention::Scale`].
pub fn softmax(b: &mut Builder, s: Share, kind: Attention, eps: f64) -> Result<Share> {
    let shape = b.shape(s).to_vec();
    let tokens = shape.last().copied().unwrap_or(1);
    let s = b.calibrate(s, if matches!(kind, Attention::ReluSoftmax) { 5.0 } else { 4.0 });
    let p = weights(b, s, kind, 4)?;
    let sum = denominator(b, p, kind, eps);
    let (p, sum) = (b.open(p)?, b.open(sum)?);
    let inverse = b.knots(sum, &reciprocal_knots()?)?;
    let inverse = lift_to(b, inverse, SCALE)?;
    let inverse = b.open(inverse)?;
    let inverse = b.view(
        inverse,
        View::of(&[shape.iter().product::<usize>() / tokens, 1]).broadcast(1, tokens)?,
    )?;
    let inverse = b.view(inverse, View::of(&shape))?;
    let out = b.mul(p, inverse)?;
    let out = b.calibrate(out, 1.0);
    let out = lift_to(b, out, SCALE)?;
    reshape(b, out, &shape)
}

//! The label, and nothing else.

use crate::circuit::{Builder, Share, Table, View};
use crate::error::{Error, Result};

/// Index of the largest of at most 15 values (the smaller index among equals), scale 0, as one shared number.
///
/// 1. Open all differences `x_i - x_j`, i < j; sign gate: `b_ij = 1[x_i >= x_j]`.
/// 2. `wins_i` = sum of `b_ij` and of `1 - b_ji`; the maximum has n - 1. Open the wins, one byte
///    each; a table turns `wins = n - 1` into 1.
/// 3. The sum of `i 1[..]` is the index.
///
/// 2 rounds, 8 n(n-1)/2 + n bytes each. Exact up to differences of 2^-11, where either may win.
/// Needs |x_i - x_j| < 64: twice the largest logit that a model's plan allows. Nothing but the result should be revealed.
///
/// # Errors
/// [`Error::Unsupported`] outside 2..=15 values; [`Error::Range`].
pub fn argmax(b: &mut Builder, x: Share) -> Result<Share> {
    let n = b.shape(x).iter().product::<usize>();
    if !(2..=15).contains(&n) {
        let detail = format!("{n} values; the wins take 4 bits, so 2 to 15");
        return Err(Error::Unsupported { op: "argmax", detail });
    }
    let x = b.view(x, View::of(&[n]))?;
    let slice =
        |b: &mut Builder, from: usize, to: usize| b.view(x, View::of(&[n]).slice(0, from, to)?);
    let mut left = Vec::new();
    let mut right = Vec::new();
    for i in 0..n - 1 {
        let one = slice(b, i, i + 1)?;
        left.push(b.view(one, View::of(&[1]).broadcast(0, n - 1 - i)?)?);
        right.push(slice(b, i + 1, n)?);
    }
    let (left, right) = (b.concat(&left, 0)?, b.concat(&right, 0)?);
    let difference = b.sub(left, right)?;
    let difference = b.calibrate(difference, 6.0);
    let m = b.open(difference)?;
    let drop = b.scale(m).saturating_sub(11);
    let bits = b.scale(m) - drop + 7;
    let wins_of_pair = b.sign(m, drop, bits)?;
    let mut wins = Vec::new();
    let first = |i: usize| i * n - i * (i + 1) / 2; // pairs (i', j) with i' < i come first
    for i in 0..n {
        let mut terms = Vec::new();
        for j in 0..n {
            let (low, high) = (i.min(j), i.max(j));
            if low == high {
                continue;
            }
            let at = first(low) + high - low - 1;
            let bit = b.view(wins_of_pair, View::of(&[n * (n - 1) / 2]).slice(0, at, at + 1)?)?;
            terms.push(if i < j { bit } else { b.times(bit, -1) });
        }
        let terms = b.concat(&terms, 0)?;
        let sum = b.sum_last(terms);
        wins.push(b.add_public(sum, i as f64)); // one for each 1 - b_ji
    }
    let wins = b.concat(&wins, 0)?;
    let wins = b.calibrate(wins, 3.9);
    let wins = b.narrow(wins, 8)?;
    let m = b.open(wins)?;
    let champion = b.table(m, &Table::equals(n as u64 - 1, 5)?)?;
    let mut indices = Vec::new();
    for i in 1..n {
        let one = b.view(champion, View::of(&[n]).slice(0, i, i + 1)?)?;
        indices.push(b.times(one, i as i64));
    }
    let indices = b.concat(&indices, 0)?;
    let index = b.sum_last(indices);
    Ok(b.calibrate(index, 4.0))
}

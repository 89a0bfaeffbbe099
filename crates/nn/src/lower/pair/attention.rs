//! Attention over all heads of a group at once: scores and values are sums of products of two ciphertexts, moved against
//! each other along features and tokens.

use super::{HeadGroup, Pair};
use crate::error::Result;
use crate::program::Register;
use std::collections::BTreeMap;

/// Baby steps along features of the scores, and of the values.
const SCORE_STEPS: i64 = 16;
const VALUE_STEPS: i64 = 8;

/// Ways in which the token shift of a value product is split between its two sides.
const VALUE_SIDES: i64 = 2;

impl Pair {
    /// `y[t, (i, h)] = x[(t + i) mod rows, (i, h)]`: each feature index moves by its own number of tokens. Moves by tokens
    /// are exact, so this is a matrix product over token shifts with masks of one row. One level.
    pub(super) fn skew(&mut self, x: Register, group: &HeadGroup) -> Result<Register> {
        let rows = self.p.rows as i64;
        let steps = VALUE_STEPS.min(rows);
        let amounts: Vec<i64> = (0..steps).map(|b| self.p.shift(0, b)).collect();
        let babies = self.versions(x, &amounts);
        let mut terms = Vec::new();
        for giant in (0..rows).step_by(steps as usize) {
            let (mut registers, mut masks) = (Vec::new(), Vec::new());
            for (b, &baby) in babies.iter().enumerate() {
                let token = giant as usize + b;
                let indices = (token..group.head_width).step_by(self.p.rows);
                let slots: Vec<i64> = indices
                    .flat_map(|i| (0..group.heads).map(move |h| group.slot(i, h) as i64))
                    .collect();
                if !slots.is_empty() {
                    registers.push(baby);
                    masks.push(self.mask(slots));
                }
            }
            if !registers.is_empty() {
                let inner = self.b.dot_plain(&registers, masks)?;
                terms.push((inner, self.p.shift(0, giant)));
            }
        }
        let sum = self.b.sum_rotated(&terms)?;
        self.b.rescale(sum)
    }

    /// Twice the real and twice the imaginary part of skewed keys or values: one ciphertext a half of the tokens, or both
    /// halves side by side.
    pub(super) fn halves(&mut self, x: Register, group: &HeadGroup) -> Result<Vec<Register>> {
        let (re, im) = self.b.split(x)?;
        if group.halves == 1 {
            return Ok(vec![re, im]);
        }
        let moved = self.b.rotate(im, self.p.shift(-(group.heads as i64), 0));
        Ok(vec![self.b.add(re, moved)?])
    }

    /// Scores of a group from complex queries and the halves of skewed keys:
    /// `s[t, (j, h)] = q_h[t] . k_h[(t + j) mod rows + half * rows]`, real part for token t, imaginary for token t + rows.
    /// One ciphertext for each of `keys`. Queries 2 levels (mask, product).
    ///
    /// `sum_i q[t, i] k~[t - ..]`: for the diagonals `d = i - j` in baby steps `b` of features and giant steps, the queries
    /// move by `(b, giant)` in features and tokens and the keys by `(b, -b)`; what a giant step gathers is moved back once.
    /// Only `rows` different versions of the queries are needed, since tokens are cyclic.
    pub(super) fn scores(
        &mut self,
        queries: Register,
        keys: &[Register],
        group: &HeadGroup,
    ) -> Result<Vec<Register>> {
        let (rows, width) = (self.p.rows as i64, group.head_width as i64);
        let (stride, all) = (group.stride() as i64, group.stride());
        let diagonals = 1 - rows..width;
        let place = |d: i64| (d.div_euclid(SCORE_STEPS), d.rem_euclid(SCORE_STEPS));
        let mut moves = BTreeMap::new();
        for d in diagonals.clone() {
            let (giant, b) = place(d);
            let tokens = (SCORE_STEPS * giant).rem_euclid(rows);
            moves.insert((b, tokens), self.p.shift(b * stride, tokens));
        }
        let amounts: Vec<i64> = moves.values().copied().collect();
        let versions = self.versions(queries, &amounts);
        let queries: BTreeMap<_, _> = moves.into_keys().zip(versions).collect();
        let amounts: Vec<i64> = (0..SCORE_STEPS).map(|b| self.p.shift(b * stride, -b)).collect();
        let level = self.b.level(keys[0]).min(self.b.level(queries[&(0, 0)]).saturating_sub(1));
        let mut moved_keys = Vec::with_capacity(keys.len());
        for &key in keys {
            let key = self.b.set_level(key, level, 1.0)?;
            moved_keys.push(self.versions(key, &amounts));
        }
        let mut sums: Vec<BTreeMap<i64, Option<Register>>> = vec![BTreeMap::new(); keys.len()];
        for d in diagonals {
            let (giant, b) = place(d);
            let shift = SCORE_STEPS * giant;
            // Key offsets j that this diagonal reaches.
            let reached = (0..rows).filter(|j| (0..width).contains(&(j + d)));
            let slots: Vec<i64> = reached
                .flat_map(|j| (0..all as i64).map(move |h| (j + shift) * stride + h))
                .collect();
            let mask = self.mask(slots);
            let version = queries[&(b, shift.rem_euclid(rows))];
            let version = self.b.set_level(version, level + 1, 1.0)?;
            let masked = self.b.mul_plain(version, mask)?;
            for (sums, moved) in sums.iter_mut().zip(&moved_keys) {
                let sum = sums.entry(giant).or_insert(None);
                self.accumulate(sum, masked, moved[b as usize])?;
            }
        }
        let mut scores = Vec::with_capacity(keys.len());
        for sums in sums {
            let terms = sums.into_iter().map(|(giant, sum)| {
                let shift = SCORE_STEPS * giant;
                (sum, self.p.shift(shift * stride, -shift))
            });
            let terms = terms.collect();
            scores.push(self.close_rotated(terms)?);
        }
        Ok(scores)
    }

    /// `o[t, (i, h)] = sum_j w[t, (j, h)] v_h[(t + j) mod rows + half * rows, i]`, summed over the halves, from complex weights
    /// and the halves of skewed values, one ciphertext of each for a half (or one for both). Valid at the slots of the
    /// group's first `heads`. Weights 1 level, values 2 (mask, product).
    ///
    /// `sources` are kinds of weights, each with what it counts for in each head of the group.
    pub(super) fn values(
        &mut self,
        sources: &[(Vec<Register>, Vec<f64>)],
        values: &[Register],
        group: &HeadGroup,
    ) -> Result<Register> {
        let (rows, width) = (self.p.rows as i64, group.head_width as i64);
        let stride = group.stride() as i64;
        let steps = VALUE_STEPS;
        let shifts = (rows / steps).max(1);
        let near = (shifts / VALUE_SIDES).max(1);
        // Diagonals d = j - i; the token shift of a giant step is split between the two factors.
        let place = |d: i64| {
            let (giant, b) = (d.div_euclid(steps), d.rem_euclid(steps));
            let turn = giant.rem_euclid(shifts);
            (giant, b, turn % near, steps * near * (turn / near))
        };
        let diagonals = 1 - width..rows;
        let level = values.iter().map(|&v| self.b.level(v).saturating_sub(1));
        let all = sources.iter().flat_map(|(weights, _)| weights);
        let level = level.chain(all.map(|&w| self.b.level(w))).min().unwrap_or(0);
        let mut sums: BTreeMap<(i64, i64), Option<Register>> = BTreeMap::new();
        let pairs = sources.iter().flat_map(|(weights, gains)| {
            weights.iter().zip(values).map(move |(&weight, &value)| (weight, value, gains))
        });
        for (weight, value, gains) in pairs {
            let weight = self.b.set_level(weight, level, 1.0)?;
            let value = self.b.set_level(value, level + 1, 1.0)?;
            let mut of_weights = BTreeMap::new();
            let mut of_values = BTreeMap::new();
            for d in diagonals.clone() {
                let (giant, b, turn, far) = place(d);
                of_weights.insert(giant, self.p.shift(steps * giant * stride, -far));
                of_values.insert((b, turn), self.p.shift(-b * stride, steps * turn + b));
            }
            let amounts: Vec<i64> = of_weights.values().copied().collect();
            let moved = self.versions(weight, &amounts);
            let moved_weights: BTreeMap<_, _> = of_weights.into_keys().zip(moved).collect();
            let amounts: Vec<i64> = of_values.values().copied().collect();
            let moved = self.versions(value, &amounts);
            let moved_values: BTreeMap<_, _> = of_values.into_keys().zip(moved).collect();
            for d in diagonals.clone() {
                let (giant, b, turn, far) = place(d);
                let reached = (0..width).filter(|i| (0..rows).contains(&(i + d)));
                let slots = reached.flat_map(|i| {
                    let of = move |h: i64| (i + b) * stride + h;
                    (0..stride).map(move |h| (of(h), gains[h as usize % group.heads]))
                });
                let mask = self.weighted_mask(slots);
                let masked = self.b.mul_plain(moved_values[&(b, turn)], mask)?;
                let sum = sums.entry((b, far)).or_insert(None);
                self.accumulate(sum, moved_weights[&giant], masked)?;
            }
        }
        let terms = sums.into_iter().map(|((b, far), sum)| (sum, self.p.shift(b * stride, far)));
        let terms = terms.collect();
        let out = self.close_rotated(terms)?;
        if group.halves == 1 {
            return Ok(out);
        }
        let second = self.b.rotate(out, self.p.shift(group.heads as i64, 0));
        self.b.add(out, second)
    }

    /// Row sums over all keys of both halves, at feature index 0 of each head; partial sums elsewhere.
    pub(super) fn key_sums(&mut self, weights: &[Register], group: &HeadGroup) -> Result<Register> {
        let terms: Vec<_> = weights.iter().map(|&w| (w, 0)).collect();
        let mut sum = self.b.sum_rotated(&terms)?;
        if group.halves == 2 {
            let second = self.b.rotate(sum, self.p.shift(group.heads as i64, 0));
            sum = self.b.add(sum, second)?;
        }
        self.b.window_sum(sum, group.stride(), self.p.rows)
    }
}

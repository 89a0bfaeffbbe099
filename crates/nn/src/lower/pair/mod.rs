//! Layout P-pair, for models whose features fill the slots: one ciphertext holds all tokens of up to `columns` features.
//!
//! Token `t < rows` shares its slots with token `t + rows`, real and imaginary parts:
//! ```text
//! slot:  | t=0: f0 f1 ... f(c-1) | t=1: f0 ... | ... | t=rows-1: ... |        c = columns
//! ```
//! Rotating by one moves by a feature and spills into the next token; rotating by `columns` moves by a token and is exactly
//! cyclic. Weights are periodic plaintexts, and what spills is always weighted with zero, so matrix products need no mask.
//! Heads are interlaced: feature `i` of head `h` stands at `i * stride + h`, so that one feature step moves all heads.
//!
//! The emitters (`matrix`, `attention`, `scalars`) know no model; `layer` composes them into pre-norm models of power heads.
//! The planner does not choose this layout yet: programs run on exact slots in the tests alone.

mod attention;
mod layer;
mod matrix;
#[cfg(test)]
mod model_tests;
mod scalars;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::program::{Builder, Plain, Register};
use num_complex::Complex64;

/// Sizes of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PairPacking {
    /// Slots of a ciphertext.
    pub(super) slots: usize,
    /// Tokens that carry data; the rest of the two halves is padding.
    pub(super) tokens: usize,
    /// Token pairs: half of the padded token count.
    pub(super) rows: usize,
    /// Feature slots of a token pair.
    pub(super) columns: usize,
}

impl PairPacking {
    /// The layout of `tokens` tokens.
    ///
    /// # Errors
    /// `DoesNotFit` when there are more token pairs than slots.
    pub(super) fn new(tokens: usize, slots: usize) -> Result<Self> {
        let rows = (tokens.next_power_of_two() / 2).max(1);
        if rows * 2 > slots {
            return Err(Error::DoesNotFit { what: "token pairs", got: rows, limit: slots / 2 });
        }
        Ok(Self { slots, tokens, rows, columns: slots / rows })
    }

    /// The rotation that moves slot `(t + tokens, f + features)` to `(t, f)`.
    fn shift(&self, features: i64, tokens: i64) -> i64 {
        (features + tokens * self.columns as i64).rem_euclid(self.slots as i64)
    }

    /// Which feature each slot of a row holds, for `width` features in natural order over as few ciphertexts as do.
    pub(super) fn natural(&self, width: usize) -> Vec<Features> {
        let ciphertexts = width.div_ceil(self.columns);
        let of = |k: usize, f: usize| Some(k * self.columns + f).filter(|&feature| feature < width);
        (0..ciphertexts).map(|k| (0..self.columns).map(|f| of(k, f)).collect()).collect()
    }

    /// The heads of a model, as many a ciphertext as fit.
    pub(super) fn groups(&self, heads: usize, head_width: usize) -> Vec<HeadGroup> {
        let most = (self.columns / head_width).min(heads).max(1);
        let starts = (0..heads).step_by(most);
        let group = |first: usize| {
            let count = most.min(heads - first);
            let halves = if 2 * count * head_width <= self.columns { 2 } else { 1 };
            HeadGroup { first, heads: count, head_width, halves }
        };
        starts.map(group).collect()
    }
}

/// The feature that each slot of a row holds.
pub(super) type Features = Vec<Option<usize>>;

/// Heads that share a ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadGroup {
    /// The first of them.
    pub(super) first: usize,
    /// Their number.
    pub(super) heads: usize,
    /// Features of a head.
    pub(super) head_width: usize,
    /// 2 where the keys of both halves of the tokens stand side by side, as if there were twice as many heads; else 1, and
    /// each half has a ciphertext of its own.
    pub(super) halves: usize,
}

impl HeadGroup {
    /// Slots from one feature of a head to the next.
    pub(super) fn stride(&self) -> usize {
        self.heads * self.halves
    }

    /// Slot of feature `i` of the group's head `h`.
    pub(super) fn slot(&self, i: usize, h: usize) -> usize {
        i * self.stride() + h
    }

    /// What each slot holds of heads in natural order; with `copied`, the second half holds a copy.
    pub(super) fn features(&self, columns: usize, copied: bool) -> Features {
        let mut features = vec![None; columns];
        let copies = if copied { self.halves } else { 1 };
        for i in 0..self.head_width {
            for h in 0..self.heads {
                let feature = (self.first + h) * self.head_width + i;
                for copy in 0..copies {
                    features[self.slot(i, h + copy * self.heads)] = Some(feature);
                }
            }
        }
        features
    }
}

/// Writes the layout's operations into a program.
pub(super) struct Pair<'a> {
    pub(super) b: &'a mut Builder,
    pub(super) p: PairPacking,
}

impl Pair<'_> {
    /// One row that repeats for every token.
    fn row(&self, value: impl Fn(usize) -> f64) -> Plain {
        let columns = self.p.columns;
        self.b.plain(columns, || (0..columns).map(|f| Complex64::new(value(f), 0.0)).collect())
    }

    /// One at the slots of a row that `at` names, modulo its length.
    fn mask(&self, at: impl IntoIterator<Item = i64>) -> Plain {
        let mut row = vec![0.0; self.p.columns];
        for f in at {
            row[f.rem_euclid(self.p.columns as i64) as usize] = 1.0;
        }
        self.row(|f| row[f])
    }

    /// `x` and its rotations by each of `amounts`, which share one decomposition; zero among them is free.
    fn versions(&mut self, x: Register, amounts: &[i64]) -> Vec<Register> {
        let moving: Vec<i64> = amounts.iter().copied().filter(|&a| a != 0).collect();
        let moved = if moving.is_empty() { Vec::new() } else { self.b.hoisted(x, moving) };
        let mut moved = moved.into_iter();
        amounts.iter().map(|&a| if a == 0 { x } else { moved.next().unwrap_or(x) }).collect()
    }

    /// Sum over the terms of term rotated by its amount.
    fn sum_rotated(
        &mut self,
        terms: impl IntoIterator<Item = (Register, i64)>,
    ) -> Result<Register> {
        let mut sum = None;
        for (term, by) in terms {
            let moved = if by == 0 { term } else { self.b.rotate(term, by) };
            sum = Some(match sum {
                None => moved,
                Some(sum) => self.b.add(sum, moved)?,
            });
        }
        sum.ok_or(Error::Planner { op: "sum_rotated", detail: "no terms".into() })
    }

    /// `acc += a * b`, degree 2.
    fn accumulate(&mut self, acc: &mut Option<Register>, a: Register, b: Register) -> Result<()> {
        let product = self.b.tensor(a, b)?;
        *acc = Some(match *acc {
            None => product,
            Some(sum) => self.b.add(sum, product)?,
        });
        Ok(())
    }

    /// Relinearizes sums of products, rotates each by its amount, adds them and rescales.
    fn close_rotated(&mut self, terms: Vec<(Option<Register>, i64)>) -> Result<Register> {
        let mut linear = Vec::with_capacity(terms.len());
        for (sum, by) in terms {
            if let Some(sum) = sum {
                linear.push((self.b.relinearize(sum), by));
            }
        }
        let sum = self.sum_rotated(linear)?;
        self.b.rescale(sum)
    }
}

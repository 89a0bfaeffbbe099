//! Layout P-pair, for models whose features fill the slots: one ciphertext holds all tokens of up to `columns` features.
//!
//! Token `t < rows` shares its slots with token `t + rows`, real and imaginary parts:
//! ```text
//! slot:  | t=0: f0 f1 ... f(c-1) | t=1: f0 ... | ... | t=rows-1: ... |        c = columns
//! ```
//! Rotating by one moves by a feature and spills into the next token; rotating by `columns` moves by a token and is exactly
//! cyclic. Weights are periodic plaintexts, and what spills is always weighted with zero, so matrix products need no mask.
//! Heads are interlaced: feature `i` of head `h` stands at `i * stride + h`, so that one feature step moves all heads.

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use num_complex::Complex64;

/// Sizes of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PairPacking {
    /// Slots of a ciphertext.
    pub slots: usize,
    /// Tokens that carry data; the rest of the two halves is padding.
    pub tokens: usize,
    /// Token pairs: half of the padded token count.
    pub rows: usize,
    /// Feature slots of a token pair.
    pub columns: usize,
}

impl PairPacking {
    /// The layout of a model in ciphertexts of `slots` slots.
    ///
    /// # Errors
    /// `DoesNotFit` when there are more token pairs than slots, or a row has less slots than a head features or than there
    /// are classes.
    pub fn new(config: &ModelConfig, slots: usize) -> Result<Self> {
        let packing = Self::of_tokens(config.tokens, slots)?;
        let fits = |what: &'static str, got: usize| {
            let limit = packing.columns;
            if got <= limit { Ok(()) } else { Err(Error::DoesNotFit { what, got, limit }) }
        };
        fits("classes (slots a token pair)", config.classes.len())?;
        fits("token pairs (slots a token pair)", packing.rows)?;
        for layer in &config.layers {
            fits("features of a head (slots a token pair)", config.width / layer.heads.len())?;
            // Real and imaginary parts of a number a head.
            let numbers = 2 * layer.heads.len().next_power_of_two();
            fits("heads times two (slots a token pair)", numbers)?;
        }
        Ok(packing)
    }

    /// The layout of `tokens` tokens.
    ///
    /// # Errors
    /// `DoesNotFit` when there are more token pairs than slots.
    pub(crate) fn of_tokens(tokens: usize, slots: usize) -> Result<Self> {
        let rows = (tokens.next_power_of_two() / 2).max(1);
        if rows * 2 > slots {
            return Err(Error::DoesNotFit { what: "token pairs", got: rows, limit: slots / 2 });
        }
        Ok(Self { slots, tokens, rows, columns: slots / rows })
    }

    /// Ciphertexts that hold `width` features of every token.
    #[must_use]
    pub fn parts(&self, width: usize) -> usize {
        width.div_ceil(self.columns)
    }

    /// The slots of one of the ciphertexts that hold `x`, tokens by features, times `factor`.
    #[must_use]
    pub fn pack(&self, x: &Matrix, part: usize, factor: f64) -> Vec<Complex64> {
        let at = |t: usize, f: usize| {
            let inside = t < x.rows() && f < x.columns();
            if inside { x.at(t, f) * factor } else { 0.0 }
        };
        (0..self.slots)
            .map(|slot| (slot / self.columns, part * self.columns + slot % self.columns))
            .map(|(t, f)| Complex64::new(at(t, f), at(t + self.rows, f)))
            .collect()
    }

    /// The rotation that moves slot `(t + tokens, f + features)` to `(t, f)`.
    pub(crate) fn shift(&self, features: i64, tokens: i64) -> i64 {
        (features + tokens * self.columns as i64).rem_euclid(self.slots as i64)
    }

    /// Which feature each slot of a row holds, for `width` features in natural order over as few ciphertexts as do.
    pub(crate) fn natural(&self, width: usize) -> Vec<Features> {
        let ciphertexts = self.parts(width);
        let of = |k: usize, f: usize| Some(k * self.columns + f).filter(|&feature| feature < width);
        (0..ciphertexts).map(|k| (0..self.columns).map(|f| of(k, f)).collect()).collect()
    }

    /// The heads of a model, as many a ciphertext as fit.
    pub(crate) fn groups(&self, heads: usize, head_width: usize) -> Vec<HeadGroup> {
        // Scores of a head take a slot a key of one half, values one a feature.
        let longest = head_width.max(self.rows);
        let most = (self.columns / longest).min(heads).max(1);
        let starts = (0..heads).step_by(most);
        let group = |first: usize| {
            let count = most.min(heads - first);
            let halves = if 2 * count * longest <= self.columns { 2 } else { 1 };
            HeadGroup { first, heads: count, head_width, halves }
        };
        starts.map(group).collect()
    }
}

/// The feature that each slot of a row holds.
pub(crate) type Features = Vec<Option<usize>>;

/// Heads that share a ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadGroup {
    /// The first of them.
    pub(crate) first: usize,
    /// Their number.
    pub(crate) heads: usize,
    /// Features of a head.
    pub(crate) head_width: usize,
    /// 2 where the keys of both halves of the tokens stand side by side, as if there were twice as many heads; else 1, and
    /// each half has a ciphertext of its own.
    pub(crate) halves: usize,
}

impl HeadGroup {
    /// Slots from one feature of a head to the next.
    pub(crate) fn stride(&self) -> usize {
        self.heads * self.halves
    }

    /// Slot of feature `i` of the group's head `h`.
    pub(crate) fn slot(&self, i: usize, h: usize) -> usize {
        i * self.stride() + h
    }

    /// What each slot holds of heads in natural order; with `copied`, the second half holds a copy.
    pub(crate) fn features(&self, columns: usize, copied: bool) -> Features {
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

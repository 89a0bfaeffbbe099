//! Layout P-tile: where an element of a token matrix sits among the slots of one ciphertext.
//!
//! Token `t < rows` shares its slots with token `t + rows`: the first in the real, the second in the imaginary parts.
//! ```text
//! slot:  | t=0: block 0 | block 1 | ... | block B-1 | t=1: block 0 | ...          one row of `columns` slots a token pair
//! block: `block` features; heads are interlaced: feature i of head h at  i * heads + h
//! ```
//! Rotating by `columns` moves by one token, exactly cyclic; rotating by one moves by one feature and spills into the
//! next block and, at the end of a row, into the next token. The blocks that the features leave idle hold shifted copies
//! of the keys and values, so that all scores of a head come out of a few products.

mod pair;

pub use self::pair::PairPacking;
pub(crate) use self::pair::{Features, HeadGroup};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::lower::BABY_STEPS;
use crate::matrix::Matrix;
use num_complex::Complex64;

/// Sizes of the layout, all powers of two except `tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Packing {
    /// Slots of a ciphertext.
    pub slots: usize,
    /// Tokens that carry data; the rest of the two halves is padding and holds zeros.
    pub tokens: usize,
    /// Token pairs: half of the padded token count, and at least the classes.
    pub rows: usize,
    /// Slots of a token pair.
    pub columns: usize,
    /// Slots of one block: the padded width.
    pub block: usize,
    /// Padded number of heads: the stride between the features of one head.
    pub heads: usize,
    /// Padded features of a head.
    pub head_width: usize,
    /// Padded hidden features of the feed-forward block.
    pub hidden: usize,
}

impl Packing {
    /// The layout of a model in ciphertexts of `slots` slots.
    ///
    /// # Errors
    /// `Unsupported` when layers differ in their number of heads; `DoesNotFit` when tokens, width or classes are too many for one ciphertext of this size; the message
    /// says which bound was exceeded.
    pub fn new(config: &ModelConfig, slots: usize) -> Result<Self> {
        // The classifier puts one class into each row, so few tokens with many classes are padded further.
        let pairs = config.tokens.next_power_of_two() / 2;
        let rows = pairs.max(config.classes.len().next_power_of_two()).max(2);
        let columns = slots / rows;
        let head_count = config.layers.first().map_or(1, |l| l.heads.len());
        if config.layers.iter().any(|l| l.heads.len() != head_count) {
            return Err(Error::Unsupported {
                what: "a different number of heads in each layer under encryption",
                hint: "use the same number in every layer",
            });
        }
        let heads = head_count.next_power_of_two();
        let head_width = (config.width / head_count).next_power_of_two().max(2);
        // A matrix product takes its diagonals in groups of the baby steps.
        let block = (heads * head_width).max(config.width.next_power_of_two()).max(BABY_STEPS);
        let hidden = config.ffn.next_power_of_two().max(block);
        let packing =
            Self { slots, tokens: config.tokens, rows, columns, block, heads, head_width, hidden };
        let fits = |what: &'static str, got: usize, limit: usize| {
            if got <= limit { Ok(()) } else { Err(Error::DoesNotFit { what, got, limit }) }
        };
        fits("token pairs or classes", rows, slots / 8)?;
        fits("padded width times 8 (slots a token pair)", block * 8, columns)?;
        let copies = packing.stream_blocks(false).max(packing.stream_blocks(true));
        fits("blocks of the residual stream", copies + 1, packing.blocks())?;
        fits("key tiles (two a shift of all key blocks)", packing.tiles(), head_width)?;
        fits("hidden and stream features", (hidden + block).next_power_of_two(), columns)?;
        Ok(packing)
    }

    /// Blocks of a row.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.columns / self.block
    }

    /// Blocks of a row that hold shifted keys.
    #[must_use]
    pub fn key_blocks(&self) -> usize {
        self.blocks().min(self.rows)
    }

    /// Real ciphertexts that hold all keys: two halves for each shift by `key_blocks` tokens.
    #[must_use]
    pub fn tiles(&self) -> usize {
        2 * self.rows / self.key_blocks()
    }

    /// Blocks that hold a copy of the normalised input of a layer: queries are made in half of the key blocks, and
    /// making them reads one block further.
    #[must_use]
    pub fn input_blocks(&self) -> usize {
        self.key_blocks() / 2 + 1
    }

    /// Blocks that hold a copy of the residual stream after attention: the hidden features and one window beyond
    /// them, and, when another layer follows, its input's copies and one window beyond.
    #[must_use]
    pub fn stream_blocks(&self, last_layer: bool) -> usize {
        let hidden = self.hidden / self.block + 1;
        if last_layer { hidden } else { hidden.max(self.input_blocks() + 1) }
    }

    /// Slot, inside a block, of feature `i` of head `h`.
    #[must_use]
    pub fn head_slot(&self, h: usize, i: usize) -> usize {
        i * self.heads + h
    }

    /// Packs `x` (tokens by features, times `factor`) into each of the first `blocks` blocks; zero elsewhere.
    #[must_use]
    pub fn pack(&self, x: &Matrix, blocks: usize, factor: f64) -> Vec<Complex64> {
        let mut out = vec![Complex64::default(); self.slots];
        for (t, (row, imaginary)) in (0..x.rows()).map(|t| (t, (t % self.rows, t >= self.rows))) {
            for b in 0..blocks {
                let start = row * self.columns + b * self.block;
                for (slot, &value) in out[start..].iter_mut().zip(x.row(t)) {
                    if imaginary {
                        slot.im = value * factor;
                    } else {
                        slot.re = value * factor;
                    }
                }
            }
        }
        out
    }

    /// A row of `columns` values at every token that carries data, zero at padding: for biases.
    #[must_use]
    pub(crate) fn live(&self, row: &[f64]) -> Vec<Complex64> {
        let mut out = Vec::with_capacity(self.slots);
        for t in 0..self.rows {
            let re = f64::from(u8::from(t < self.tokens));
            let im = f64::from(u8::from(t + self.rows < self.tokens));
            out.extend(row.iter().map(|v| Complex64::new(v * re, v * im)));
        }
        out
    }

    /// As [`Packing::live`] for one half of the tokens alone, as real values.
    #[must_use]
    pub(crate) fn live_half(&self, row: &[f64], second: bool) -> Vec<Complex64> {
        let first = if second { self.rows } else { 0 };
        let mut out = Vec::with_capacity(self.slots);
        for t in 0..self.rows {
            let keep = f64::from(u8::from(t + first < self.tokens));
            out.extend(row.iter().map(|v| Complex64::new(v * keep, 0.0)));
        }
        out
    }
}

//! Where a model's values sit among slots: one of two layouts.

use crate::config::{ModelConfig, Pooling};
use crate::error::{Error, Result};
use crate::lower::{InputSpec, RESIDUAL, supports};
use crate::packing::{Packing, PairPacking};
use crate::{Embedded, Matrix};
use num_complex::Complex64;

/// A layout with its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// P-tile: all tokens and features in a fraction of one ciphertext, whose idle slots hold shifted keys and values. A few
    /// dozen keys.
    Tile(Packing),
    /// P-pair: features fill the slots, in as many ciphertexts as they need. A few hundred keys.
    Pair(PairPacking),
}

impl Layout {
    /// The layouts of a model in ciphertexts of `slots` slots, or why one is out of the question; the one with fewer keys first.
    pub fn all(config: &ModelConfig, slots: usize) -> [Result<Self>; 2] {
        let checked = |layout: Self| supports(config, &layout).map(|()| layout);
        [
            Packing::new(config, slots).map(Self::Tile).and_then(checked),
            PairPacking::new(config, slots).map(Self::Pair).and_then(checked),
        ]
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tile(_) => "P-tile",
            Self::Pair(_) => "P-pair",
        }
    }

    /// Slots of a ciphertext.
    #[must_use]
    pub fn slots(&self) -> usize {
        match self {
            Self::Tile(p) => p.slots,
            Self::Pair(p) => p.slots,
        }
    }

    /// Tokens that carry data.
    #[must_use]
    pub fn tokens(&self) -> usize {
        match self {
            Self::Tile(p) => p.tokens,
            Self::Pair(p) => p.tokens,
        }
    }

    /// The same layout for an input of `tokens` tokens, at most this one's.
    ///
    /// # Errors
    /// `InputLength`.
    pub fn with_tokens(self, tokens: usize) -> Result<Self> {
        if tokens == 0 || tokens > self.tokens() {
            return Err(Error::InputLength { tokens, limit: self.tokens() });
        }
        Ok(match self {
            Self::Tile(p) => Self::Tile(Packing { tokens, ..p }),
            Self::Pair(p) => Self::Pair(PairPacking { tokens, ..p }),
        })
    }

    /// The slots of an input ciphertext.
    #[must_use]
    pub fn pack(&self, spec: &InputSpec, embedded: &Embedded) -> Vec<Complex64> {
        let source: &Matrix = if spec.name == RESIDUAL { &embedded.x } else { &embedded.u };
        match self {
            Self::Tile(p) => p.pack(source, spec.blocks, spec.factor),
            Self::Pair(p) => p.pack(source, spec.part, spec.factor),
        }
    }

    /// Whether an input of this description can belong to a model of this width.
    pub(crate) fn takes(&self, spec: &InputSpec, width: usize) -> bool {
        match self {
            Self::Tile(p) => spec.blocks <= p.blocks() && spec.part == 0,
            Self::Pair(p) => spec.blocks == 1 && spec.part < p.parts(width),
        }
    }

    /// The logits among the slots of a result, one row a token where every token is classified; none for slots that are not
    /// there.
    #[must_use]
    pub fn logits(&self, config: &ModelConfig, slots: &[Complex64]) -> Vec<Option<f64>> {
        let classes = 0..config.classes.len();
        match self {
            Self::Tile(p) => classes.map(|k| slots.get(k * p.columns).map(|z| z.re)).collect(),
            Self::Pair(_) if config.structure.pooling != Pooling::Tokens => {
                classes.map(|k| slots.get(k).map(|z| z.re)).collect()
            }
            Self::Pair(p) => (0..p.tokens)
                .flat_map(|t| classes.clone().map(move |k| (t, (t % p.rows) * p.columns + k)))
                .map(|(t, slot)| slots.get(slot).map(|z| if t < p.rows { z.re } else { z.im }))
                .collect(),
        }
    }
}

//! Automorphisms X -> X^g of the ring, and what they do to an NTT-ordered row.

use crate::error::{Error, Result};
use std::ops::Range;

/// The exponent `g` of the automorphism X -> X^g: odd, below 2n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GaloisElement(u64);

impl GaloisElement {
    /// An explicit exponent.
    ///
    /// # Errors
    /// `InvalidGaloisElement` unless `element` is odd and below 2n.
    pub fn new(element: u64, n: usize) -> Result<Self> {
        if element & 1 == 0 || element >= 2 * n as u64 {
            return Err(Error::InvalidGaloisElement { element, n });
        }
        Ok(Self(element))
    }

    /// `5^k mod 2n`: rotates the n/2 slots by `k` to the left (slot j receives slot j+k). `k` is taken modulo n/2.
    ///
    /// `n` is the degree of a ring, a power of two.
    #[must_use]
    pub fn rotation(k: i64, n: usize) -> Self {
        let mask = 2 * n as u64 - 1;
        let mut exponent = k.rem_euclid((n as i64 / 2).max(1));
        let (mut g, mut square) = (1u64, 5 & mask);
        while exponent > 0 {
            if exponent & 1 == 1 {
                g = g.wrapping_mul(square) & mask;
            }
            square = square.wrapping_mul(square) & mask;
            exponent >>= 1;
        }
        Self(g)
    }

    /// `2n - 1`: complex conjugation of every slot.
    #[must_use]
    pub fn conjugation(n: usize) -> Self {
        Self(2 * n as u64 - 1)
    }

    /// The exponent.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The automorphism that applies `self` and then `next`, i.e. the product of the exponents modulo 2n.
    #[must_use]
    pub fn then(self, next: Self, n: usize) -> Self {
        Self(self.0.wrapping_mul(next.0) & (2 * n as u64 - 1))
    }
}

/// Reverses the low `bits` bits of `i`.
#[inline]
pub(crate) fn brv(i: usize, bits: u32) -> usize {
    if bits == 0 { 0 } else { i.reverse_bits() >> (usize::BITS - bits) }
}

/// Words of a block: X -> X^g maps aligned blocks of NTT-ordered words to aligned blocks, n being at least 16.
pub(crate) const BLOCK: usize = 8;
const BLOCK_BITS: u32 = BLOCK.trailing_zeros();

/// What X -> X^g does to NTT-ordered rows of `n` words: block h of the result is block `source >> 3` of the argument,
/// its lanes permuted by `lanes[source & 7]`, with `source = sources[h]`.
///
/// Index i holds the evaluation at ψ^e with e = 2·brv(i)+1, and (a∘X^g)(ψ^e) = a(ψ^(g·e)), which rests at index
/// brv((g·e mod 2n - 1) / 2). With i = 8h + l, e = e_h + brv_3(l)·2n/8 where e_h depends on h alone. So with
/// g·e_h mod 2n = t·2n/8 + r, r < 2n/8, the source is block brv((r - 1) / 2), lane brv_3(t + g·brv_3(l) mod 8).
#[derive(Debug)]
pub(crate) struct Permutation {
    pub(crate) sources: Vec<u32>,
    pub(crate) lanes: [[u64; BLOCK]; BLOCK],
}

impl Permutation {
    pub(crate) fn new(g: GaloisElement, n: usize) -> Self {
        let g = g.0 as usize;
        let bits = n.trailing_zeros() - BLOCK_BITS;
        let eighth = 2 * n / BLOCK;
        let sources = (0..n / BLOCK).map(|h| {
            let exponent = (2 * brv(h, bits) + 1) * g % (2 * n);
            let (turns, rest) = (exponent / eighth, exponent % eighth);
            (brv(rest / 2, bits) * BLOCK + turns) as u32
        });
        let lane = |turns: usize, l: usize| brv((turns + g * brv(l, 3)) % BLOCK, 3) as u64;
        let lanes = std::array::from_fn(|turns| std::array::from_fn(|l| lane(turns, l)));
        Self { sources: sources.collect(), lanes }
    }

    /// What ends up in an aligned block of a power of two of words, 8 at least.
    pub(crate) fn piece(&self, columns: Range<usize>) -> Piece<'_> {
        let length = columns.len();
        let sources = &self.sources[columns.start / BLOCK..columns.end / BLOCK];
        let first = sources.first().map_or(0, |&source| source as usize);
        let start = first / length * length;
        Piece { sources, lanes: &self.lanes, from: start..start + length }
    }
}

/// An aligned block of the image, all of which comes from one block of the argument: what [`Permutation`] says of 8 words
/// holds for every power of two.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) sources: &'a [u32],
    pub(crate) lanes: &'a [[u64; BLOCK]; BLOCK],
    pub(crate) from: Range<usize>,
}

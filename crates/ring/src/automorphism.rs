//! Automorphisms X -> X^g of the ring, and what they do to an NTT-ordered row.

use crate::error::{Error, Result};

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

/// The permutation `out[i] = a[table[i]]` that X -> X^g is on NTT-ordered rows of `n` words.
///
/// Index i holds the evaluation at ψ^e with e = 2·brv(i)+1, and (a∘X^g)(ψ^e) = a(ψ^(g·e)), which rests at
/// index brv((g·e mod 2n - 1) / 2).
pub(crate) fn ntt_permutation(g: GaloisElement, n: usize) -> Vec<u32> {
    let bits = n.trailing_zeros();
    let mask = 2 * n - 1;
    (0..n)
        .map(|i| {
            let exponent = (2 * brv(i, bits) + 1).wrapping_mul(g.0 as usize) & mask;
            brv(exponent >> 1, bits) as u32
        })
        .collect()
}

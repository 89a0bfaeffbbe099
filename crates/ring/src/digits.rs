//! A polynomial cut into digits, ready for key switching.

use crate::automorphism::GaloisElement;
use crate::backend::{Backend, Storage, View, dispatch};
use crate::basis::Limbs;
use crate::error::{Error, Result};
use crate::poly::{RingPoly, check_contains, check_rings, store};
use crate::ring::Ring;
use cipherform_profile::{Counter, count, primitive};
use std::fmt;
use std::sync::Arc;

/// The digits of a polynomial over {q, all special}, see [`RingPoly::decompose`]. Many automorphisms and many keys
/// can share one decomposition (hoisting, Halevi–Shoup, ePrint 2018/244).
#[derive(Clone)]
pub struct Digits {
    ring: Arc<Ring>,
    limbs: Limbs,
    parts: Vec<Storage>,
}

impl fmt::Debug for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digits({} of limbs {})", self.parts.len(), self.limbs)
    }
}

impl Digits {
    pub(crate) fn decompose(a: &RingPoly) -> Result<Self> {
        let _span = primitive("base_conversion");
        let basis = a.ring.basis();
        let limbs = Limbs { q: a.limbs.q, p: basis.p().len() };
        if limbs.p == 0 {
            let detail = "decompose needs special primes".to_owned();
            return Err(Error::InvalidBasis { detail });
        }
        let converted: usize = basis.digits_at(limbs.q).map(|d| limbs.rows() - d.len()).sum();
        count(Counter::LimbNtts, (limbs.q + converted) as u64);
        let parts = dispatch!(a.ring, |b| {
            let digits = b.decompose(&a.view(b, "decompose")?, limbs.q)?;
            digits.into_iter().map(|d| store(b, d)).collect()
        });
        Ok(Self { ring: a.ring.clone(), limbs, parts })
    }

    /// Number of digits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there is no digit; never for the result of [`RingPoly::decompose`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Limbs of every digit.
    #[must_use]
    pub fn limbs(&self) -> Limbs {
        self.limbs
    }

    /// One digit as a polynomial, if present. Copies.
    #[must_use]
    pub fn digit(&self, index: usize) -> Option<RingPoly> {
        let data = self.parts.get(index)?.clone();
        Some(RingPoly::from_parts(self.ring.clone(), self.limbs, data))
    }

    /// The digits of the image under `X -> X^g`: decomposition and automorphism commute.
    ///
    /// # Errors
    /// `InvalidGaloisElement` if `g` was made for a larger degree.
    pub fn automorphism(&self, g: GaloisElement) -> Result<Digits> {
        let _span = primitive("automorphism");
        let g = GaloisElement::new(g.get(), self.ring.n())?;
        let limbs = self.limbs;
        let parts = dispatch!(self.ring, |b| {
            let permuted = self.parts.iter().map(|part| {
                let buf = b.buf("automorphism", part)?;
                Ok(store(b, b.automorphism(&View { buf, limbs }, limbs, g)?))
            });
            permuted.collect::<Result<Vec<_>>>()?
        });
        Ok(Self { ring: self.ring.clone(), limbs, parts })
    }

    /// `Σ_d digit_d · key[d][h]` for both halves h, over the digits' limbs {q, all special}.
    ///
    /// Key polynomials may have more q-limbs than the digits, and the key more digits: both are ignored.
    /// Cost: no transform, one pass over digits and keys.
    ///
    /// # Errors
    /// `MissingDigits`, `LimbMismatch`, `RingMismatch`, `DeviceMismatch`.
    pub fn inner_product(&self, key: &[[RingPoly; 2]]) -> Result<[RingPoly; 2]> {
        const OP: &str = "inner_product";
        let _span = primitive(OP);
        let needed = self.parts.len();
        let Some(key) = key.get(..needed) else {
            return Err(Error::MissingDigits { needed, got: key.len() });
        };
        for half in key.iter().flatten() {
            check_rings(OP, &self.ring, &half.ring)?;
            check_contains(OP, half.limbs, self.limbs)?;
        }
        let halves = dispatch!(self.ring, |b| {
            let digits =
                self.parts.iter().map(|part| b.buf(OP, part)).collect::<Result<Vec<_>>>()?;
            let keys = key
                .iter()
                .map(|[k0, k1]| Ok([k0.view(b, OP)?, k1.view(b, OP)?]))
                .collect::<Result<Vec<_>>>()?;
            b.inner_product(&digits, self.limbs, &keys)?.map(|buf| store(b, buf))
        });
        Ok(halves.map(|data| RingPoly::from_parts(self.ring.clone(), self.limbs, data)))
    }
}

//! A polynomial cut into digits, ready for key switching.

use crate::automorphism::GaloisElement;
use crate::backend::{BabyStep, Backend, HoistedSums, Storage, View, Weight, dispatch};
use crate::basis::Limbs;
use crate::error::{Error, Result};
use crate::poly::{RingPoly, check_contains, check_length, check_rings, store};
use crate::ring::Ring;
use crate::subring::SubringPoly;
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

/// Limbs of the digits of a polynomial.
pub(crate) fn extended(a: &RingPoly) -> Result<Limbs> {
    let limbs = Limbs { q: a.limbs.q, p: a.ring.basis().p().len() };
    if limbs.p == 0 {
        let detail = "decompose needs special primes".to_owned();
        return Err(Error::InvalidBasis { detail });
    }
    Ok(limbs)
}

/// Transforms of a decomposition into digits over `limbs`.
pub(crate) fn decompose_transforms(ring: &Ring, limbs: Limbs) -> u64 {
    let digits = ring.basis().digits_at(limbs.q);
    (limbs.q + digits.map(|digit| limbs.rows() - digit.len()).sum::<usize>()) as u64
}

/// The digits of a key that are needed for digits over `limbs`, all with the right limbs.
pub(crate) fn check_key<'a>(
    op: &'static str,
    ring: &Arc<Ring>,
    limbs: Limbs,
    key: &'a [[RingPoly; 2]],
) -> Result<&'a [[RingPoly; 2]]> {
    let needed = ring.basis().digits_at(limbs.q).count();
    let Some(key) = key.get(..needed) else {
        return Err(Error::MissingDigits { needed, got: key.len() });
    };
    for half in key.iter().flatten() {
        check_rings(op, ring, &half.ring)?;
        check_contains(op, half.limbs, limbs)?;
    }
    Ok(key)
}

impl Digits {
    pub(crate) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    pub(crate) fn decompose(a: &RingPoly) -> Result<Self> {
        let _span = primitive("base_conversion");
        let limbs = extended(a)?;
        count(Counter::LimbNtts, decompose_transforms(&a.ring, limbs));
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
        let key = check_key(OP, &self.ring, self.limbs, key)?;
        let halves = dispatch!(self.ring, |b| {
            let key = views(b, OP, key)?;
            b.inner_product(&self.bufs(b, OP)?, self.limbs, &key)?.map(|buf| store(b, buf))
        });
        Ok(self.pair(halves))
    }

    /// [`Digits::inner_product`] of every member of a batch with the same limbs, in order.
    ///
    /// Cost: no transform, one pass over the key for all of them.
    ///
    /// # Errors
    /// As [`Digits::inner_product`]; `LimbMismatch` or `RingMismatch` between members.
    pub fn inner_products(batch: &[&Digits], key: &[[RingPoly; 2]]) -> Result<Vec<[RingPoly; 2]>> {
        const OP: &str = "inner_products";
        let _span = primitive("inner_product");
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let key = check_key(OP, &first.ring, first.limbs, key)?;
        for member in batch {
            check_rings(OP, &first.ring, &member.ring)?;
            if member.limbs != first.limbs {
                return Err(Error::LimbMismatch { op: OP, needed: first.limbs, got: member.limbs });
            }
        }
        let pairs: Vec<[Storage; 2]> = dispatch!(first.ring, |b| {
            let bufs = batch.iter().map(|member| member.bufs(b, OP)).collect::<Result<Vec<_>>>()?;
            let pairs = b.inner_products(&bufs, first.limbs, &views(b, OP, key)?)?;
            pairs.into_iter().map(|pair| pair.map(|buf| store(b, buf))).collect()
        });
        Ok(pairs.into_iter().map(|pair| first.pair(pair)).collect())
    }

    /// Weighted sums of key-switched automorphisms, before any division by P (double hoisting, Bossuat et al., ePrint
    /// 2020/1203, section 4): with `pair_b = φ_b(P·c0 + <self, key_b>_0, <self, key_b>_1)` for a [`Baby::Switched`] and
    /// `(P·c0, P·c1)` for [`Baby::Identity`],
    ///
    /// `out_g = Σ_b weights[g][b] · pair_b`, over the limbs {q, all special} of these digits.
    ///
    /// `self` is the decomposition of `c[1]`; `c` has the q-limbs of the digits at least, so do the weights, which also
    /// have the special limbs. A `None` is a weight of 0. Key polynomials may have more limbs and the keys more digits.
    /// Cost: no transform; one pass over digits, keys and weights.
    ///
    /// # Errors
    /// `LengthMismatch` unless every row of weights is as long as `babies`; `MissingDigits`, `InvalidGaloisElement`,
    /// `LimbMismatch`, `RingMismatch`, `DeviceMismatch`.
    pub fn hoisted_sums(
        &self,
        c: [&RingPoly; 2],
        babies: &[Baby<'_>],
        weights: &[Vec<Option<&SubringPoly>>],
    ) -> Result<Vec<[RingPoly; 2]>> {
        const OP: &str = "hoisted_sums";
        let _span = primitive(OP);
        let limbs = self.limbs;
        for c in c {
            check_rings(OP, &self.ring, &c.ring)?;
            check_contains(OP, c.limbs, Limbs::q(limbs.q))?;
        }
        for weights in weights {
            check_length("weights of a giant step (one a baby step)", babies.len(), weights.len())?;
            for weight in weights.iter().flatten() {
                check_rings(OP, &self.ring, &weight.ring)?;
                check_contains(OP, weight.limbs, limbs)?;
            }
        }
        if babies.is_empty() {
            let zero = RingPoly::zero(&self.ring, limbs)?;
            return Ok(weights.iter().map(|_| [zero.clone(), zero.clone()]).collect());
        }
        let sums: Vec<[Storage; 2]> = dispatch!(self.ring, |b| {
            let babies = babies.iter().map(|baby| self.baby_step(b, OP, baby));
            let weights = weights.iter().map(|row| {
                let views = row.iter().map(|weight| {
                    weight.map(|w| Ok(Weight { words: w.view(b, OP)?, m: w.m })).transpose()
                });
                views.collect()
            });
            let sums = HoistedSums {
                n: self.ring.n(),
                limbs,
                digits: self.bufs(b, OP)?,
                c: [c[0].view(b, OP)?, c[1].view(b, OP)?],
                special: self.ring.basis().special_product(limbs.q),
                babies: babies.collect::<Result<_>>()?,
                weights: weights.collect::<Result<_>>()?,
            };
            let sums = b.hoisted_sums(&sums)?;
            sums.into_iter().map(|pair| pair.map(|buf| store(b, buf))).collect()
        });
        Ok(sums.into_iter().map(|pair| self.pair(pair)).collect())
    }

    fn baby_step<'a, B: Backend>(
        &self,
        backend: &B,
        op: &'static str,
        baby: &Baby<'a>,
    ) -> Result<Option<BabyStep<'a, B::Buf>>> {
        let Baby::Switched { galois, key } = *baby else { return Ok(None) };
        let galois = GaloisElement::new(galois.get(), self.ring.n())?;
        let keys = views(backend, op, check_key(op, &self.ring, self.limbs, key)?)?;
        Ok(Some(BabyStep { galois, keys }))
    }

    pub(crate) fn bufs<B: Backend>(&self, backend: &B, op: &'static str) -> Result<Vec<&B::Buf>> {
        self.parts.iter().map(|part| backend.buf(op, part)).collect()
    }

    fn pair(&self, halves: [Storage; 2]) -> [RingPoly; 2] {
        halves.map(|data| RingPoly::from_parts(self.ring.clone(), self.limbs, data))
    }
}

/// One summand of [`Digits::hoisted_sums`].
#[derive(Clone, Copy)]
pub enum Baby<'a> {
    /// The pair itself times P.
    Identity,
    /// Its image under `X -> X^galois`, switched back by a key.
    Switched {
        /// The automorphism, applied after the key switch.
        galois: GaloisElement,
        /// What switches from the secret whose image is the old one, see [`Digits::inner_product`].
        key: &'a [[RingPoly; 2]],
    },
}

impl fmt::Debug for Baby<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("Identity"),
            Self::Switched { galois, .. } => write!(f, "Switched({})", galois.get()),
        }
    }
}

/// The buffers of a key.
pub(crate) fn views<'a, B: Backend>(
    backend: &B,
    op: &'static str,
    key: &'a [[RingPoly; 2]],
) -> Result<Vec<[View<'a, B::Buf>; 2]>> {
    key.iter().map(|[k0, k1]| Ok([k0.view(backend, op)?, k1.view(backend, op)?])).collect()
}

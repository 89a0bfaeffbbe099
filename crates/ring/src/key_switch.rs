//! Key switches up to the division by P.

use crate::automorphism::GaloisElement;
use crate::backend::{Backend, KeySwitch, Member, Source, Storage, SwitchSum, View, dispatch};
use crate::basis::Limbs;
use crate::digits::{Digits, check_key, decompose_transforms, extended, views};
use crate::error::{Error, Result};
use crate::poly::{RingPoly, check_contains, check_rings, store};
use crate::ring::Ring;
use cipherform_profile::{Counter, count, primitive};
use std::sync::Arc;

const OP: &str = "key_switch";

/// What is multiplied by P and added to the halves of a key switch.
type Plus<'a> = [Option<&'a RingPoly>; 2];

impl RingPoly {
    /// Decomposes and multiplies with a key, adds multiples of P and applies an automorphism: both halves h of
    ///
    /// `φ(P·plus[h] + Σ_d digit_d(self) · key[d][h])` over {q, all special}, q the q-limbs of `self`,
    ///
    /// that is [`RingPoly::decompose`], [`Digits::inner_product`], [`RingPoly::add_special_multiple_assign`] and
    /// [`RingPoly::automorphism`] in one pass that writes no digit to memory. A division by P, or by P and primes of Q
    /// at once, is what remains of a rotation (`plus = [Some(c0), None]`) or of a relinearization
    /// (`plus = [Some(d0), Some(d1)]`).
    ///
    /// `plus` has the q-limbs of `self` at least; key polynomials may have more limbs and the key more digits.
    /// Cost: the transforms of [`RingPoly::decompose`], one pass over the key.
    ///
    /// # Errors
    /// `InvalidBasis` without special primes, `MissingDigits`, `InvalidGaloisElement`, `LimbMismatch`, `RingMismatch`,
    /// `DeviceMismatch`.
    pub fn key_switch(
        &self,
        key: &[[RingPoly; 2]],
        plus: [Option<&RingPoly>; 2],
        galois: Option<GaloisElement>,
    ) -> Result<[RingPoly; 2]> {
        let _span = primitive(OP);
        let limbs = extended(self)?;
        let shared = Shared::new(&self.ring, limbs, key, galois)?;
        shared.check_plus(plus)?;
        count(Counter::LimbNtts, decompose_transforms(&self.ring, limbs));
        let halves = dispatch!(self.ring, |b| {
            let member =
                Member { source: Source::Poly(self.view(b, OP)?), plus: views_of(b, plus)? };
            b.key_switch(&member, &shared.operands(b)?)?.map(|buf| store(b, buf))
        });
        Ok(shared.pair(halves))
    }

    /// A step of a sum of rotations that is kept times P: both halves h of
    ///
    /// `next[h] + φ(lifted_h + Σ_d digit_d(self) · key[d][h])` over {q, all special}, lifted_1 = 0,
    ///
    /// that is [`RingPoly::key_switch`], which `lifted` joins before the automorphism, and [`RingPoly::add_assign`].
    /// Cost: that of [`RingPoly::key_switch`].
    ///
    /// # Errors
    /// As [`RingPoly::key_switch`]; `LimbMismatch` unless `lifted` and `next` have exactly the limbs of the result.
    pub fn key_switch_sum(
        &self,
        key: &[[RingPoly; 2]],
        lifted: &RingPoly,
        galois: Option<GaloisElement>,
        next: Option<&[RingPoly; 2]>,
    ) -> Result<[RingPoly; 2]> {
        let _span = primitive(OP);
        let limbs = extended(self)?;
        let shared = Shared::new(&self.ring, limbs, key, galois)?;
        for x in std::iter::once(lifted).chain(next.into_iter().flatten()) {
            check_rings(OP, &self.ring, &x.ring)?;
            if x.limbs != limbs {
                return Err(Error::LimbMismatch { op: OP, needed: limbs, got: x.limbs });
            }
        }
        count(Counter::LimbNtts, decompose_transforms(&self.ring, limbs));
        let halves = dispatch!(self.ring, |b| {
            let member = Member { source: Source::Poly(self.view(b, OP)?), plus: [None, None] };
            let next = match next {
                Some([next0, next1]) => Some([next0.view(b, OP)?, next1.view(b, OP)?]),
                None => None,
            };
            let sum = SwitchSum { lifted: lifted.view(b, OP)?, next };
            b.key_switch_sum(&member, &shared.operands(b)?, &sum)?.map(|buf| store(b, buf))
        });
        Ok(shared.pair(halves))
    }

    /// [`RingPoly::key_switch`] of every member of a batch with the same q-limbs, in order: polynomials, each with what
    /// is added to its halves. Cost: that of the members; a device may read the key once for all of them.
    ///
    /// # Errors
    /// As [`RingPoly::key_switch`]; `LimbMismatch` between members.
    pub fn key_switch_many(
        batch: &[(&RingPoly, [Option<&RingPoly>; 2])],
        key: &[[RingPoly; 2]],
        galois: Option<GaloisElement>,
    ) -> Result<Vec<[RingPoly; 2]>> {
        let _span = primitive(OP);
        let Some((first, _)) = batch.first() else { return Ok(Vec::new()) };
        let limbs = extended(first)?;
        let shared = Shared::new(&first.ring, limbs, key, galois)?;
        for (member, plus) in batch {
            check_rings(OP, &first.ring, &member.ring)?;
            if member.limbs != first.limbs {
                return Err(Error::LimbMismatch { op: OP, needed: first.limbs, got: member.limbs });
            }
            shared.check_plus(*plus)?;
        }
        let transforms = decompose_transforms(&first.ring, limbs);
        count(Counter::LimbNtts, batch.len() as u64 * transforms);
        let pairs: Vec<[Storage; 2]> = dispatch!(first.ring, |b| {
            let members = batch.iter().map(|(poly, plus)| {
                Ok(Member { source: Source::Poly(poly.view(b, OP)?), plus: views_of(b, *plus)? })
            });
            let members = members.collect::<Result<Vec<_>>>()?;
            let pairs = b.key_switch_many(&members, &shared.operands(b)?)?;
            pairs.into_iter().map(|pair| pair.map(|buf| store(b, buf))).collect()
        });
        Ok(pairs.into_iter().map(|halves| shared.pair(halves)).collect())
    }
}

impl Digits {
    /// [`RingPoly::key_switch`] of the polynomial whose digits these are: for several automorphisms of one polynomial.
    ///
    /// Cost: no transform, one pass over digits and key.
    ///
    /// # Errors
    /// `MissingDigits`, `InvalidGaloisElement`, `LimbMismatch`, `RingMismatch`, `DeviceMismatch`.
    pub fn key_switch(
        &self,
        key: &[[RingPoly; 2]],
        plus: [Option<&RingPoly>; 2],
        galois: Option<GaloisElement>,
    ) -> Result<[RingPoly; 2]> {
        let _span = primitive(OP);
        let shared = Shared::new(self.ring(), self.limbs(), key, galois)?;
        shared.check_plus(plus)?;
        let halves = dispatch!(self.ring(), |b| {
            let member =
                Member { source: Source::Digits(self.bufs(b, OP)?), plus: views_of(b, plus)? };
            b.key_switch(&member, &shared.operands(b)?)?.map(|buf| store(b, buf))
        });
        Ok(shared.pair(halves))
    }
}

/// What the members of a batch share, checked.
struct Shared<'a> {
    ring: &'a Arc<Ring>,
    limbs: Limbs,
    key: &'a [[RingPoly; 2]],
    galois: Option<GaloisElement>,
}

impl<'a> Shared<'a> {
    fn new(
        ring: &'a Arc<Ring>,
        limbs: Limbs,
        key: &'a [[RingPoly; 2]],
        galois: Option<GaloisElement>,
    ) -> Result<Self> {
        let key = check_key(OP, ring, limbs, key)?;
        let galois = galois.map(|g| GaloisElement::new(g.get(), ring.n())).transpose()?;
        Ok(Self { ring, limbs, key, galois })
    }

    fn check_plus(&self, plus: Plus<'_>) -> Result<()> {
        for plus in plus.into_iter().flatten() {
            check_rings(OP, self.ring, &plus.ring)?;
            check_contains(OP, plus.limbs, Limbs::q(self.limbs.q))?;
        }
        Ok(())
    }

    fn operands<B: Backend>(&self, backend: &B) -> Result<KeySwitch<'a, B::Buf>> {
        Ok(KeySwitch {
            limbs: self.limbs,
            special: self.ring.basis().special_product(self.limbs.q),
            keys: views(backend, OP, self.key)?,
            galois: self.galois,
        })
    }

    fn pair(&self, halves: [Storage; 2]) -> [RingPoly; 2] {
        halves.map(|data| RingPoly::from_parts(self.ring.clone(), self.limbs, data))
    }
}

fn views_of<'a, B: Backend>(
    backend: &B,
    [plus0, plus1]: Plus<'a>,
) -> Result<[Option<View<'a, B::Buf>>; 2]> {
    let view = |plus: Option<&'a RingPoly>| plus.map(|plus| plus.view(backend, OP)).transpose();
    Ok([view(plus0)?, view(plus1)?])
}

//! From one modulus to another: division by primes, digits, lifting, the same words in another ring.

use crate::backend::{Backend, dispatch};
use crate::basis::Limbs;
use crate::digits::Digits;
use crate::error::{Error, Result};
use crate::poly::{RingPoly, check_contains, check_rings, store};
use crate::ring::Ring;
use cipherform_profile::{Counter, count, primitive};
use std::sync::Arc;

impl RingPoly {
    /// Divides by the last prime `q_l` of Q that is here, rounding to nearest: `floor((x + (q_l-1)/2) / q_l)`,
    /// x in [0, Q). Limbs {q, 0} -> {q-1, 0}; a coefficient's error is at most 1/2.
    ///
    /// Cost: q transforms.
    ///
    /// # Errors
    /// `LimbMismatch` with one q-limb or with special limbs.
    pub fn rescale(self) -> Result<RingPoly> {
        self.rescale_by(1)
    }

    /// Divides by the product of the last `primes` primes of Q that are here, rounding once to nearest. Limbs
    /// {q, 0} -> {q - primes, 0}; a coefficient's error is at most `1/2 + primes·2^-49`. Nothing happens for 0 primes.
    ///
    /// The remainder is that of [`RingPoly::mod_down`], exact for one prime. Cost: q transforms.
    ///
    /// # Errors
    /// `LimbMismatch` unless more than `primes` q-limbs and no special limbs are here.
    pub fn rescale_by(self, primes: usize) -> Result<RingPoly> {
        let _span = primitive("rescale");
        if primes == 0 && self.limbs.p == 0 {
            return Ok(self);
        }
        self.divide("rescale", 0, primes)
    }

    /// Divides by P = Π p_i, rounding to nearest. Limbs {q, all special} -> {q, 0}.
    ///
    /// With h = floor(P/2): `(x + h - [x + h]_P) / P`, where `[x + h]_P` comes from a base conversion that is
    /// corrected by the integer estimate of `Σ y_i/p_i` to 50 bits. A coefficient's error is at most
    /// `1/2 + k·2^-49`, k special primes.
    ///
    /// Cost: k inverse and q forward transforms.
    ///
    /// # Errors
    /// `LimbMismatch` without special limbs.
    pub fn mod_down(self) -> Result<RingPoly> {
        self.mod_down_rescale(0)
    }

    /// Divides by P and the last `primes` primes of Q that are here at once, rounding once to nearest. Limbs
    /// {q, all special} -> {q - primes, 0}.
    ///
    /// As [`RingPoly::mod_down`] with k the number of all primes that go away; one rounding and `q - primes` fewer
    /// transforms than [`RingPoly::mod_down`] and [`RingPoly::rescale_by`] one after the other.
    /// Cost: `primes` + k inverse and `q - primes` forward transforms.
    ///
    /// # Errors
    /// `LimbMismatch` without special limbs or unless more than `primes` q-limbs are here.
    pub fn mod_down_rescale(self, primes: usize) -> Result<RingPoly> {
        let _span = primitive("mod_down");
        let special = self.ring.basis().p().len().max(1);
        self.divide("mod_down", special, primes)
    }

    /// [`RingPoly::rescale_by`] of every polynomial of a batch with the same limbs, in order: on a device that is filled
    /// by many rows only, faster than one after the other.
    ///
    /// # Errors
    /// As [`RingPoly::rescale_by`]; `LimbMismatch`, `RingMismatch` or `DeviceMismatch` between members.
    pub fn rescale_many(polys: Vec<RingPoly>, primes: usize) -> Result<Vec<RingPoly>> {
        let _span = primitive("rescale");
        if primes == 0 && polys.iter().all(|a| a.limbs.p == 0) {
            return Ok(polys);
        }
        Self::divide_many("rescale", polys, 0, primes)
    }

    /// [`RingPoly::mod_down_rescale`] of every polynomial of a batch with the same limbs, as [`RingPoly::rescale_many`]: of
    /// both halves of a key switch.
    ///
    /// # Errors
    /// As [`RingPoly::mod_down_rescale`]; `LimbMismatch`, `RingMismatch` or `DeviceMismatch` between members.
    pub fn mod_down_many(polys: Vec<RingPoly>, primes: usize) -> Result<Vec<RingPoly>> {
        let _span = primitive("mod_down");
        let special = polys.first().map_or(0, |a| a.ring.basis().p().len());
        Self::divide_many("mod_down", polys, special.max(1), primes)
    }

    fn divide_many(
        op: &'static str,
        polys: Vec<RingPoly>,
        special: usize,
        primes: usize,
    ) -> Result<Vec<RingPoly>> {
        let Some(first) = polys.first() else { return Ok(polys) };
        let (ring, limbs) = (first.ring.clone(), first.limbs);
        let kept = check_division(op, limbs, special, primes)?;
        for member in &polys {
            check_rings(op, &ring, &member.ring)?;
            if member.limbs != limbs {
                return Err(Error::LimbMismatch { op, needed: limbs, got: member.limbs });
            }
        }
        count(Counter::LimbNtts, (polys.len() * limbs.rows()) as u64);
        let quotients: Vec<_> = dispatch!(ring, |b| {
            let bufs = polys.into_iter().map(|a| b.take(op, a.data)).collect::<Result<_>>()?;
            b.divide_many(bufs, limbs, kept)?.into_iter().map(|buf| store(b, buf)).collect()
        });
        let poly = |data| Self::from_parts(ring.clone(), Limbs::q(kept), data);
        Ok(quotients.into_iter().map(poly).collect())
    }

    /// Division by `special` special and the last `primes` other primes; `special` is what must be here.
    fn divide(self, op: &'static str, special: usize, primes: usize) -> Result<RingPoly> {
        let limbs = self.limbs;
        let kept = check_division(op, limbs, special, primes)?;
        count(Counter::LimbNtts, limbs.rows() as u64);
        let data =
            dispatch!(self.ring, |b| store(b, b.divide(b.take(op, self.data)?, limbs, kept)?));
        Ok(Self::from_parts(self.ring, Limbs::q(kept), data))
    }

    /// Lifts from q_0 to the first `q` primes of Q: the coefficients centred in [-(q_0-1)/2, (q_0-1)/2], as integers.
    /// Limbs {1, 0} -> {q, 0}. The first step of bootstrapping.
    ///
    /// Cost: 1 inverse and q - 1 forward transforms, none for q = 1.
    ///
    /// # Errors
    /// `LimbMismatch` with other limbs than {1, 0}, or if the basis has not `q` limbs.
    pub fn mod_raise(self, q: usize) -> Result<RingPoly> {
        const OP: &str = "mod_raise";
        let _span = primitive(OP);
        self.ring.basis().check_limbs(OP, Limbs::q(q))?;
        if self.limbs != Limbs::q(1) {
            return Err(Error::LimbMismatch { op: OP, needed: Limbs::q(1), got: self.limbs });
        }
        if q == 1 {
            return Ok(self);
        }
        count(Counter::LimbNtts, q as u64);
        let data = dispatch!(self.ring, |b| store(b, b.mod_raise(b.buf(OP, &self.data)?, q)?));
        Ok(Self::from_parts(self.ring, Limbs::q(q), data))
    }

    /// Cuts into digits and extends each to limbs {q, all special} (mod-up), q the q-limbs here.
    ///
    /// Digit d of primes [a, b), cut at q, has modulus `D = Π q_i`. Its own limbs are copied; any other limb r is
    /// `Σ_i y_i·(D/q_i) mod r` with `y_i = [x·(D/q_i)^-1]_{q_i}` centred, in [-(q_i-1)/2, (q_i-1)/2] (fast base
    /// conversion without correction). So all limbs of a digit agree on one integer `x + u·D` below `(b - a)·D/2` in
    /// absolute value. Centred, because that integer meets the errors of a key: a mean of `(b - a)·D/2` in every
    /// coefficient would make the noise of a key switch huge in the few slots near X = 1. And symmetric, so that
    /// decomposition and automorphisms commute word for word.
    ///
    /// Cost: q inverse transforms and, a digit, one forward transform for each limb that is not its own.
    /// Han–Ki (ePrint 2019/688), section 3.
    ///
    /// # Errors
    /// `InvalidBasis` without special primes.
    pub fn decompose(&self) -> Result<Digits> {
        Digits::decompose(self)
    }

    /// The same words in another ring, which has the same degree, device and primes in the rows that are here; its other
    /// primes and its digits may differ. No transform.
    ///
    /// # Errors
    /// `DeviceMismatch`, `LimbMismatch`, or `RingMismatch` for another degree or other primes.
    pub fn rebase(&self, ring: &Arc<Ring>) -> Result<RingPoly> {
        const OP: &str = "rebase";
        let (from, to) = (self.ring.basis(), ring.basis());
        if self.ring.device() != ring.device() {
            let (lhs, rhs) = (*self.ring.device(), *ring.device());
            return Err(Error::DeviceMismatch { op: OP, lhs, rhs });
        }
        to.check_limbs(OP, self.limbs)?;
        if from.n() != to.n() || !from.row_moduli(self.limbs).eq(to.row_moduli(self.limbs)) {
            return Err(Error::RingMismatch { op: OP });
        }
        Ok(Self::from_parts(ring.clone(), self.limbs, self.data.clone()))
    }

    /// Adds `P·c`, which is 0 on the special limbs. Limbs {q, all special}, those of `c` at least {q, 0}: how a
    /// polynomial joins an inner product before both are divided by P. No transform.
    ///
    /// # Errors
    /// `LimbMismatch` without special limbs; see [`RingPoly`].
    pub fn add_special_multiple_assign(&mut self, c: &RingPoly) -> Result<()> {
        const OP: &str = "add_special_multiple";
        check_rings(OP, &self.ring, &c.ring)?;
        check_contains(OP, c.limbs, Limbs::q(self.limbs.q))?;
        if self.limbs.p == 0 {
            let needed = Limbs { q: self.limbs.q, p: self.ring.basis().p().len().max(1) };
            return Err(Error::LimbMismatch { op: OP, needed, got: self.limbs });
        }
        let Self { ring, limbs, data, .. } = self;
        let scalars = ring.basis().special_product(limbs.q);
        dispatch!(ring, |b| b.mul_scalars_add(
            b.buf_mut(OP, data)?,
            *limbs,
            &c.view(b, OP)?,
            &scalars
        ))
    }
}

/// The q-limbs that a division leaves.
fn check_division(op: &'static str, got: Limbs, special: usize, primes: usize) -> Result<usize> {
    if got.q <= primes || got.p != special {
        let needed = Limbs { q: got.q.max(primes.saturating_add(1)), p: special };
        return Err(Error::LimbMismatch { op, needed, got });
    }
    Ok(got.q - primes)
}

//! Polynomials and their arithmetic.

use crate::automorphism::GaloisElement;
use crate::backend::{Backend, Multiple, Storage, View, dispatch};
use crate::basis::Limbs;
use crate::error::{Error, Result};
use crate::form::{Coeff, Form, Ntt};
use crate::modulus::Modulus;
use crate::ring::Ring;
use crate::subring::SubringPoly;
use cipherform_profile::{Counter, count, primitive};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use zeroize::Zeroize;

/// A polynomial of degree below n modulo the primes of its [`Limbs`], resting in NTT order.
///
/// Binary operations work on the limbs of `self`; the other operand may have more, its matching limbs are used.
/// All of them fail with `RingMismatch` or `DeviceMismatch` for operands of another ring and `LimbMismatch` for
/// operands without the limbs needed, and leave `self` unchanged then.
#[derive(Clone)]
pub struct RingPoly<F: Form = Ntt> {
    pub(crate) ring: Arc<Ring>,
    pub(crate) limbs: Limbs,
    pub(crate) data: Storage,
    form: PhantomData<F>,
}

impl<F: Form> fmt::Debug for RingPoly<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingPoly<{}>(n = {}, limbs = {})", F::NAME, self.ring.n(), self.limbs)
    }
}

impl<F: Form> Zeroize for RingPoly<F> {
    /// Overwrites every residue with 0: for polynomials that are secrets.
    fn zeroize(&mut self) {
        let Self { ring, data, .. } = self;
        dispatch!(ring, |b| {
            if let Ok(buf) = b.buf_mut("zeroize", data) {
                b.wipe(buf);
            }
        });
    }
}

/// Whether two rings can work together: the same device and the same primes.
pub(crate) fn check_rings(op: &'static str, lhs: &Arc<Ring>, rhs: &Arc<Ring>) -> Result<()> {
    if Arc::ptr_eq(lhs, rhs) {
        return Ok(());
    }
    if lhs.device() != rhs.device() {
        return Err(Error::DeviceMismatch { op, lhs: *lhs.device(), rhs: *rhs.device() });
    }
    if lhs.basis() != rhs.basis() {
        return Err(Error::RingMismatch { op });
    }
    Ok(())
}

/// Refuses an operand without all `needed` limbs.
pub(crate) fn check_contains(op: &'static str, got: Limbs, needed: Limbs) -> Result<()> {
    if got.contains(needed) { Ok(()) } else { Err(Error::LimbMismatch { op, needed, got }) }
}

impl<F: Form> RingPoly<F> {
    pub(crate) fn from_parts(ring: Arc<Ring>, limbs: Limbs, data: Storage) -> Self {
        Self { ring, limbs, data, form: PhantomData }
    }

    /// The zero polynomial.
    ///
    /// # Errors
    /// `LimbMismatch` if the basis has no such limbs.
    pub fn zero(ring: &Arc<Ring>, limbs: Limbs) -> Result<Self> {
        ring.basis().check_limbs("zero", limbs)?;
        let words = limbs.rows() * ring.n();
        let data = dispatch!(ring, |b| store(b, b.zeros(words)?));
        Ok(Self::from_parts(ring.clone(), limbs, data))
    }

    /// A polynomial from its words, limb-major: q rows, then special rows, `n` canonical residues each.
    ///
    /// # Errors
    /// `LimbMismatch` if the basis has no such limbs, `LengthMismatch`, `NotCanonical`.
    pub fn from_residues(ring: &Arc<Ring>, limbs: Limbs, words: Vec<u64>) -> Result<Self> {
        ring.basis().check_limbs("from_residues", limbs)?;
        let n = ring.n();
        check_length("residues", limbs.rows() * n, words.len())?;
        for (limb, (row, modulus)) in
            words.chunks_exact(n).zip(ring.basis().row_moduli(limbs)).enumerate()
        {
            let p = modulus.value();
            if let Some(index) = row.iter().position(|&w| w >= p) {
                return Err(Error::NotCanonical { limb, index, modulus: p });
            }
        }
        let data = dispatch!(ring, |b| store(b, b.upload(words)?));
        Ok(Self::from_parts(ring.clone(), limbs, data))
    }

    /// The words, limb-major, canonical.
    ///
    /// # Errors
    /// Those of the device.
    pub fn to_residues(&self) -> Result<Vec<u64>> {
        dispatch!(self.ring, |b| b.download(b.buf("to_residues", &self.data)?))
    }

    /// Which primes this polynomial is known modulo.
    #[must_use]
    pub fn limbs(&self) -> Limbs {
        self.limbs
    }

    /// The ring that this polynomial belongs to.
    #[must_use]
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// A copy of some of the limbs.
    ///
    /// # Errors
    /// `LimbMismatch` if a wanted limb is not there.
    pub fn with_limbs(&self, limbs: Limbs) -> Result<Self> {
        self.ring.basis().check_limbs("with_limbs", limbs)?;
        check_contains("with_limbs", self.limbs, limbs)?;
        let data =
            dispatch!(self.ring, |b| store(b, b.select(&self.view(b, "with_limbs")?, limbs)?));
        Ok(Self::from_parts(self.ring.clone(), limbs, data))
    }

    /// Forgets all but the first `q` primes of Q; special limbs are forgotten too. No division takes place.
    ///
    /// # Errors
    /// `LimbMismatch` if `q` is 0 or more than there is.
    pub fn drop_limbs(&mut self, q: usize) -> Result<()> {
        let limbs = Limbs::q(q);
        self.ring.basis().check_limbs("drop_limbs", limbs)?;
        check_contains("drop_limbs", self.limbs, limbs)?;
        let Self { ring, data, .. } = self;
        dispatch!(ring, |b| b.truncate(b.buf_mut("drop_limbs", data)?, q)?);
        self.limbs = limbs;
        Ok(())
    }

    pub(crate) fn view<'a, B: Backend>(
        &'a self,
        backend: &B,
        op: &'static str,
    ) -> Result<View<'a, B::Buf>> {
        Ok(View { buf: backend.buf(op, &self.data)?, limbs: self.limbs })
    }

    /// Refuses an operand of another ring or without the limbs of `self`.
    fn check_operand(&self, op: &'static str, rhs: &Self) -> Result<()> {
        check_rings(op, &self.ring, &rhs.ring)?;
        check_contains(op, rhs.limbs, self.limbs)
    }

    /// Adds `rhs`.
    ///
    /// # Errors
    /// See [`RingPoly`].
    pub fn add_assign(&mut self, rhs: &Self) -> Result<()> {
        self.check_operand("add", rhs)?;
        let Self { ring, limbs, data, .. } = self;
        dispatch!(ring, |b| b.add(b.buf_mut("add", data)?, *limbs, &rhs.view(b, "add")?))
    }

    /// Subtracts `rhs`.
    ///
    /// # Errors
    /// See [`RingPoly`].
    pub fn sub_assign(&mut self, rhs: &Self) -> Result<()> {
        self.check_operand("sub", rhs)?;
        let Self { ring, limbs, data, .. } = self;
        dispatch!(ring, |b| b.sub(b.buf_mut("sub", data)?, *limbs, &rhs.view(b, "sub")?))
    }

    /// Changes the sign.
    ///
    /// # Errors
    /// Those of the device.
    pub fn neg_assign(&mut self) -> Result<()> {
        let Self { ring, limbs, data, .. } = self;
        dispatch!(ring, |b| b.neg(b.buf_mut("neg", data)?, *limbs))
    }

    /// Multiplies by an integer of any size and sign.
    ///
    /// # Errors
    /// Those of the device.
    pub fn mul_integer_assign(&mut self, factor: i128) -> Result<()> {
        let scalars = self.scalars(factor);
        let Self { ring, limbs, data, .. } = self;
        dispatch!(ring, |b| b.mul_scalars(b.buf_mut("mul_integer", data)?, *limbs, &scalars))
    }

    /// The residues of an integer, one a row.
    fn scalars(&self, value: i128) -> Vec<u64> {
        self.ring.basis().row_moduli(self.limbs).map(|m| m.reduce_i128(value)).collect()
    }
}

/// Lifts a backend's buffer into the storage of any device.
pub(crate) fn store<B: Backend>(_: &B, buf: B::Buf) -> Storage {
    B::store(buf)
}

pub(crate) fn check_length(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::LengthMismatch { what, expected, got }) }
}

impl RingPoly<Coeff> {
    /// The polynomial with `n` signed coefficients.
    ///
    /// # Errors
    /// `LengthMismatch` unless there are n coefficients; `LimbMismatch`.
    pub fn from_i64(ring: &Arc<Ring>, limbs: Limbs, coefficients: &[i64]) -> Result<Self> {
        ring.basis().check_limbs("from_i64", limbs)?;
        check_length("coefficients", ring.n(), coefficients.len())?;
        let data = residues(ring, limbs, coefficients, Modulus::reduce_i64)?;
        Ok(Self::from_parts(ring.clone(), limbs, data))
    }

    /// The polynomial with `n` signed coefficients.
    ///
    /// # Errors
    /// `LengthMismatch` unless there are n coefficients; `LimbMismatch`.
    pub fn from_i128(ring: &Arc<Ring>, limbs: Limbs, coefficients: &[i128]) -> Result<Self> {
        ring.basis().check_limbs("from_i128", limbs)?;
        check_length("coefficients", ring.n(), coefficients.len())?;
        let data = residues(ring, limbs, coefficients, Modulus::reduce_i128)?;
        Ok(Self::from_parts(ring.clone(), limbs, data))
    }

    /// Transforms to NTT order. Cost: one transform a limb.
    ///
    /// # Errors
    /// Those of the device.
    pub fn into_ntt(mut self) -> Result<RingPoly> {
        let _span = primitive("ntt");
        count(Counter::LimbNtts, self.limbs.rows() as u64);
        let Self { ring, limbs, data, .. } = &mut self;
        dispatch!(ring, |b| b.ntt(b.buf_mut("ntt", data)?, *limbs)?);
        Ok(RingPoly::from_parts(self.ring, self.limbs, self.data))
    }
}

/// The residues of every coefficient, limb-major.
pub(crate) fn residues<T: Copy + Sync>(
    ring: &Ring,
    limbs: Limbs,
    coefficients: &[T],
    reduce: impl Fn(&Modulus, T) -> u64 + Sync,
) -> Result<Storage> {
    let moduli: Vec<&Modulus> = ring.basis().row_moduli(limbs).collect();
    build(ring, limbs, coefficients.len(), |row, words| {
        let modulus = moduli[row];
        words.iter_mut().zip(coefficients).for_each(|(word, &c)| *word = reduce(modulus, c));
    })
}

/// Rows that `fill` writes, on the ring's device.
pub(crate) fn build(
    ring: &Ring,
    limbs: Limbs,
    width: usize,
    fill: impl Fn(usize, &mut [u64]) + Sync,
) -> Result<Storage> {
    Ok(dispatch!(ring, |b| store(b, b.build(limbs.rows(), width, fill)?)))
}

impl RingPoly {
    /// Transforms to coefficients. Cost: one transform a limb.
    ///
    /// # Errors
    /// Those of the device.
    pub fn into_coeff(mut self) -> Result<RingPoly<Coeff>> {
        let _span = primitive("intt");
        count(Counter::LimbNtts, self.limbs.rows() as u64);
        let Self { ring, limbs, data, .. } = &mut self;
        dispatch!(ring, |b| b.intt(b.buf_mut("intt", data)?, *limbs)?);
        Ok(RingPoly::from_parts(self.ring, self.limbs, self.data))
    }

    /// Multiplies by `rhs`.
    ///
    /// # Errors
    /// See [`RingPoly`].
    pub fn mul_assign(&mut self, rhs: &RingPoly) -> Result<()> {
        self.check_operand("mul", rhs)?;
        let Self { ring, limbs, data, .. } = self;
        dispatch!(ring, |b| b.mul(b.buf_mut("mul", data)?, *limbs, &rhs.view(b, "mul")?))
    }

    /// The product with `rhs`, over the limbs of `self`.
    ///
    /// # Errors
    /// See [`RingPoly`].
    pub fn product(&self, rhs: &RingPoly) -> Result<RingPoly> {
        const OP: &str = "product";
        self.check_operand(OP, rhs)?;
        let data = dispatch!(self.ring, |x| {
            store(x, x.product(&self.view(x, OP)?, self.limbs, &rhs.view(x, OP)?)?)
        });
        Ok(Self::from_parts(self.ring.clone(), self.limbs, data))
    }

    /// Adds the product of `a` and `b`.
    ///
    /// # Errors
    /// See [`RingPoly`].
    pub fn mul_add_assign(&mut self, a: &RingPoly, b: &RingPoly) -> Result<()> {
        const OP: &str = "mul_add";
        self.check_operand(OP, a)?;
        self.check_operand(OP, b)?;
        let Self { ring, limbs, data, .. } = self;
        dispatch!(ring, |x| {
            x.mul_add(x.buf_mut(OP, data)?, *limbs, &a.view(x, OP)?, &b.view(x, OP)?)
        })
    }

    /// `[a0·b0, a0·b1 + a1·b0, a1·b1]` over the limbs of a0, in one pass: the product of two ciphertexts.
    ///
    /// # Errors
    /// See [`RingPoly`].
    pub fn tensor(a: [&RingPoly; 2], b: [&RingPoly; 2]) -> Result<[RingPoly; 3]> {
        const OP: &str = "tensor";
        let ([first, a1], [b0, b1]) = (a, b);
        for operand in [a1, b0, b1] {
            first.check_operand(OP, operand)?;
        }
        let out = dispatch!(first.ring, |x| {
            let (a, b) =
                ([first.view(x, OP)?, a1.view(x, OP)?], [b0.view(x, OP)?, b1.view(x, OP)?]);
            x.tensor(a, first.limbs, b)?.map(|buf| store(x, buf))
        });
        Ok(out.map(|data| Self::from_parts(first.ring.clone(), first.limbs, data)))
    }

    /// Adds a multiple of `x` by an integer of any size and sign, in one pass. Limbs {q, 0}, those of `x` at least that.
    ///
    /// # Errors
    /// `LimbMismatch` with special limbs; see [`RingPoly`].
    pub fn add_multiple_assign(&mut self, x: &RingPoly, factor: i128) -> Result<()> {
        const OP: &str = "add_multiple";
        self.check_operand(OP, x)?;
        if self.limbs.p != 0 {
            let needed = Limbs::q(self.limbs.q);
            return Err(Error::LimbMismatch { op: OP, needed, got: self.limbs });
        }
        let scalars = self.scalars(factor);
        let Self { ring, limbs, data, .. } = self;
        dispatch!(ring, |b| {
            b.mul_scalars_add(b.buf_mut(OP, data)?, *limbs, &x.view(b, OP)?, &scalars)
        })
    }

    /// `Σ_i factor_i · a_i` over the first `q` limbs, integers of any size and sign, in one pass. At least one term.
    ///
    /// # Errors
    /// `LengthMismatch` without terms; see [`RingPoly`].
    pub fn combination(q: usize, terms: &[(&RingPoly, i128)]) -> Result<RingPoly> {
        const OP: &str = "combination";
        let limbs = Limbs::q(q);
        let Some((first, _)) = terms.first() else {
            return Err(Error::LengthMismatch { what: "terms of a sum", expected: 1, got: 0 });
        };
        let ring = first.ring.clone();
        ring.basis().check_limbs(OP, limbs)?;
        Self::check_terms(OP, &ring, limbs, terms)?;
        let data = dispatch!(ring, |b| {
            let terms = Self::views(b, OP, &ring, limbs, terms)?;
            store(b, b.combine(None, limbs, &terms)?)
        });
        Ok(Self::from_parts(ring, limbs, data))
    }

    /// Adds [`RingPoly::combination`] of any number of terms, in one pass. Limbs {q, 0}, those of the terms at least that.
    ///
    /// # Errors
    /// `LimbMismatch` with special limbs; see [`RingPoly`].
    pub fn add_combination(self, terms: &[(&RingPoly, i128)]) -> Result<RingPoly> {
        const OP: &str = "add_combination";
        if terms.is_empty() {
            return Ok(self);
        }
        let Self { ring, limbs, data, .. } = self;
        if limbs.p != 0 {
            return Err(Error::LimbMismatch { op: OP, needed: Limbs::q(limbs.q), got: limbs });
        }
        Self::check_terms(OP, &ring, limbs, terms)?;
        let data = dispatch!(ring, |b| {
            let terms = Self::views(b, OP, &ring, limbs, terms)?;
            store(b, b.combine(Some(b.take(OP, data)?), limbs, &terms)?)
        });
        Ok(Self::from_parts(ring, limbs, data))
    }

    fn check_terms(
        op: &'static str,
        ring: &Arc<Ring>,
        limbs: Limbs,
        terms: &[(&RingPoly, i128)],
    ) -> Result<()> {
        terms.iter().try_for_each(|(a, _)| {
            check_rings(op, ring, &a.ring)?;
            check_contains(op, a.limbs, limbs)
        })
    }

    /// Terms of a sum with the residues of their factors.
    fn views<'a, B: Backend>(
        backend: &B,
        op: &'static str,
        ring: &Ring,
        limbs: Limbs,
        terms: &[(&'a RingPoly, i128)],
    ) -> Result<Vec<Multiple<'a, B::Buf>>> {
        let term = |&(a, factor): &(&'a RingPoly, i128)| {
            let scalars = ring.basis().row_moduli(limbs).map(|m| m.reduce_i128(factor)).collect();
            Ok((a.view(backend, op)?, scalars))
        };
        terms.iter().map(term).collect()
    }

    /// Adds an integer constant, i.e. the same integer to every evaluation.
    ///
    /// # Errors
    /// Those of the device.
    pub fn add_integer_assign(&mut self, constant: i128) -> Result<()> {
        let scalars = self.scalars(constant);
        let Self { ring, limbs, data, .. } = self;
        dispatch!(ring, |b| b.add_scalars(b.buf_mut("add_integer", data)?, *limbs, &scalars))
    }

    /// Multiplies by `X^exponent`, any integer: `X^-1 = -X^(n-1)`. With `n/2` every slot is multiplied by i.
    ///
    /// # Errors
    /// Those of the device.
    pub fn mul_monomial_assign(&mut self, exponent: i64) -> Result<()> {
        let Self { ring, limbs, data, .. } = self;
        let e = exponent.rem_euclid(2 * ring.n() as i64) as usize;
        dispatch!(ring, |b| b.mul_monomial(b.buf_mut("mul_monomial", data)?, *limbs, e))
    }

    /// The image under `X -> X^g`.
    ///
    /// # Errors
    /// `InvalidGaloisElement` if `g` was made for a larger degree.
    pub fn automorphism(&self, g: GaloisElement) -> Result<RingPoly> {
        let _span = primitive("automorphism");
        let g = GaloisElement::new(g.get(), self.ring.n())?;
        let data = dispatch!(self.ring, |b| {
            store(b, b.automorphism(&self.view(b, "automorphism")?, self.limbs, g)?)
        });
        Ok(Self::from_parts(self.ring.clone(), self.limbs, data))
    }

    /// Multiplies by a polynomial in `X^(n/m)`.
    ///
    /// # Errors
    /// See [`RingPoly`].
    pub fn mul_subring_assign(&mut self, rhs: &SubringPoly) -> Result<()> {
        const OP: &str = "mul_subring";
        check_rings(OP, &self.ring, &rhs.ring)?;
        check_contains(OP, rhs.limbs, self.limbs)?;
        let Self { ring, limbs, data, .. } = self;
        dispatch!(ring, |b| {
            b.mul_subring(b.buf_mut(OP, data)?, *limbs, &rhs.view(b, OP)?, rhs.m)
        })
    }

    /// Adds the product of `a` and a polynomial in `X^(n/m)`.
    ///
    /// # Errors
    /// See [`RingPoly`].
    pub fn mul_subring_add_assign(&mut self, a: &RingPoly, rhs: &SubringPoly) -> Result<()> {
        const OP: &str = "mul_subring_add";
        self.check_operand(OP, a)?;
        check_rings(OP, &self.ring, &rhs.ring)?;
        check_contains(OP, rhs.limbs, self.limbs)?;
        let Self { ring, limbs, data, .. } = self;
        dispatch!(ring, |b| {
            let (a, rhs_view) = (a.view(b, OP)?, rhs.view(b, OP)?);
            b.mul_subring_add(b.buf_mut(OP, data)?, *limbs, &a, &rhs_view, rhs.m)
        })
    }
}

//! Polynomials in Y = X^(n/m), held by m words a limb.

use crate::backend::{Backend, Storage, View, dispatch};
use crate::basis::Limbs;
use crate::error::{Error, Result};
use crate::modulus::Modulus;
use crate::poly::residues;
use crate::ring::Ring;
use cipherform_profile::{Counter, count, primitive};
use std::fmt;
use std::sync::Arc;

/// A polynomial in `Y = X^(n/m)`, m a power of two up to n, in NTT order: each of its m words a limb stands for a
/// run of n/m equal words of the full row (see [`crate::ntt`]). How a plaintext of period m/2 slots is held.
#[derive(Clone)]
pub struct SubringPoly {
    pub(crate) ring: Arc<Ring>,
    pub(crate) limbs: Limbs,
    pub(crate) m: usize,
    data: Storage,
}

impl fmt::Debug for SubringPoly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubringPoly(m = {} of n = {}, limbs = {})", self.m, self.ring.n(), self.limbs)
    }
}

impl SubringPoly {
    /// The polynomial `Σ_i c_i·X^(i·n/m)` from its m coefficients; m is the slice's length.
    ///
    /// Cost: an m-point transform a limb; below m = n it is not counted as a limb transform.
    ///
    /// # Errors
    /// `LengthMismatch` unless m is a power of two up to n; `LimbMismatch`.
    pub fn from_i64(ring: &Arc<Ring>, limbs: Limbs, coefficients: &[i64]) -> Result<Self> {
        check(ring, limbs, coefficients.len())?;
        let data = residues(ring, limbs, coefficients, Modulus::reduce_i64)?;
        Self::transform(ring, limbs, coefficients.len(), data)
    }

    /// As [`SubringPoly::from_i64`] for larger coefficients.
    ///
    /// # Errors
    /// `LengthMismatch` unless m is a power of two up to n; `LimbMismatch`.
    pub fn from_i128(ring: &Arc<Ring>, limbs: Limbs, coefficients: &[i128]) -> Result<Self> {
        check(ring, limbs, coefficients.len())?;
        let data = residues(ring, limbs, coefficients, Modulus::reduce_i128)?;
        Self::transform(ring, limbs, coefficients.len(), data)
    }

    fn transform(ring: &Arc<Ring>, limbs: Limbs, m: usize, mut data: Storage) -> Result<Self> {
        let _span = primitive("ntt");
        if m == ring.n() {
            count(Counter::LimbNtts, limbs.rows() as u64);
        }
        dispatch!(ring, |b| b.subring_ntt(b.buf_mut("subring", &mut data)?, limbs, m)?);
        Ok(Self { ring: ring.clone(), limbs, m, data })
    }

    /// Number of coefficients, and of words a limb.
    #[must_use]
    pub fn m(&self) -> usize {
        self.m
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

    /// The m words a limb, limb-major.
    ///
    /// # Errors
    /// Those of the device.
    pub fn to_residues(&self) -> Result<Vec<u64>> {
        dispatch!(self.ring, |b| b.download(b.buf("to_residues", &self.data)?))
    }

    pub(crate) fn view<'a, B: Backend>(
        &'a self,
        backend: &B,
        op: &'static str,
    ) -> Result<View<'a, B::Buf>> {
        Ok(View { buf: backend.buf(op, &self.data)?, limbs: self.limbs })
    }
}

fn check(ring: &Ring, limbs: Limbs, m: usize) -> Result<()> {
    ring.basis().check_limbs("subring", limbs)?;
    if !m.is_power_of_two() || m > ring.n() {
        return Err(Error::LengthMismatch {
            what: "subring coefficients (a power of two up to the degree)",
            expected: ring.n(),
            got: m,
        });
    }
    Ok(())
}

//! What is computed once per basis.

use super::kernels::{Constants, Factor};
use super::lanes::Isa;
use super::transform::Transform;
use crate::basis::{Limbs, RnsBasis};
use crate::error::Result;
use crate::modulus::Modulus;
use crate::ntt;
use std::ops::Range;

/// One prime: its transform, root and normalisation.
#[derive(Debug)]
pub(super) struct Prime {
    pub(super) modulus: Modulus,
    pub(super) constants: Constants,
    pub(super) transform: Transform,
    pub(super) psi: u64,
    /// n^-1: the inverse transform leaves n times the coefficients.
    pub(super) n_inv: Factor,
}

impl Prime {
    pub(super) fn new(n: usize, modulus: &Modulus, isa: Isa) -> Result<Self> {
        let psi = ntt::root(n, modulus)?;
        let constants = Constants::new(modulus, isa);
        let transform = Transform::new(n, &constants, psi)?;
        let n_inv = Factor::new(modulus.inv(n as u64)?, modulus);
        Ok(Self { modulus: *modulus, constants, transform, psi, n_inv })
    }
}

/// Product of some moduli modulo `m`.
fn product<'a>(factors: impl Iterator<Item = &'a Modulus>, m: &Modulus) -> u64 {
    factors.fold(1, |product, f| m.mul(product, m.reduce_u64(f.value())))
}

/// `D/d_i mod m`, D the product of `own`.
fn complement(own: &[Modulus], i: usize, m: &Modulus) -> u64 {
    product(own.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, f)| f), m)
}

/// Constants of the conversion from the primes of `source` (product D) to every other prime of the basis.
#[derive(Debug)]
pub(in crate::backend) struct Converter {
    pub(in crate::backend) source: Range<usize>,
    /// `n^-1 · (D/d_i)^-1 mod d_i` for an unnormalised coefficient.
    pub(in crate::backend) prepare: Vec<Factor>,
    /// Row r: `D/d_i mod r` for every source i. Indexed by the basis' primes; own rows are empty.
    pub(in crate::backend) factors: Vec<Vec<u64>>,
    /// Row r: `-Σ_i (d_i-1)/2 · (D/d_i) mod r`, which takes back the offset of centred inputs.
    pub(in crate::backend) offsets: Vec<u64>,
}

impl Converter {
    pub(in crate::backend) fn new(basis: &RnsBasis, source: Range<usize>) -> Result<Self> {
        let own = &basis.moduli()[source.clone()];
        let prepare = own.iter().enumerate().map(|(i, m)| {
            let inv = m.inv(complement(own, i, m))?;
            Ok(Factor::new(m.mul(inv, m.inv(basis.n() as u64)?), m))
        });
        let prepare = prepare.collect::<Result<_>>()?;
        let factors = basis.moduli().iter().enumerate().map(|(r, m)| {
            let others = if source.contains(&r) { 0 } else { own.len() };
            (0..others).map(|i| complement(own, i, m)).collect()
        });
        let factors: Vec<Vec<u64>> = factors.collect();
        let offset = |(row, m): (&Vec<u64>, &Modulus)| {
            let halves = own.iter().map(|d| m.reduce_u64((d.value() - 1) / 2));
            m.neg(row.iter().zip(halves).fold(0, |sum, (&f, h)| m.add(sum, m.mul(f, h))))
        };
        let offsets = factors.iter().zip(basis.moduli()).map(offset).collect();
        Ok(Self { source, prepare, factors, offsets })
    }
}

/// One of the primes d_i that a division takes away.
#[derive(Debug)]
pub(in crate::backend) struct Divisor {
    /// Index into the basis' primes.
    pub(in crate::backend) prime: usize,
    /// `n^-1 · (D/d_i)^-1 mod d_i` for an unnormalised coefficient.
    pub(in crate::backend) prepare: Factor,
    /// `floor(D/2) · (D/d_i)^-1 mod d_i`.
    pub(in crate::backend) half_prepared: u64,
}

/// One of the primes q_j that a division leaves.
#[derive(Debug)]
pub(in crate::backend) struct Kept {
    /// `D/d_i mod q_j` and, for the row of quotients, `-D mod q_j`.
    pub(in crate::backend) factors: Vec<u64>,
    /// `-floor(D/2) mod q_j`.
    pub(in crate::backend) minus_half: u64,
    /// `D^-1 mod q_j`.
    pub(in crate::backend) inv: Factor,
}

/// Constants of the division by the product D of all primes of `limbs` but the first `kept`.
#[derive(Debug)]
pub(in crate::backend) struct Divider {
    pub(in crate::backend) divisors: Vec<Divisor>,
    pub(in crate::backend) kept: Vec<Kept>,
}

impl Divider {
    pub(in crate::backend) fn new(basis: &RnsBasis, limbs: Limbs, kept: usize) -> Result<Self> {
        let own: Vec<Modulus> = basis.row_moduli(limbs).skip(kept).copied().collect();
        // D is odd: floor(D/2) = (D - 1) / 2.
        let half =
            |m: &Modulus| -> Result<u64> { Ok(m.mul(m.sub(product(own.iter(), m), 1), m.inv(2)?)) };
        let divisors = own.iter().enumerate().map(|(i, m)| {
            let inv = m.inv(complement(&own, i, m))?;
            Ok(Divisor {
                prime: basis.prime_index(limbs, kept + i),
                prepare: Factor::new(m.mul(inv, m.inv(basis.n() as u64)?), m),
                half_prepared: m.mul(half(m)?, inv),
            })
        });
        let divisors = divisors.collect::<Result<_>>()?;
        let rows = basis.q().iter().take(kept).map(|m| {
            let big = product(own.iter(), m);
            let mut factors: Vec<u64> = (0..own.len()).map(|i| complement(&own, i, m)).collect();
            factors.push(m.neg(big));
            Ok(Kept { factors, minus_half: m.neg(half(m)?), inv: Factor::new(m.inv(big)?, m) })
        });
        Ok(Self { divisors, kept: rows.collect::<Result<_>>()? })
    }
}

/// Everything for one basis.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) primes: Vec<Prime>,
    /// `digits[d][size - 1]`: digit d cut to `size` primes.
    pub(super) digits: Vec<Vec<Converter>>,
}

impl Tables {
    pub(super) fn new(basis: &RnsBasis, isa: Isa) -> Result<Self> {
        use rayon::prelude::*;
        let primes = basis
            .moduli()
            .par_iter()
            .map(|m| Prime::new(basis.n(), m, isa))
            .collect::<Result<Vec<_>>>()?;
        let digits = basis
            .digits()
            .iter()
            .map(|d| (d.start + 1..=d.end).map(|end| Converter::new(basis, d.start..end)).collect())
            .collect::<Result<_>>()?;
        Ok(Self { primes, digits })
    }
}

//! What is computed once per basis.

use super::kernels::{Constants, Factor};
use crate::basis::RnsBasis;
use crate::error::Result;
use crate::modulus::Modulus;
use crate::ntt;
use std::ops::Range;
use tfhe_ntt::prime64::Plan;

/// One prime: its transform, root and normalisation.
#[derive(Debug)]
pub(super) struct Prime {
    pub(super) modulus: Modulus,
    pub(super) constants: Constants,
    pub(super) plan: Plan,
    pub(super) psi: u64,
    /// n^-1: the inverse transform leaves n times the coefficients.
    pub(super) n_inv: Factor,
}

impl Prime {
    pub(super) fn new(n: usize, modulus: &Modulus) -> Result<Self> {
        let plan = ntt::plan(n, modulus)?;
        let psi = ntt::root(&plan);
        let n_inv = Factor::new(modulus.inv(n as u64)?, modulus);
        Ok(Self { modulus: *modulus, constants: Constants::new(modulus), plan, psi, n_inv })
    }
}

/// Constants of the conversion from the primes of `source` (product D) to every other prime of the basis.
#[derive(Debug)]
pub(super) struct Converter {
    pub(super) source: Range<usize>,
    /// `n^-1 · (D/d_i)^-1 mod d_i` for an unnormalised coefficient.
    pub(super) prepare: Vec<Factor>,
    /// `(D/d_i)^-1 mod d_i`.
    pub(super) complement_inv: Vec<u64>,
    /// Row r: `D/d_i mod r` for every source i. Indexed by the basis' primes; own rows are empty.
    pub(super) factors: Vec<Vec<u64>>,
    /// Row r: `-Σ_i (d_i-1)/2 · (D/d_i) mod r`, which takes back the offset of centred inputs.
    pub(super) offsets: Vec<u64>,
}

/// Product of some moduli modulo `m`.
fn product<'a>(factors: impl Iterator<Item = &'a Modulus>, m: &Modulus) -> u64 {
    factors.fold(1, |product, f| m.mul(product, m.reduce(f.value() as u128)))
}

impl Converter {
    pub(super) fn new(basis: &RnsBasis, source: Range<usize>) -> Result<Self> {
        let own = &basis.moduli()[source.clone()];
        let complement = |i: usize, m: &Modulus| {
            product(own.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, f)| f), m)
        };
        let mut prepare = Vec::with_capacity(own.len());
        let mut complement_inv = Vec::with_capacity(own.len());
        for (i, m) in own.iter().enumerate() {
            let inv = m.inv(complement(i, m))?;
            complement_inv.push(inv);
            prepare.push(Factor::new(m.mul(inv, m.inv(basis.n() as u64)?), m));
        }
        let factors = basis.moduli().iter().enumerate().map(|(r, m)| {
            let others = if source.contains(&r) { 0 } else { own.len() };
            (0..others).map(|i| complement(i, m)).collect()
        });
        let factors: Vec<Vec<u64>> = factors.collect();
        let offset = |(row, m): (&Vec<u64>, &Modulus)| {
            let halves = own.iter().map(|d| m.reduce((d.value() as u128 - 1) / 2));
            m.neg(row.iter().zip(halves).fold(0, |sum, (&f, h)| m.add(sum, m.mul(f, h))))
        };
        let offsets = factors.iter().zip(basis.moduli()).map(offset).collect();
        Ok(Self { source, prepare, complement_inv, factors, offsets })
    }
}

/// Constants of the division by P.
#[derive(Debug)]
pub(super) struct ModDown {
    pub(super) converter: Converter,
    /// `floor(P/2) · (P/p_i)^-1 mod p_i`.
    pub(super) half_prepared: Vec<u64>,
    /// For every q_j: the conversion's factors and, for the quotient row, `-P`.
    pub(super) factors: Vec<Vec<u64>>,
    /// `-floor(P/2) mod q_j`.
    pub(super) minus_half: Vec<u64>,
    /// Constants of the special primes.
    pub(super) special: Vec<Constants>,
    /// `P^-1 mod q_j`.
    pub(super) p_inv: Vec<Factor>,
}

impl ModDown {
    pub(super) fn new(basis: &RnsBasis) -> Result<Self> {
        let q_len = basis.q().len();
        let converter = Converter::new(basis, q_len..basis.moduli().len())?;
        // P is odd: floor(P/2) = (P - 1) / 2.
        let half = |m: &Modulus| -> Result<u64> {
            Ok(m.mul(m.sub(product(basis.p().iter(), m), 1), m.inv(2)?))
        };
        let half_prepared = basis
            .p()
            .iter()
            .zip(&converter.complement_inv)
            .map(|(m, &inv)| Ok(m.mul(half(m)?, inv)))
            .collect::<Result<_>>()?;
        let mut factors = Vec::with_capacity(q_len);
        let mut p_inv = Vec::with_capacity(q_len);
        for (j, m) in basis.q().iter().enumerate() {
            let big = product(basis.p().iter(), m);
            let mut row = converter.factors[j].clone();
            row.push(m.neg(big));
            factors.push(row);
            p_inv.push(Factor::new(m.inv(big)?, m));
        }
        let minus_half = basis.q().iter().map(|m| Ok(m.neg(half(m)?))).collect::<Result<_>>()?;
        let special = basis.p().iter().map(Constants::new).collect();
        Ok(Self { converter, half_prepared, factors, minus_half, special, p_inv })
    }
}

/// Everything for one basis.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) primes: Vec<Prime>,
    /// `digits[d][size - 1]`: digit d cut to `size` primes.
    pub(super) digits: Vec<Vec<Converter>>,
    /// Absent without special primes.
    pub(super) mod_down: Option<ModDown>,
    /// `rescale[l][j] = q_l^-1 mod q_j`, j < l.
    pub(super) rescale: Vec<Vec<Factor>>,
}

impl Tables {
    pub(super) fn new(basis: &RnsBasis) -> Result<Self> {
        use rayon::prelude::*;
        let primes = basis
            .moduli()
            .par_iter()
            .map(|m| Prime::new(basis.n(), m))
            .collect::<Result<Vec<_>>>()?;
        let digits = basis
            .digits()
            .iter()
            .map(|d| (d.start + 1..=d.end).map(|end| Converter::new(basis, d.start..end)).collect())
            .collect::<Result<_>>()?;
        let mod_down = if basis.p().is_empty() { None } else { Some(ModDown::new(basis)?) };
        let rescale = basis
            .q()
            .iter()
            .enumerate()
            .map(|(l, last)| {
                let lower = basis.q()[..l].iter();
                lower.map(|m| Ok(Factor::new(m.inv(last.value())?, m))).collect()
            })
            .collect::<Result<_>>()?;
        Ok(Self { primes, digits, mod_down, rescale })
    }
}

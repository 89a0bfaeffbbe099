//! From one basis to another: digits, division, lifting.
//!
//! A row is converted by blocks of columns and at once transformed, all of it in the second cache, the second pass of the
//! transform piece by piece with the use of the row; the source rows are read again for every target, which the last cache bears better than writing and reading many targets.

use super::Cpu;
use super::kernels::{self, BLOCK, Constants, Factor};
use super::pool::Words;
use super::tables::{Converter, Prime};
use super::transform::PIECE;
use crate::backend::View;
use crate::basis::Limbs;
use crate::error::Result;
use rayon::prelude::*;

/// The row of a prime: `init + Σ_i source_i · factors[i]`.
pub(super) struct Target<'a> {
    prime: &'a Prime,
    factors: &'a [u64],
    init: u64,
}

impl Target<'_> {
    /// Writes the row from the `sources`, coefficients below 2^50, up to the second pass of its transform. A single source
    /// has the factor 1.
    pub(super) fn convert(&self, sources: &[&[u64]], out: &mut [u64]) {
        let Target { prime, factors, init } = *self;
        let mut inputs: Vec<&[u64]> = Vec::with_capacity(sources.len());
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            inputs.clear();
            inputs.extend(sources.iter().map(|row| &row[block * BLOCK..][..out.len()]));
            match *inputs {
                [source] => kernels::reduce_add(&prime.constants, out, source, init),
                _ => kernels::convert(&prime.constants, out, &inputs, factors, init),
            }
        }
        prime.transform.first_pass(out);
    }
}

impl Cpu {
    pub(super) fn divided(&self, mut a: Words, limbs: Limbs, kept: usize) -> Result<Words> {
        let n = self.n;
        let divider = self.divider(limbs, kept)?;
        let (lower, top) = a.split_at_mut(kept * n);
        top.par_chunks_exact_mut(n).zip(&divider.divisors).for_each(|(words, divisor)| {
            let prime = &self.tables.primes[divisor.prime];
            prime.transform.inverse(words, divisor.prepare, divisor.half_prepared);
        });
        let mut sources: Vec<&[u64]> = top.chunks_exact(n).collect();
        let constants: Vec<Constants> =
            divider.divisors.iter().map(|d| self.tables.primes[d.prime].constants).collect();
        let mut quotients = self.pool.take(if sources.len() > 1 { n } else { 0 });
        quotients.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
            let columns = block * BLOCK..block * BLOCK + out.len();
            let inputs: Vec<&[u64]> = sources.iter().map(|row| &row[columns.clone()]).collect();
            kernels::quotients(self.isa, out, &inputs, &constants);
        });
        sources.extend(quotients.chunks_exact(n));
        let rows = lower.par_chunks_exact_mut(n).zip(&self.tables.primes).zip(&divider.kept);
        rows.for_each_init(
            || self.pool.take(n),
            |remainder, ((words, prime), kept)| {
                let (factors, init) = (&kept.factors[..], kept.minus_half);
                Target { prime, factors, init }.convert(&sources, remainder);
                let pieces = words.chunks_mut(PIECE).zip(remainder.chunks_mut(PIECE));
                for (i, (words, remainder)) in pieces.enumerate() {
                    prime.transform.second_pass(i * PIECE, remainder);
                    kernels::sub_scale(&prime.constants, words, remainder, kept.inv);
                }
            },
        );
        a.truncate(kept * n);
        Ok(a)
    }

    pub(super) fn raised(&self, a: &Words, q: usize) -> Words {
        let (n, first) = (self.n, &self.tables.primes[0]);
        let mut lifted = self.pool.take(n);
        Self::prepare(first, first.n_inv, a, &mut lifted);
        // Coefficients are here plus h = (q_0 - 1) / 2, in [0, q_0).
        let h = (first.modulus.value() - 1) / 2;
        let mut out = self.pool.take(q * n);
        self.each_row(&mut out, Limbs::q(q), n, |prime, row, words| {
            if row == 0 {
                return words.copy_from_slice(a);
            }
            let init = prime.modulus.neg(prime.modulus.reduce_u64(h));
            Target { prime, factors: &[1], init }.convert(&[&lifted], words);
            prime.transform.second_pass(0, words);
        });
        out
    }

    /// The coefficients `y_i + (q_i-1)/2` of a row, y_i centred: inverse transform, factor and offset.
    fn prepare(prime: &Prime, factor: Factor, from: &[u64], to: &mut [u64]) {
        prime.transform.inverse_of(from, to, factor, (prime.modulus.value() - 1) / 2);
    }

    /// The constants of the digits of q limbs.
    pub(super) fn converters(&self, q: usize) -> Vec<&Converter> {
        let digits = self.basis.digits_at(q).zip(&self.tables.digits);
        digits.map(|(digit, cuts)| &cuts[digit.len() - 1]).collect()
    }

    /// What every digit is converted from: the rows of `a`, prepared.
    pub(super) fn prepared(
        &self,
        a: &View<'_, Words>,
        q: usize,
        converters: &[&Converter],
    ) -> Words {
        let factors: Vec<Factor> = converters.iter().flat_map(|c| &c.prepare).copied().collect();
        let limbs = Limbs::q(q);
        let mut prepared = self.pool.take(q * self.n);
        self.each_row(&mut prepared, limbs, self.n, |prime, row, words| {
            Self::prepare(prime, factors[row], Self::row(a, limbs, row, self.n), words);
        });
        prepared
    }

    pub(super) fn target<'a>(
        &'a self,
        converter: &'a Converter,
        limbs: Limbs,
        row: usize,
    ) -> Target<'a> {
        let index = self.basis.prime_index(limbs, row);
        let (factors, init) = (&converter.factors[index], converter.offsets[index]);
        Target { prime: &self.tables.primes[index], factors, init }
    }

    pub(super) fn decomposed(&self, a: &View<'_, Words>, q: usize) -> Vec<Words> {
        let n = self.n;
        let limbs = Limbs { q, p: self.basis.p().len() };
        let converters = self.converters(q);
        let prepared = self.prepared(a, q, &converters);
        let prepared: Vec<&[u64]> = prepared.chunks_exact(n).collect();
        let mut digits: Vec<Words> =
            converters.iter().map(|_| self.pool.take(limbs.rows() * n)).collect();
        let rows = digits.iter_mut().zip(&converters).flat_map(|(digit, &converter)| {
            let rows = digit.chunks_exact_mut(n).enumerate();
            rows.map(move |(row, words)| (converter, row, words))
        });
        let rows: Vec<_> = rows.collect();
        rows.into_par_iter().for_each(|(converter, row, words)| {
            if converter.source.contains(&row) {
                words.copy_from_slice(Self::row(a, limbs, row, n));
            } else {
                let sources = &prepared[converter.source.clone()];
                let target = self.target(converter, limbs, row);
                target.convert(sources, words);
                target.prime.transform.second_pass(0, words);
            }
        });
        digits
    }
}

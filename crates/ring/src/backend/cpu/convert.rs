//! From one basis to another: digits, division, lifting.
//!
//! Rows are converted in small groups by blocks of columns, so that the sources are read once a group, and whatever is
//! done with the rows of a group (a transform at least) follows while they are in the cache.

use super::Cpu;
use super::kernels::{self, BLOCK, Constants, Factor};
use super::pool::Words;
use super::tables::{Converter, Prime};
use crate::backend::View;
use crate::basis::Limbs;
use crate::error::Result;
use rayon::prelude::*;

/// Rows of a group at most: four halve the reading twice, eight no longer fit beside their sources.
const GROUP: usize = 4;

/// One row to be written: `init + Σ_i source_i · factors[i]` modulo its prime, in NTT order.
pub(super) struct Target<'a> {
    prime: &'a Prime,
    factors: &'a [u64],
    init: u64,
    words: &'a mut [u64],
}

/// Writes a group of targets from the `sources`, coefficients below 2^50 in rows of equal length. A single source has
/// the factor 1.
pub(super) fn convert(sources: &[&[u64]], targets: &mut [Target<'_>]) {
    let n = sources.first().map_or(0, |row| row.len());
    let mut inputs: Vec<&[u64]> = Vec::with_capacity(sources.len());
    for start in (0..n).step_by(BLOCK) {
        let columns = start..n.min(start + BLOCK);
        inputs.clear();
        inputs.extend(sources.iter().map(|row| &row[columns.clone()]));
        for Target { prime, factors, init, words } in &mut *targets {
            let words = &mut words[columns.clone()];
            match *inputs {
                [source] => kernels::reduce_add(&prime.constants, words, source, *init),
                _ => kernels::convert(&prime.constants, words, &inputs, factors, *init),
            }
        }
    }
    for Target { prime, words, .. } in targets {
        prime.transform.forward(words);
    }
}

/// Rows of a group, fewer where some of the threads would have no work.
pub(super) fn group(rows: usize) -> usize {
    (rows / (2 * rayon::current_num_threads())).clamp(1, GROUP)
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
        let size = group(kept);
        let groups = lower.par_chunks_mut(size * n).enumerate();
        groups.for_each_init(
            || self.pool.take(size * n),
            |remainders, (group, rows)| {
                let kept = &divider.kept[group * size..];
                let primes = &self.tables.primes[group * size..];
                let targets = remainders.chunks_exact_mut(n).zip(primes).zip(kept);
                let targets = targets.take(rows.len() / n).map(|((words, prime), kept)| Target {
                    prime,
                    factors: &kept.factors,
                    init: kept.minus_half,
                    words,
                });
                convert(&sources, &mut targets.collect::<Vec<_>>());
                let rows = rows.chunks_exact_mut(n).zip(remainders.chunks_exact(n));
                for ((words, remainder), (prime, kept)) in rows.zip(primes.iter().zip(kept)) {
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
            convert(&[&lifted], &mut [Target { prime, factors: &[1], init, words }]);
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
        words: &'a mut [u64],
    ) -> Target<'a> {
        let index = self.basis.prime_index(limbs, row);
        let (factors, init) = (&converter.factors[index], converter.offsets[index]);
        Target { prime: &self.tables.primes[index], factors, init, words }
    }

    pub(super) fn decomposed(&self, a: &View<'_, Words>, q: usize) -> Vec<Words> {
        let n = self.n;
        let limbs = Limbs { q, p: self.basis.p().len() };
        let converters = self.converters(q);
        let prepared = self.prepared(a, q, &converters);
        let prepared: Vec<&[u64]> = prepared.chunks_exact(n).collect();
        let mut digits: Vec<Words> =
            converters.iter().map(|_| self.pool.take(limbs.rows() * n)).collect();
        let size = group(limbs.rows() * digits.len());
        let groups = digits.iter_mut().zip(&converters).flat_map(|(digit, &converter)| {
            let groups = digit.chunks_mut(size * n).enumerate();
            groups.map(move |(group, rows)| (converter, group * size, rows))
        });
        let groups: Vec<_> = groups.collect();
        groups.into_par_iter().for_each(|(converter, first, rows)| {
            let mut targets = Vec::with_capacity(size);
            for (row, words) in (first..).zip(rows.chunks_exact_mut(n)) {
                if converter.source.contains(&row) {
                    words.copy_from_slice(Self::row(a, limbs, row, n));
                } else {
                    targets.push(self.target(converter, limbs, row, words));
                }
            }
            convert(&prepared[converter.source.clone()], &mut targets);
        });
        digits
    }
}

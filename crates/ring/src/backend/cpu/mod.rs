//! The CPU: one task a row on the thread pool, vector loops over [`lanes`].

mod convert;
mod hoisted_sums;
mod kernels;
mod key_switch;
mod lanes;
mod pool;
pub(in crate::backend) mod tables;
mod transform;

use super::{Backend, HoistedSums, KeySwitch, Member, Storage, View, storage_variant};
use crate::automorphism::{GaloisElement, Permutation};
use crate::basis::{Limbs, RnsBasis};
use crate::device::{Device, InstructionSet, Kind};
use crate::error::Result;
use kernels::Factor;
pub(crate) use lanes::Isa;
use pool::{Pool, Words};
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tables::{Divider, Prime, Tables};
use transform::Transform;

/// Permutation tables kept at most (n/2 bytes each).
const KEPT_PERMUTATIONS: usize = 256;

/// The CPU bound to a basis.
#[derive(Debug)]
pub(crate) struct Cpu {
    set: InstructionSet,
    isa: Isa,
    n: usize,
    basis: RnsBasis,
    tables: Tables,
    pool: Arc<Pool>,
    permutations: Mutex<HashMap<GaloisElement, Arc<Permutation>>>,
    /// By degree and prime.
    small_transforms: Mutex<HashMap<(usize, usize), Arc<Transform>>>,
    /// By the limbs of the dividend and the rows that are kept.
    dividers: Mutex<HashMap<(Limbs, usize), Arc<Divider>>>,
}

impl Cpu {
    /// Builds the tables of a device with this instruction set.
    pub(crate) fn new(basis: &RnsBasis, set: InstructionSet) -> Result<Self> {
        let isa = Isa::new(set)?;
        Ok(Self {
            set,
            isa,
            n: basis.n(),
            basis: basis.clone(),
            tables: Tables::new(basis, isa)?,
            pool: Arc::new(Pool::new(set)),
            permutations: Mutex::default(),
            small_transforms: Mutex::default(),
            dividers: Mutex::default(),
        })
    }

    fn prime(&self, limbs: Limbs, row: usize) -> &Prime {
        &self.tables.primes[self.basis.prime_index(limbs, row)]
    }

    /// The row of `view` for row `row` of `limbs`, `width` words a row.
    fn row<'a>(view: &View<'a, Words>, limbs: Limbs, row: usize, width: usize) -> &'a [u64] {
        let start = view.limbs.row_of(limbs, row) * width;
        &view.buf[start..start + width]
    }

    /// Runs `f(prime, row index, row)` on every row.
    fn each_row(
        &self,
        a: &mut Words,
        limbs: Limbs,
        width: usize,
        f: impl Fn(&Prime, usize, &mut [u64]) + Send + Sync,
    ) {
        a.par_chunks_exact_mut(width)
            .enumerate()
            .for_each(|(row, words)| f(self.prime(limbs, row), row, words));
    }

    fn permutation(&self, g: GaloisElement) -> Arc<Permutation> {
        let mut known = self.permutations.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT_PERMUTATIONS && !known.contains_key(&g) {
            known.clear();
        }
        known.entry(g).or_insert_with(|| Arc::new(Permutation::new(g, self.n))).clone()
    }

    /// The transform of degree m with the root ψ^(n/m), m below n.
    fn small_transform(&self, m: usize, index: usize) -> Result<Arc<Transform>> {
        let mut known = self.small_transforms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(transform) = known.get(&(m, index)) {
            return Ok(transform.clone());
        }
        let prime = &self.tables.primes[index];
        let root = prime.modulus.pow(prime.psi, (self.n / m) as u64);
        let transform = Arc::new(Transform::new(m, &prime.constants, root)?);
        known.insert((m, index), transform.clone());
        Ok(transform)
    }

    fn divider(&self, limbs: Limbs, kept: usize) -> Result<Arc<Divider>> {
        let mut known = self.dividers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(divider) = known.get(&(limbs, kept)) {
            return Ok(divider.clone());
        }
        let divider = Arc::new(Divider::new(&self.basis, limbs, kept)?);
        known.insert((limbs, kept), divider.clone());
        Ok(divider)
    }
}

impl Backend for Cpu {
    type Buf = Words;
    storage_variant!(Cpu);

    fn device(&self) -> Device {
        Device { kind: Kind::Cpu(self.set) }
    }

    fn psi(&self, prime: usize) -> u64 {
        self.tables.primes[prime].psi
    }

    fn zeros(&self, words: usize) -> Result<Words> {
        Ok(self.pool.zeros(words))
    }

    fn upload(&self, host: Vec<u64>) -> Result<Words> {
        Ok(self.pool.adopt(host))
    }

    fn build(
        &self,
        rows: usize,
        width: usize,
        fill: impl Fn(usize, &mut [u64]) + Sync,
    ) -> Result<Words> {
        let mut out = self.pool.take(rows * width);
        out.par_chunks_exact_mut(width).enumerate().for_each(|(row, words)| fill(row, words));
        Ok(out)
    }

    fn download(&self, buf: &Words) -> Result<Vec<u64>> {
        Ok(buf.to_vec())
    }

    fn wipe(&self, buf: &mut Words) {
        buf.wipe();
    }

    fn select(&self, a: &View<'_, Words>, to: Limbs) -> Result<Words> {
        let mut out = self.pool.take(to.rows() * self.n);
        self.each_row(&mut out, to, self.n, |_, row, words| {
            words.copy_from_slice(Self::row(a, to, row, self.n));
        });
        Ok(out)
    }

    fn truncate(&self, a: &mut Words, rows: usize) -> Result<()> {
        a.truncate(rows * self.n);
        Ok(())
    }

    fn ntt(&self, a: &mut Words, limbs: Limbs) -> Result<()> {
        self.each_row(a, limbs, self.n, |prime, _, words| prime.transform.forward(words));
        Ok(())
    }

    fn intt(&self, a: &mut Words, limbs: Limbs) -> Result<()> {
        self.each_row(a, limbs, self.n, |prime, _, words| {
            prime.transform.inverse(words, prime.n_inv, 0);
        });
        Ok(())
    }

    fn add(&self, a: &mut Words, limbs: Limbs, b: &View<'_, Words>) -> Result<()> {
        self.each_row(a, limbs, self.n, |prime, row, words| {
            kernels::add(&prime.constants, words, Self::row(b, limbs, row, self.n));
        });
        Ok(())
    }

    fn sub(&self, a: &mut Words, limbs: Limbs, b: &View<'_, Words>) -> Result<()> {
        self.each_row(a, limbs, self.n, |prime, row, words| {
            kernels::sub(&prime.constants, words, Self::row(b, limbs, row, self.n));
        });
        Ok(())
    }

    fn neg(&self, a: &mut Words, limbs: Limbs) -> Result<()> {
        self.each_row(a, limbs, self.n, |prime, _, words| kernels::neg(&prime.constants, words));
        Ok(())
    }

    fn mul(&self, a: &mut Words, limbs: Limbs, b: &View<'_, Words>) -> Result<()> {
        self.each_row(a, limbs, self.n, |prime, row, words| {
            kernels::mul(&prime.constants, words, Self::row(b, limbs, row, self.n));
        });
        Ok(())
    }

    fn product(&self, a: &View<'_, Words>, limbs: Limbs, b: &View<'_, Words>) -> Result<Words> {
        let mut out = self.pool.take(limbs.rows() * self.n);
        self.each_row(&mut out, limbs, self.n, |prime, row, words| {
            let (a, b) = (Self::row(a, limbs, row, self.n), Self::row(b, limbs, row, self.n));
            kernels::product(&prime.constants, words, a, b);
        });
        Ok(out)
    }

    fn mul_add(
        &self,
        acc: &mut Words,
        limbs: Limbs,
        a: &View<'_, Words>,
        b: &View<'_, Words>,
    ) -> Result<()> {
        self.each_row(acc, limbs, self.n, |prime, row, words| {
            let (a, b) = (Self::row(a, limbs, row, self.n), Self::row(b, limbs, row, self.n));
            kernels::mul_add(&prime.constants, words, a, b);
        });
        Ok(())
    }

    fn tensor(
        &self,
        a: [View<'_, Words>; 2],
        limbs: Limbs,
        b: [View<'_, Words>; 2],
    ) -> Result<[Words; 3]> {
        let n = self.n;
        let mut out = [(); 3].map(|()| self.pool.take(limbs.rows() * n));
        let [d0, d1, d2] = out.each_mut().map(|words| words.par_chunks_exact_mut(n));
        d0.zip(d1).zip(d2).enumerate().for_each(|(row, ((d0, d1), d2))| {
            let a = a.each_ref().map(|half| Self::row(half, limbs, row, n));
            let b = b.each_ref().map(|half| Self::row(half, limbs, row, n));
            kernels::tensor(&self.prime(limbs, row).constants, [d0, d1, d2], a, b);
        });
        Ok(out)
    }

    fn mul_scalars(&self, a: &mut Words, limbs: Limbs, scalars: &[u64]) -> Result<()> {
        self.each_row(a, limbs, self.n, |prime, row, words| {
            let factor = Factor::new(scalars[row], &prime.modulus);
            kernels::scale(&prime.constants, words, factor);
        });
        Ok(())
    }

    fn mul_scalars_add(
        &self,
        acc: &mut Words,
        limbs: Limbs,
        a: &View<'_, Words>,
        scalars: &[u64],
    ) -> Result<()> {
        let rows = acc.par_chunks_exact_mut(self.n).zip(scalars).zip(&self.tables.primes);
        rows.enumerate().for_each(|(row, ((words, scalar), prime))| {
            let a = Self::row(a, Limbs::q(limbs.q), row, self.n);
            kernels::mul_add_runs(&prime.constants, words, a, std::slice::from_ref(scalar));
        });
        Ok(())
    }

    fn combine(
        &self,
        start: Option<Words>,
        limbs: Limbs,
        terms: &[(View<'_, Words>, Vec<u64>)],
    ) -> Result<Words> {
        let started = start.is_some();
        let mut sum = start.unwrap_or_else(|| self.pool.take(limbs.rows() * self.n));
        self.each_row(&mut sum, limbs, self.n, |prime, row, words| {
            let terms = terms.iter().map(|(a, f)| (Self::row(a, limbs, row, self.n), f[row]));
            let terms: Vec<(&[u64], u64)> = terms.collect();
            kernels::combine(&prime.constants, words, started, &terms);
        });
        Ok(sum)
    }

    fn add_scalars(&self, a: &mut Words, limbs: Limbs, scalars: &[u64]) -> Result<()> {
        self.each_row(a, limbs, self.n, |prime, row, words| {
            kernels::add_scalar(&prime.constants, words, scalars[row]);
        });
        Ok(())
    }

    fn mul_monomial(&self, a: &mut Words, limbs: Limbs, exponent: usize) -> Result<()> {
        let n = self.n;
        self.each_row(a, limbs, n, |prime, _, words| {
            let m = &prime.modulus;
            // Word i is multiplied by ψ^(exponent·(2·brv(i)+1)). Bit b of i adds n/2^(b+1) to brv(i), so the factors
            // of a row double up from that of word 0; the low bits that change nothing make runs.
            let power = |e: usize| m.pow(prime.psi, (e % (2 * n)) as u64);
            let steps = (0..n.trailing_zeros()).map(|b| exponent * (n >> b) % (2 * n));
            let mut factors = vec![power(exponent)];
            for step in steps.skip_while(|&step| step == 0) {
                let known = factors.len();
                factors.extend_from_within(..);
                let step = Factor::new(power(step), m);
                kernels::scale(&prime.constants, &mut factors[known..], step);
            }
            kernels::mul_runs(&prime.constants, words, &factors);
        });
        Ok(())
    }

    fn automorphism(&self, a: &View<'_, Words>, limbs: Limbs, g: GaloisElement) -> Result<Words> {
        let table = self.permutation(g);
        let mut out = self.pool.take(limbs.rows() * self.n);
        let all = table.piece(0..self.n);
        self.each_row(&mut out, limbs, self.n, |_, row, words| {
            kernels::permute(self.isa, words, Self::row(a, limbs, row, self.n), &all);
        });
        Ok(out)
    }

    fn divide(&self, a: Words, limbs: Limbs, kept: usize) -> Result<Words> {
        self.divided(a, limbs, kept)
    }

    fn mod_raise(&self, a: &Words, q: usize) -> Result<Words> {
        Ok(self.raised(a, q))
    }

    fn decompose(&self, a: &View<'_, Words>, q: usize) -> Result<Vec<Words>> {
        Ok(self.decomposed(a, q))
    }

    fn inner_product(
        &self,
        digits: &[&Words],
        limbs: Limbs,
        keys: &[[View<'_, Words>; 2]],
    ) -> Result<[Words; 2]> {
        let mut out = self.pair(limbs);
        self.inner_products_into(&[digits], limbs, keys, std::slice::from_mut(&mut out));
        Ok(out)
    }

    fn inner_products(
        &self,
        batch: &[Vec<&Words>],
        limbs: Limbs,
        keys: &[[View<'_, Words>; 2]],
    ) -> Result<Vec<[Words; 2]>> {
        let batch: Vec<&[&Words]> = batch.iter().map(Vec::as_slice).collect();
        let mut out: Vec<_> = batch.iter().map(|_| self.pair(limbs)).collect();
        self.inner_products_into(&batch, limbs, keys, &mut out);
        Ok(out)
    }

    fn key_switch(
        &self,
        member: &Member<'_, Words>,
        switch: &KeySwitch<'_, Words>,
    ) -> Result<[Words; 2]> {
        Ok(self.switched(member, switch))
    }

    fn hoisted_sums(&self, sums: &HoistedSums<'_, Words>) -> Result<Vec<[Words; 2]>> {
        Ok(self.fused_sums(sums))
    }

    fn subring_ntt(&self, a: &mut Words, limbs: Limbs, m: usize) -> Result<()> {
        let index = |row| self.basis.prime_index(limbs, row);
        let small = if m == self.n { 0 } else { limbs.rows() };
        let small = (0..small).map(|row| self.small_transform(m, index(row)));
        let small = small.collect::<Result<Vec<_>>>()?;
        self.each_row(a, limbs, m, |prime, row, words| {
            small.get(row).map_or(&prime.transform, |transform| transform).forward(words);
        });
        Ok(())
    }

    fn mul_subring(
        &self,
        a: &mut Words,
        limbs: Limbs,
        b: &View<'_, Words>,
        m: usize,
    ) -> Result<()> {
        self.each_row(a, limbs, self.n, |prime, row, words| {
            kernels::mul_runs(&prime.constants, words, Self::row(b, limbs, row, m));
        });
        Ok(())
    }

    fn mul_subring_add(
        &self,
        acc: &mut Words,
        limbs: Limbs,
        a: &View<'_, Words>,
        b: &View<'_, Words>,
        m: usize,
    ) -> Result<()> {
        self.each_row(acc, limbs, self.n, |prime, row, words| {
            let (a, factors) = (Self::row(a, limbs, row, self.n), Self::row(b, limbs, row, m));
            kernels::mul_add_runs(&prime.constants, words, a, factors);
        });
        Ok(())
    }
}

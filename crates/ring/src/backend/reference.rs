//! The oracle: one thread, 128-bit remainders, constants recomputed where they are used.
//!
//! Every method spells out the formula of [`Backend`]; speed is no concern.

use super::{Backend, Storage, View, storage_variant};
use crate::automorphism::{GaloisElement, brv};
use crate::basis::{Limbs, RnsBasis};
use crate::device::Device;
use crate::error::Result;
use crate::ntt;
use zeroize::Zeroize;

/// Host words of the reference device.
#[derive(Clone, Debug)]
pub(crate) struct Words(Vec<u64>);

/// The reference device bound to a basis.
#[derive(Debug)]
pub(crate) struct Reference {
    n: usize,
    basis: RnsBasis,
    /// ψ of every prime.
    psi: Vec<u64>,
}

fn add(a: u64, b: u64, p: u64) -> u64 {
    ((a as u128 + b as u128) % p as u128) as u64
}

fn sub(a: u64, b: u64, p: u64) -> u64 {
    ((a as u128 + p as u128 - b as u128) % p as u128) as u64
}

fn mul(a: u64, b: u64, p: u64) -> u64 {
    ((a as u128 * b as u128) % p as u128) as u64
}

fn pow(base: u64, exponent: u64, p: u64) -> u64 {
    let (mut result, mut square, mut e) = (1, base, exponent);
    while e > 0 {
        if e % 2 == 1 {
            result = mul(result, square, p);
        }
        square = mul(square, square, p);
        e /= 2;
    }
    result
}

fn inverse(a: u64, p: u64) -> u64 {
    pow(a, p - 2, p)
}

/// Product of some primes modulo `p`.
fn product(factors: impl Iterator<Item = u64>, p: u64) -> u64 {
    factors.fold(1, |product, f| mul(product, f % p, p))
}

/// floor(Π primes / 2) mod p; the product is odd, so this is (Π - 1) / 2.
fn half(primes: &[u64], p: u64) -> u64 {
    mul(sub(product(primes.iter().copied(), p), 1, p), inverse(2, p), p)
}

/// Negacyclic transform of length a.len() with root psi, order of [`crate::ntt`] (Longa–Naehrig, ePrint 2016/504,
/// algorithm 1).
fn forward(a: &mut [u64], psi: u64, p: u64) {
    let bits = a.len().trailing_zeros();
    let mut half = a.len() / 2;
    let mut blocks = 1;
    while half >= 1 {
        for block in 0..blocks {
            let twiddle = pow(psi, brv(blocks + block, bits) as u64, p);
            for j in 2 * block * half..(2 * block + 1) * half {
                let (u, v) = (a[j], mul(a[j + half], twiddle, p));
                (a[j], a[j + half]) = (add(u, v, p), sub(u, v, p));
            }
        }
        half /= 2;
        blocks *= 2;
    }
}

/// Undoes [`forward`] step by step, division by two included.
fn backward(a: &mut [u64], psi: u64, p: u64) {
    let bits = a.len().trailing_zeros();
    let (psi_inv, two_inv) = (inverse(psi, p), inverse(2, p));
    let mut half = 1;
    let mut blocks = a.len() / 2;
    while blocks >= 1 {
        for block in 0..blocks {
            let twiddle = pow(psi_inv, brv(blocks + block, bits) as u64, p);
            for j in 2 * block * half..(2 * block + 1) * half {
                let (u, v) = (a[j], a[j + half]);
                a[j] = mul(add(u, v, p), two_inv, p);
                a[j + half] = mul(mul(sub(u, v, p), two_inv, p), twiddle, p);
            }
        }
        half *= 2;
        blocks /= 2;
    }
}

impl Reference {
    /// Finds the roots.
    pub(crate) fn new(basis: &RnsBasis) -> Result<Self> {
        let n = basis.n();
        let psi = basis.moduli().iter().map(|m| ntt::root(n, m)).collect::<Result<_>>()?;
        Ok(Self { n, basis: basis.clone(), psi })
    }

    fn prime(&self, limbs: Limbs, row: usize) -> u64 {
        self.basis.moduli()[self.basis.prime_index(limbs, row)].value()
    }

    fn root(&self, limbs: Limbs, row: usize) -> u64 {
        self.psi[self.basis.prime_index(limbs, row)]
    }

    /// Applies `f(word of a, word of b, p)` to every word of `a`.
    fn zip(
        &self,
        a: &mut Words,
        limbs: Limbs,
        b: &View<'_, Words>,
        f: impl Fn(u64, u64, u64) -> u64,
    ) {
        for row in 0..limbs.rows() {
            let p = self.prime(limbs, row);
            let b_row = b.limbs.row_of(limbs, row);
            for i in 0..self.n {
                let word = &mut a.0[row * self.n + i];
                *word = f(*word, b.buf.0[b_row * self.n + i], p);
            }
        }
    }

    /// Applies `f(word, row, index, p)` to every word.
    fn each(&self, a: &mut Words, limbs: Limbs, f: impl Fn(u64, usize, usize, u64) -> u64) {
        for row in 0..limbs.rows() {
            let p = self.prime(limbs, row);
            for i in 0..self.n {
                let word = &mut a.0[row * self.n + i];
                *word = f(*word, row, i, p);
            }
        }
    }

    /// The coefficients of some rows.
    fn coefficients(&self, a: &Words, limbs: Limbs, rows: std::ops::Range<usize>) -> Vec<Vec<u64>> {
        rows.map(|row| {
            let mut words = a.0[row * self.n..(row + 1) * self.n].to_vec();
            backward(&mut words, self.root(limbs, row), self.prime(limbs, row));
            words
        })
        .collect()
    }

    /// `y_i = [x_i · (D/d_i)^-1]_{d_i}` for rows of coefficients modulo the primes `d`.
    fn scaled(rows: &[Vec<u64>], primes: &[u64]) -> Vec<Vec<u64>> {
        rows.iter()
            .zip(primes)
            .map(|(row, &p)| {
                let others = product(primes.iter().copied().filter(|&o| o != p), p);
                let factor = inverse(others, p);
                row.iter().map(|&x| mul(x, factor, p)).collect()
            })
            .collect()
    }

    /// `Σ_i y_i · (D/d_i) mod r` at coefficient `index`.
    fn converted(y: &[Vec<u64>], primes: &[u64], index: usize, r: u64) -> u64 {
        y.iter().zip(primes).fold(0, |sum, (row, &p)| {
            let others = product(primes.iter().copied().filter(|&o| o != p), r);
            add(sum, mul(row[index] % r, others, r), r)
        })
    }
}

impl Backend for Reference {
    type Buf = Words;
    storage_variant!(Reference);

    fn device(&self) -> Device {
        Device::reference()
    }

    fn psi(&self, prime: usize) -> u64 {
        self.psi[prime]
    }

    fn zeros(&self, words: usize) -> Result<Words> {
        Ok(Words(vec![0; words]))
    }

    fn upload(&self, host: Vec<u64>) -> Result<Words> {
        Ok(Words(host))
    }

    fn build(
        &self,
        rows: usize,
        width: usize,
        fill: impl Fn(usize, &mut [u64]) + Sync,
    ) -> Result<Words> {
        let mut words = vec![0; rows * width];
        words.chunks_exact_mut(width).enumerate().for_each(|(row, words)| fill(row, words));
        Ok(Words(words))
    }

    fn download(&self, buf: &Words) -> Result<Vec<u64>> {
        Ok(buf.0.clone())
    }

    fn wipe(&self, buf: &mut Words) {
        buf.0.as_mut_slice().zeroize();
    }

    fn select(&self, a: &View<'_, Words>, to: Limbs) -> Result<Words> {
        let mut words = Vec::with_capacity(to.rows() * self.n);
        for row in 0..to.rows() {
            let from = a.limbs.row_of(to, row) * self.n;
            words.extend_from_slice(&a.buf.0[from..from + self.n]);
        }
        Ok(Words(words))
    }

    fn truncate(&self, a: &mut Words, rows: usize) -> Result<()> {
        a.0.truncate(rows * self.n);
        Ok(())
    }

    fn ntt(&self, a: &mut Words, limbs: Limbs) -> Result<()> {
        self.subring_ntt(a, limbs, self.n)
    }

    fn intt(&self, a: &mut Words, limbs: Limbs) -> Result<()> {
        for (row, words) in a.0.chunks_exact_mut(self.n).enumerate() {
            backward(words, self.root(limbs, row), self.prime(limbs, row));
        }
        Ok(())
    }

    fn add(&self, a: &mut Words, limbs: Limbs, b: &View<'_, Words>) -> Result<()> {
        self.zip(a, limbs, b, add);
        Ok(())
    }

    fn sub(&self, a: &mut Words, limbs: Limbs, b: &View<'_, Words>) -> Result<()> {
        self.zip(a, limbs, b, sub);
        Ok(())
    }

    fn neg(&self, a: &mut Words, limbs: Limbs) -> Result<()> {
        self.each(a, limbs, |x, _, _, p| sub(0, x, p));
        Ok(())
    }

    fn mul(&self, a: &mut Words, limbs: Limbs, b: &View<'_, Words>) -> Result<()> {
        self.zip(a, limbs, b, mul);
        Ok(())
    }

    fn mul_add(
        &self,
        acc: &mut Words,
        limbs: Limbs,
        a: &View<'_, Words>,
        b: &View<'_, Words>,
    ) -> Result<()> {
        self.each(acc, limbs, |x, row, i, p| {
            let a_word = a.buf.0[a.limbs.row_of(limbs, row) * self.n + i];
            let b_word = b.buf.0[b.limbs.row_of(limbs, row) * self.n + i];
            add(x, mul(a_word, b_word, p), p)
        });
        Ok(())
    }

    fn mul_scalars(&self, a: &mut Words, limbs: Limbs, scalars: &[u64]) -> Result<()> {
        self.each(a, limbs, |x, row, _, p| mul(x, scalars[row], p));
        Ok(())
    }

    fn mul_scalars_add(
        &self,
        acc: &mut Words,
        limbs: Limbs,
        a: &View<'_, Words>,
        scalars: &[u64],
    ) -> Result<()> {
        self.each(acc, limbs, |x, row, i, p| match scalars.get(row) {
            Some(&scalar) => add(x, mul(a.buf.0[row * self.n + i], scalar, p), p),
            None => x,
        });
        Ok(())
    }

    fn add_scalars(&self, a: &mut Words, limbs: Limbs, scalars: &[u64]) -> Result<()> {
        self.each(a, limbs, |x, row, _, p| add(x, scalars[row], p));
        Ok(())
    }

    fn mul_monomial(&self, a: &mut Words, limbs: Limbs, exponent: usize) -> Result<()> {
        let bits = self.n.trailing_zeros();
        self.each(a, limbs, |x, row, i, p| {
            let power = exponent as u64 * (2 * brv(i, bits) as u64 + 1) % (2 * self.n as u64);
            mul(x, pow(self.root(limbs, row), power, p), p)
        });
        Ok(())
    }

    fn automorphism(&self, a: &View<'_, Words>, limbs: Limbs, g: GaloisElement) -> Result<Words> {
        // Through coefficients: c_i X^i goes to c_i X^(g·i), and X^n = -1.
        let mut words = self.select(a, limbs)?;
        self.intt(&mut words, limbs)?;
        let mut image = words.clone();
        for row in 0..limbs.rows() {
            let p = self.prime(limbs, row);
            for i in 0..self.n {
                let exponent = (i as u64 * g.get() % (2 * self.n as u64)) as usize;
                let value = words.0[row * self.n + i];
                let signed = if exponent < self.n { value } else { sub(0, value, p) };
                image.0[row * self.n + exponent % self.n] = signed;
            }
        }
        self.ntt(&mut image, limbs)?;
        Ok(image)
    }

    fn divide(&self, a: Words, limbs: Limbs, kept: usize) -> Result<Words> {
        let primes: Vec<u64> = (kept..limbs.rows()).map(|row| self.prime(limbs, row)).collect();
        let mut top = self.coefficients(&a, limbs, kept..limbs.rows());
        for (row, &d) in top.iter_mut().zip(&primes) {
            let h = half(&primes, d);
            for x in row.iter_mut() {
                *x = add(*x, h, d);
            }
        }
        let y = Self::scaled(&top, &primes);
        // u = floor(Σ y_i / d_i), every quotient to 50 bits.
        let quotient = |index: usize| {
            let sum: u128 = y
                .iter()
                .zip(&primes)
                .map(|(row, &d)| {
                    let bits = u64::BITS - d.leading_zeros();
                    let c = (1u128 << (bits + 50)) / d as u128;
                    (row[index] as u128 * c) >> bits
                })
                .sum();
            (sum >> 50) as u64
        };
        let rows = self.coefficients(&a, limbs, 0..kept);
        let mut out = Words(Vec::with_capacity(kept * self.n));
        for (row, x) in rows.iter().enumerate() {
            let q = self.prime(limbs, row);
            let big = product(primes.iter().copied(), q);
            let (factor, h) = (inverse(big, q), half(&primes, q));
            out.0.extend(x.iter().enumerate().map(|(i, &x)| {
                let correction = mul(quotient(i) % q, big, q);
                let remainder = sub(Self::converted(&y, &primes, i, q), correction, q);
                mul(sub(add(x, h, q), remainder, q), factor, q)
            }));
        }
        self.ntt(&mut out, Limbs::q(kept))?;
        Ok(out)
    }

    fn mod_raise(&self, a: &Words, q: usize) -> Result<Words> {
        let limbs = Limbs::q(q);
        let q0 = self.prime(limbs, 0);
        let mut x = a.0.clone();
        backward(&mut x, self.root(limbs, 0), q0);
        let mut out = Words(Vec::with_capacity(q * self.n));
        for row in 0..q {
            let r = self.prime(limbs, row);
            out.0.extend(x.iter().map(
                |&x| {
                    if x > q0 / 2 { sub(0, (q0 - x) % r, r) } else { x % r }
                },
            ));
        }
        self.ntt(&mut out, limbs)?;
        Ok(out)
    }

    fn decompose(&self, a: &View<'_, Words>, q: usize) -> Result<Vec<Words>> {
        let limbs = Limbs { q, p: self.basis.p().len() };
        let digits = self.basis.digits_at(q).map(|digit| {
            let primes: Vec<u64> = digit.clone().map(|row| self.prime(limbs, row)).collect();
            let y = Self::scaled(&self.coefficients(a.buf, limbs, digit.clone()), &primes);
            // Centred: y_i - q_i stands for a y_i above q_i / 2, so that D is subtracted once for each.
            let negative =
                |i: usize| y.iter().zip(&primes).filter(|(row, p)| row[i] > **p / 2).count() as u64;
            let mut out = Words(Vec::with_capacity(limbs.rows() * self.n));
            for row in 0..limbs.rows() {
                if digit.contains(&row) {
                    out.0.extend_from_slice(&a.buf.0[row * self.n..(row + 1) * self.n]);
                } else {
                    let r = self.prime(limbs, row);
                    let d = product(primes.iter().copied(), r);
                    let mut words: Vec<u64> = (0..self.n)
                        .map(|i| {
                            let sum = Self::converted(&y, &primes, i, r);
                            sub(sum, mul(negative(i), d, r), r)
                        })
                        .collect();
                    forward(&mut words, self.root(limbs, row), r);
                    out.0.append(&mut words);
                }
            }
            out
        });
        Ok(digits.collect())
    }

    fn inner_product(
        &self,
        digits: &[&Words],
        limbs: Limbs,
        keys: &[[View<'_, Words>; 2]],
    ) -> Result<[Words; 2]> {
        let mut halves = [(); 2].map(|()| Words(vec![0; limbs.rows() * self.n]));
        for (digit, key) in digits.iter().zip(keys) {
            for (half, acc) in key.iter().zip(&mut halves) {
                self.mul_add(acc, limbs, &View { buf: *digit, limbs }, half)?;
            }
        }
        Ok(halves)
    }

    fn subring_ntt(&self, a: &mut Words, limbs: Limbs, m: usize) -> Result<()> {
        for (row, words) in a.0.chunks_exact_mut(m).enumerate() {
            let p = self.prime(limbs, row);
            let root = pow(self.root(limbs, row), (self.n / m) as u64, p);
            forward(words, root, p);
        }
        Ok(())
    }

    fn mul_subring(
        &self,
        a: &mut Words,
        limbs: Limbs,
        b: &View<'_, Words>,
        m: usize,
    ) -> Result<()> {
        self.each(a, limbs, |x, row, i, p| {
            mul(x, b.buf.0[b.limbs.row_of(limbs, row) * m + i / (self.n / m)], p)
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
        let mut product = self.select(a, limbs)?;
        self.mul_subring(&mut product, limbs, b, m)?;
        self.add(acc, limbs, &View { buf: &product, limbs })
    }
}

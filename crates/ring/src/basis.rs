//! The primes of a ring: Q = q_0 ... q_L, the special primes P, and how Q is cut into digits.

use crate::error::{Error, Result};
use crate::modulus::Modulus;
use crate::primes::is_ntt_friendly;
use std::fmt;
use std::ops::Range;

/// Smallest and largest degree (the transforms fill whole vector registers from 16 on).
const DEGREES: std::ops::RangeInclusive<usize> = 16..=(1 << 17);

/// Which limbs a polynomial has: the first `q` primes of Q and, if `p > 0`, all special primes.
///
/// Words are stored limb-major: `q` rows, then `p` rows, of `n` words each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limbs {
    /// Number of primes of Q, counted from q_0; at least 1.
    pub q: usize,
    /// 0, or the number of all special primes.
    pub p: usize,
}

impl Limbs {
    /// The first `q` primes of Q and no special prime.
    #[must_use]
    pub fn q(q: usize) -> Self {
        Self { q, p: 0 }
    }

    /// Number of rows, `q + p`.
    #[must_use]
    pub fn rows(self) -> usize {
        self.q + self.p
    }

    /// Whether every limb of `needed` is here.
    #[must_use]
    pub fn contains(self, needed: Limbs) -> bool {
        needed.q <= self.q && (needed.p == 0 || needed.p == self.p)
    }

    /// The row here that has the prime of `row` of the smaller `other`.
    pub(crate) fn row_of(self, other: Limbs, row: usize) -> usize {
        if row < other.q { row } else { self.q + (row - other.q) }
    }
}

impl fmt::Display for Limbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.q, self.p)
    }
}

/// The degree, the primes and the digit partition of a ring. Immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RnsBasis {
    n: usize,
    /// q_0 ... q_L, then the special primes.
    moduli: Vec<Modulus>,
    q: usize,
    digits: Vec<Range<usize>>,
}

impl RnsBasis {
    /// A basis of degree `n` (a power of two, 16 to 2^17) over the primes `q` and the special primes `p`, all
    /// distinct, below 2^50 and ≡ 1 mod 2n.
    ///
    /// `digit_sizes` cuts `q` into consecutive digits from q_0 upwards and sums to `q.len()`. Without special
    /// primes there is no key switching, and `digit_sizes` may be empty.
    ///
    /// # Errors
    /// `InvalidModulus`, `InvalidBasis`.
    pub fn new(n: usize, q: &[u64], p: &[u64], digit_sizes: &[usize]) -> Result<Self> {
        let invalid = |detail: String| Err(Error::InvalidBasis { detail });
        if !n.is_power_of_two() || !DEGREES.contains(&n) {
            return invalid(format!("degree {n} is not a power of two from 16 to 2^17"));
        }
        if q.is_empty() {
            return invalid("at least one prime in Q is needed".to_owned());
        }
        let mut moduli = Vec::with_capacity(q.len() + p.len());
        for &value in q.iter().chain(p) {
            let modulus = Modulus::new(value)?;
            if !is_ntt_friendly(value, n) {
                return Err(Error::InvalidModulus { value, reason: "it must be 1 modulo 2n" });
            }
            if moduli.contains(&modulus) {
                return Err(Error::InvalidModulus { value, reason: "it occurs twice" });
            }
            moduli.push(modulus);
        }
        let total = digit_sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
        let unused = digit_sizes.is_empty() && p.is_empty();
        if !unused && (total != Some(q.len()) || digit_sizes.contains(&0)) {
            return invalid(format!(
                "digit sizes {digit_sizes:?} must be positive and sum to {} primes",
                q.len()
            ));
        }
        let mut start = 0;
        let digits = digit_sizes
            .iter()
            .map(|&size| {
                start += size;
                start - size..start
            })
            .collect();
        Ok(Self { n, moduli, q: q.len(), digits })
    }

    /// Degree N of the ring.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// q_0 ... q_L.
    #[must_use]
    pub fn q(&self) -> &[Modulus] {
        &self.moduli[..self.q]
    }

    /// The special primes.
    #[must_use]
    pub fn p(&self) -> &[Modulus] {
        &self.moduli[self.q..]
    }

    /// q_0 ... q_L, then the special primes.
    #[must_use]
    pub fn moduli(&self) -> &[Modulus] {
        &self.moduli
    }

    /// The digits as ranges of indices into [`RnsBasis::q`], from the bottom.
    #[must_use]
    pub fn digits(&self) -> &[Range<usize>] {
        &self.digits
    }

    /// The digits that are present with the first `q` primes, the last one cut at `q`.
    pub fn digits_at(&self, q: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        self.digits.iter().filter(move |d| d.start < q).map(move |d| d.start..d.end.min(q))
    }

    /// All limbs: the whole of Q and all special primes.
    #[must_use]
    pub fn all_limbs(&self) -> Limbs {
        Limbs { q: self.q, p: self.p().len() }
    }

    /// Index into [`RnsBasis::moduli`] of a row of `limbs`.
    #[must_use]
    pub fn prime_index(&self, limbs: Limbs, row: usize) -> usize {
        self.all_limbs().row_of(limbs, row)
    }

    /// The primes of `limbs` in row order.
    pub fn row_moduli(&self, limbs: Limbs) -> impl Iterator<Item = &Modulus> + '_ {
        self.moduli.iter().take(limbs.q).chain(self.p().iter().take(limbs.p))
    }

    /// `P mod q_j` for the first `q` primes of Q.
    pub(crate) fn special_product(&self, q: usize) -> Vec<u64> {
        let product = |m: &Modulus| {
            self.p().iter().fold(1, |product, p| m.mul(product, m.reduce_u64(p.value())))
        };
        self.q().iter().take(q).map(product).collect()
    }

    /// Refuses limbs that this basis does not have.
    pub(crate) fn check_limbs(&self, op: &'static str, limbs: Limbs) -> Result<()> {
        let all = self.all_limbs();
        if limbs.q == 0 || limbs.q > all.q || (limbs.p != 0 && limbs.p != all.p) {
            return Err(Error::LimbMismatch { op, needed: limbs, got: all });
        }
        Ok(())
    }
}

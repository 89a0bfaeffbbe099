//! Parameters: a literal with public fields, checked once into an immutable, shared set.

use crate::error::{Error, Result};
use crate::security::{SecretDistribution, SecurityTable};
use cipherform_ring::primes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// log2 by which P must exceed a digit of several primes: the key-switch noise is then below the rounding of mod-down
/// (see [`crate::noise::key_switch`]) for every ring degree of the table.
const DIGIT_MARGIN_LOG2: f64 = 3.0;

/// log2 by which P must exceed a digit of one prime, which cannot be cut any smaller (the base prime of `lev13`).
const SINGLE_PRIME_MARGIN_LOG2: f64 = 0.9;

/// A description of a parameter set, with no promises. [`Self::check`] turns it into [`Parameters`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParametersLiteral {
    /// Name of the set; insecure ones start with `toy` or `insecure`.
    pub name: String,
    /// log2 of the ring degree.
    pub log_n: u32,
    /// Distribution of the secret.
    #[serde(default)]
    pub secret: SecretDistribution,
    /// log2 of the scale at the highest level.
    pub log2_scale: u32,
    /// The prime that stays at level 0.
    pub base: u64,
    /// One prime a level, top down: rescaling from the highest level removes the first.
    pub application: Vec<u64>,
    /// The special primes; their product P is the auxiliary modulus of key switching.
    pub special: Vec<u64>,
}

struct Inner {
    literal: ParametersLiteral,
    /// Bottom up: the base, then the application primes of levels 1, 2, ..
    q: Vec<u64>,
    digit_sizes: Vec<usize>,
    /// Exact nominal scale by level.
    scales: Vec<f64>,
    /// log2 of the product of the first i + 1 q primes.
    log2_q: Vec<f64>,
    log2_p: f64,
    toy: bool,
    fingerprint: [u8; 32],
}

/// A checked parameter set; cheap to clone.
///
/// Level l keeps l + 1 limbs; rescaling from level l divides by [`Self::modulus_at`]`(l)` and turns the nominal scale
/// S_l into S_(l-1) = S_l^2 / q_l exactly, starting from a power of two at the top.
#[derive(Clone)]
pub struct Parameters(Arc<Inner>);

impl ParametersLiteral {
    /// Whether the name marks the set as insecure.
    #[must_use]
    pub fn is_named_toy(&self) -> bool {
        self.name.starts_with("toy") || self.name.starts_with("insecure")
    }

    /// Checks the set and its security.
    ///
    /// # Errors
    /// [`Error::InvalidParameters`] unless all primes are distinct primes below 2^50, 1 modulo 2n, with P large enough
    /// for every digit; [`Error::Insecure`] if log2 QP is above the [`SecurityTable`]; [`Error::UnknownSecurity`]
    /// outside the table.
    pub fn check(self) -> Result<Parameters> {
        let parameters = self.build(false)?;
        SecurityTable::check(
            "the parameter set (QP)",
            parameters.n(),
            parameters.0.literal.secret,
            parameters.log_qp(),
        )?;
        Ok(parameters)
    }

    /// Checks everything but security. Such sets are for tests: anyone can break them.
    ///
    /// # Errors
    /// As [`Self::check`], and [`Error::NotAToy`] unless the name starts with `toy` or `insecure`.
    ///
    /// # Security
    /// None. Objects made with such a set carry a flag and a fingerprint of their own.
    pub fn check_insecure_toy(self) -> Result<Parameters> {
        if !self.is_named_toy() {
            return Err(Error::NotAToy { name: self.name });
        }
        self.build(true)
    }

    fn invalid(&self, detail: impl Into<String>) -> Error {
        Error::InvalidParameters { name: self.name.clone(), detail: detail.into() }
    }

    fn build(self, toy: bool) -> Result<Parameters> {
        // Below 2^10 no use is known, above 2^17 the security table ends.
        if !(10..=17).contains(&self.log_n) {
            return Err(self.invalid(format!("log_n = {} is not in 10..=17", self.log_n)));
        }
        if self.secret != SecretDistribution::UniformTernary {
            return Err(self.invalid("only uniform ternary secrets are implemented"));
        }
        if !(20..=60).contains(&self.log2_scale) {
            return Err(self.invalid(format!("log2_scale = {} is not in 20..=60", self.log2_scale)));
        }
        if self.special.is_empty() {
            return Err(self.invalid("key switching needs at least one special prime"));
        }
        let n = 1usize << self.log_n;
        let q: Vec<u64> =
            std::iter::once(self.base).chain(self.application.iter().rev().copied()).collect();
        let mut all: Vec<u64> = q.iter().chain(&self.special).copied().collect();
        for &p in &all {
            if p >= 1 << 50 {
                return Err(self.invalid(format!("{p} is not below 2^50")));
            }
            if !primes::is_ntt_friendly(p, n) {
                return Err(self.invalid(format!("{p} is not a prime that is 1 modulo 2n")));
            }
        }
        all.sort_unstable();
        if all.windows(2).any(|w| w.first() == w.last()) {
            return Err(self.invalid("the primes are not distinct"));
        }

        let log2 = |p: &u64| (*p as f64).log2();
        let log2_p: f64 = self.special.iter().map(log2).sum();
        let log2_q: Vec<f64> = q
            .iter()
            .scan(0.0, |sum, p| {
                *sum += log2(p);
                Some(*sum)
            })
            .collect();
        let digit_sizes = self.cut_digits(&q, log2_p, toy)?;

        let mut scales = vec![(self.log2_scale as f64).exp2()];
        for &prime in &self.application {
            let above = scales.last().copied().unwrap_or(1.0);
            let scale = above * above / prime as f64;
            // A chain whose scales run away was listed in the wrong order.
            if (scale.log2() - self.log2_scale as f64).abs() > 0.5 {
                return Err(self.invalid(format!(
                    "the exact scale drifts to 2^{:.2} when {prime} is removed; order the application primes top down \
                     so that it stays near 2^{}",
                    scale.log2(),
                    self.log2_scale
                )));
            }
            scales.push(scale);
        }
        scales.reverse();

        let fingerprint = self.fingerprint(toy);
        Ok(Parameters(Arc::new(Inner {
            literal: self,
            q,
            digit_sizes,
            scales,
            log2_q,
            log2_p,
            toy,
            fingerprint,
        })))
    }

    /// Cuts the q primes into digits from the bottom, each as long as its product stays at most P / 2^3.
    ///
    /// From the bottom, because a ciphertext at level l holds the *lowest* l + 1 limbs: all digits but its last are
    /// then full, so it has as few digits (and its keys as few rows) as possible. Cut from the top, the partial digit
    /// would sit at the bottom of every ciphertext: three digits instead of two at level 20 of `lev16_36`.
    fn cut_digits(&self, q: &[u64], log2_p: f64, toy: bool) -> Result<Vec<usize>> {
        let mut sizes: Vec<usize> = Vec::new();
        let mut open = f64::INFINITY;
        for prime in q {
            let bits = (*prime as f64).log2();
            match sizes.last_mut() {
                Some(size) if open + bits <= log2_p - DIGIT_MARGIN_LOG2 => {
                    *size += 1;
                    open += bits;
                }
                _ => {
                    let margin = log2_p - bits;
                    if !toy && margin < SINGLE_PRIME_MARGIN_LOG2 {
                        return Err(self.invalid(format!(
                            "P exceeds the prime {prime} by only 2^{margin:.2}; key switching would drown in noise"
                        )));
                    }
                    sizes.push(1);
                    open = bits;
                }
            }
        }
        Ok(sizes)
    }

    /// BLAKE3 over everything that decides the meaning of a word; the name is not part of it.
    fn fingerprint(&self, toy: bool) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"cipherform parameters 1");
        let secret = match self.secret {
            SecretDistribution::UniformTernary => 0,
            SecretDistribution::FixedWeight(h) => u64::from(h),
        };
        let head = [u64::from(toy), self.log_n.into(), secret, self.log2_scale.into(), self.base];
        let lengths = [self.application.len() as u64, self.special.len() as u64];
        let words = head.iter().chain(&lengths).chain(&self.application).chain(&self.special);
        for word in words {
            hasher.update(&word.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

impl Parameters {
    /// Name of the set.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.literal.name
    }

    /// log2 of the ring degree.
    #[must_use]
    pub fn log_n(&self) -> u32 {
        self.0.literal.log_n
    }

    /// Ring degree.
    #[must_use]
    pub fn n(&self) -> usize {
        1 << self.0.literal.log_n
    }

    /// Number of complex slots: n / 2.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.n() / 2
    }

    /// The highest level: how many rescalings a fresh ciphertext can take.
    #[must_use]
    pub fn max_level(&self) -> usize {
        self.0.q.len() - 1
    }

    /// Number of q limbs at a level (l + 1), at most those of the set.
    #[must_use]
    pub fn limbs_at(&self, level: usize) -> usize {
        (level + 1).min(self.0.q.len())
    }

    /// The exact nominal scale of a level; above the highest level, the highest level's.
    #[must_use]
    pub fn scale_at(&self, level: usize) -> f64 {
        self.0.scales.get(level).or(self.0.scales.last()).copied().unwrap_or(1.0)
    }

    /// The prime that rescaling from a level removes; at level 0 the base, which is never removed.
    #[must_use]
    pub fn modulus_at(&self, level: usize) -> u64 {
        self.0.q.get(level).or(self.0.q.last()).copied().unwrap_or(1)
    }

    /// The q primes from the bottom: the base, then the one that level 1 removes, and so on.
    #[must_use]
    pub fn q(&self) -> &[u64] {
        &self.0.q
    }

    /// The special primes.
    #[must_use]
    pub fn special(&self) -> &[u64] {
        &self.0.literal.special
    }

    /// log2 of the ciphertext modulus at a level.
    #[must_use]
    pub fn log2_q_at(&self, level: usize) -> f64 {
        self.0.log2_q.get(level).or(self.0.log2_q.last()).copied().unwrap_or(0.0)
    }

    /// log2 of P.
    #[must_use]
    pub fn log2_p(&self) -> f64 {
        self.0.log2_p
    }

    /// log2 of the exact product of all primes, special ones included.
    #[must_use]
    pub fn log_qp(&self) -> f64 {
        self.log2_q_at(self.max_level()) + self.0.log2_p
    }

    /// Security of the set in bits; 0 for toys.
    #[must_use]
    pub fn security_bits(&self) -> u32 {
        if self.0.toy { 0 } else { SecurityTable::BITS }
    }

    /// Refuses a modulus under which this set's secret must not encrypt. Toys pass.
    ///
    /// # Errors
    /// [`Error::Insecure`] above the limit of the [`SecurityTable`].
    pub fn check_modulus(&self, what: &'static str, log2_modulus: f64) -> Result<()> {
        if self.0.toy {
            return Ok(());
        }
        SecurityTable::check(what, self.n(), self.0.literal.secret, log2_modulus)
    }

    /// Number of digits at the highest level.
    #[must_use]
    pub fn dnum(&self) -> usize {
        self.0.digit_sizes.len()
    }

    /// Sizes of the digits, in primes, from the bottom.
    #[must_use]
    pub fn digit_sizes(&self) -> &[usize] {
        &self.0.digit_sizes
    }

    /// The digits present at a level, each a range of q limbs; the last may be cut short.
    #[must_use]
    pub fn digits_at(&self, level: usize) -> Vec<std::ops::Range<usize>> {
        let limbs = self.limbs_at(level);
        let mut start = 0;
        let mut digits = Vec::new();
        for size in &self.0.digit_sizes {
            if start >= limbs {
                break;
            }
            digits.push(start..(start + size).min(limbs));
            start += size;
        }
        digits
    }

    /// log2 of the largest digit at a level.
    #[must_use]
    pub fn log2_digit_at(&self, level: usize) -> f64 {
        let log2 = |r: std::ops::Range<usize>| -> f64 {
            self.0.q.get(r).unwrap_or_default().iter().map(|p| (*p as f64).log2()).sum()
        };
        self.digits_at(level).into_iter().map(log2).fold(0.0, f64::max)
    }

    /// BLAKE3 hash of everything that decides the meaning of a word; carried by every serialised object.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.0.fingerprint
    }

    /// Whether the set is insecure.
    #[must_use]
    pub fn is_toy(&self) -> bool {
        self.0.toy
    }

    /// The literal that was checked.
    #[must_use]
    pub fn literal(&self) -> &ParametersLiteral {
        &self.0.literal
    }

    /// Name and short fingerprint, as error messages show them.
    #[must_use]
    pub fn label(&self) -> String {
        let [a, b, c, d, ..] = self.0.fingerprint;
        format!("{} {a:02x}{b:02x}{c:02x}{d:02x}", self.name())
    }

    /// Fails unless both are the same set.
    pub(crate) fn require_same(&self, op: &'static str, other: &Parameters) -> Result<()> {
        if self == other {
            Ok(())
        } else {
            Err(Error::ParameterMismatch { op, expected: self.label(), got: other.label() })
        }
    }

    /// Fails above the highest level.
    pub(crate) fn require_level(&self, op: &'static str, level: usize) -> Result<()> {
        if level <= self.max_level() {
            Ok(())
        } else {
            Err(Error::LevelTooHigh { op, level, max: self.max_level() })
        }
    }
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.fingerprint == other.0.fingerprint
    }
}

impl Eq for Parameters {}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Parameters({}, levels {}, log QP {:.1})",
            self.label(),
            self.max_level(),
            self.log_qp()
        )
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "exact by construction")]

    use super::*;
    use crate::presets;

    #[test]
    fn presets_match_the_design() {
        // log QP, levels and digits (bottom first) as in the design's table.
        let rows: [(&str, f64, usize, &[usize]); 8] = [
            ("lev13", 213.0, 4, &[1, 1, 1, 1, 1]),
            ("lev14", 429.0, 7, &[2, 2, 2, 2]),
            ("lev14_35", 420.0, 8, &[2, 2, 2, 2, 1]),
            ("lev15", 850.0, 15, &[4, 4, 4, 4]),
            ("lev15_45", 830.0, 14, &[3, 3, 3, 3, 3]),
            ("lev16_36", 1710.0, 35, &[10, 11, 11, 4]),
            ("toy11_lev", 220.0, 3, &[1, 1, 1, 1]),
            ("toy11_deep", 1114.0, 24, &[5, 5, 5, 5, 5]),
        ];
        assert_eq!(presets::names().len(), rows.len());
        for (name, log_qp, levels, digits) in rows {
            let p = presets::get(name).unwrap();
            assert!((p.log_qp() - log_qp).abs() < 0.1, "{name}: {}", p.log_qp());
            assert_eq!((p.max_level(), p.digit_sizes()), (levels, digits), "{name}");
            assert_eq!(p.security_bits(), if name.starts_with("toy") { 0 } else { 128 });
            // The order of the primes keeps every exact scale near the nominal one (lev16_36 is the widest).
            let worst = (0..=levels)
                .map(|l| (p.scale_at(l).log2() - p.literal().log2_scale as f64).abs())
                .fold(0.0, f64::max);
            assert!(worst < 2f64.powi(-10), "{name}: scale drifts by 2^{:.1}", worst.log2());
        }
        let deep = presets::get("lev16_36").unwrap();
        assert_eq!(deep.digits_at(20), vec![0..10, 10..21]);
        assert_eq!(deep.digits_at(0), vec![0..1]);
        assert_eq!(deep.modulus_at(35), 524_280 * (1 << 17) + 1);
        assert_eq!(deep.modulus_at(1), 524_640 * (1 << 17) + 1);
    }

    #[test]
    fn scales_follow_the_recurrence() {
        let p = presets::get("lev15").unwrap();
        assert_eq!(p.scale_at(15), 2f64.powi(40));
        for l in 1..=15 {
            let want = p.scale_at(l) * p.scale_at(l) / p.modulus_at(l) as f64;
            assert_eq!(p.scale_at(l - 1), want);
        }
    }

    #[test]
    fn an_oversized_modulus_is_refused() {
        // lev13 with its two 49-bit neighbours from lev14-sized special primes: 2n divides both.
        let mut literal = presets::literal("lev13").unwrap();
        let extra = presets::literal("lev14").unwrap().special;
        literal.special.extend(extra);
        assert!(matches!(literal.clone().check(), Err(Error::Insecure { n: 8192, .. })));
        // One bit above the limit is enough: 213.0 + 37 > 214.
        literal.special.truncate(2);
        assert!(matches!(literal.clone().check(), Err(Error::Insecure { .. })));
        literal.special.truncate(1);
        assert!(literal.check().is_ok());
        // Toys hide behind their own door only.
        let toy = presets::literal("toy11_deep").unwrap();
        assert!(matches!(toy.clone().check(), Err(Error::Insecure { .. })));
        let mut renamed = toy;
        renamed.name = "production".into();
        assert!(matches!(renamed.check_insecure_toy(), Err(Error::NotAToy { .. })));
    }

    #[test]
    fn bad_literals_are_refused() {
        let good = presets::literal("lev13").unwrap();
        let refused = |change: &dyn Fn(&mut ParametersLiteral)| {
            let mut literal = good.clone();
            change(&mut literal);
            matches!(literal.check(), Err(Error::InvalidParameters { .. }))
        };
        assert!(!refused(&|_| ()));
        assert!(refused(&|l| l.base += 2));
        assert!(refused(&|l| l.base = (1 << 51) + (1 << 14) + 1));
        assert!(refused(&|l| l.application[1] = l.application[0]));
        assert!(refused(&|l| l.special[0] = l.base));
        assert!(refused(&|l| l.special.clear()));
        assert!(refused(&|l| l.log_n = 9));
        assert!(refused(&|l| l.log_n = 14));
        assert!(refused(&|l| l.log2_scale = 10));
        assert!(refused(&|l| l.log2_scale = 33));
        assert!(refused(&|l| l.secret = SecretDistribution::FixedWeight(192)));
        // P smaller than the base: no margin for key switching.
        assert!(refused(&|l| std::mem::swap(&mut l.base, &mut l.special[0])));
    }

    #[test]
    fn the_order_of_the_chain_matters() {
        let mut literal = presets::literal("lev16_36").unwrap();
        literal.application.reverse();
        assert!(matches!(literal.check(), Err(Error::InvalidParameters { .. })));
    }

    #[test]
    fn fingerprints_are_distinct_and_ignore_the_name() {
        let prints: std::collections::BTreeSet<_> =
            presets::names().iter().map(|n| presets::get(n).unwrap().fingerprint()).collect();
        assert_eq!(prints.len(), presets::names().len());
        let mut literal = presets::literal("lev14").unwrap();
        literal.name = "mine".into();
        assert_eq!(literal.check().unwrap(), presets::get("lev14").unwrap());
    }

    #[test]
    fn a_literal_survives_json() {
        let literal = presets::literal("lev14").unwrap();
        let json = serde_json::to_string(&literal).unwrap();
        assert_eq!(serde_json::from_str::<ParametersLiteral>(&json).unwrap(), literal);
    }
}

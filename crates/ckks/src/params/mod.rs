//! Parameters: a literal with public fields, checked once into an immutable, shared set.

mod literal;

pub use literal::{BootstrappingLiteral, ParametersLiteral};

use crate::error::{Error, Result};
use crate::security::{SecretDistribution, SecurityTable};
use cipherform_ring::Limbs;
use std::fmt;
use std::sync::Arc;

/// What the key to the ephemeral secret is called in errors.
pub(crate) const ENCAPSULATION_KEY: &str = "the dense-to-sparse key";

/// What the key to the hand-over secret is called in errors.
pub(crate) const HAND_OVER_KEY: &str = "the hand-over key";

/// Largest degree of the hand-over secret: the smallest whose limit in the [`SecurityTable`] takes q_0 and a special prime
/// of all sets.
pub(crate) const HAND_OVER_DEGREE: usize = 1 << 12;

/// Special primes of the hand-over key: its noise, about sqrt(n) over the prime, is far below what a label needs.
pub(crate) const HAND_OVER_SPECIAL: usize = 1;

/// Special primes of the dense-to-sparse key: with one, P' = q_0 and its noise would exceed the rounding.
pub(crate) const ENCAPSULATION_SPECIAL: usize = 2;

struct Inner {
    literal: ParametersLiteral,
    /// Bottom up: the base, then the primes of levels 1, 2, ..
    q: Vec<u64>,
    /// Number of q limbs by level.
    limbs: Vec<usize>,
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
/// Rescaling from level l divides by [`Self::modulus_at`]`(l)`, one prime or the product of two, and turns the nominal
/// scale S_l into S_(l-1) = S_l^2 / q_l exactly; it is a power of two at the highest level, with bootstrapping at the
/// lowest application level.
#[derive(Clone)]
pub struct Parameters(Arc<Inner>);

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
        self.0.limbs.len() - 1
    }

    /// The highest level that computations use: where a bootstrap delivers; without bootstrapping, the highest level.
    ///
    /// Above it, with bootstrapping, are the levels of modular reduction and coefficients-to-slots.
    #[must_use]
    pub fn application_level(&self) -> usize {
        match self.bootstrapping() {
            None => self.max_level(),
            Some(b) => b.slots_to_coefficients.len() + self.0.literal.application.len(),
        }
    }

    /// The bootstrapping part of the set, if it has one.
    #[must_use]
    pub fn bootstrapping(&self) -> Option<&BootstrappingLiteral> {
        self.0.literal.bootstrapping.as_ref()
    }

    /// Number of q limbs at a level, at most those of the set. One more a level, two more where a level drops a pair.
    #[must_use]
    pub fn limbs_at(&self, level: usize) -> usize {
        self.0.limbs.get(level).copied().unwrap_or(self.0.q.len())
    }

    /// Limbs of a key at a level: those of a ciphertext and all special ones.
    pub(crate) fn key_limbs_at(&self, level: usize) -> Limbs {
        Limbs { q: self.limbs_at(level), p: self.special().len() }
    }

    /// Number of primes that rescaling from a level removes; 0 at level 0.
    #[must_use]
    pub fn primes_at(&self, level: usize) -> usize {
        self.limbs_at(level)
            - level.checked_sub(1).map_or(self.limbs_at(level), |l| self.limbs_at(l))
    }

    /// The exact nominal scale of a level; above the highest level, the highest level's.
    #[must_use]
    pub fn scale_at(&self, level: usize) -> f64 {
        self.0.scales.get(level).or(self.0.scales.last()).copied().unwrap_or(1.0)
    }

    /// What rescaling from a level divides by: a prime, or the product of a pair; at level 0 the base, which is never
    /// removed; above the highest level, the highest level's.
    #[must_use]
    pub fn modulus_at(&self, level: usize) -> u128 {
        let level = level.min(self.max_level());
        let start = level.checked_sub(1).map_or(0, |l| self.limbs_at(l));
        let group = self.0.q.get(start..self.limbs_at(level)).unwrap_or_default();
        group.iter().map(|&p| u128::from(p)).product()
    }

    /// The q primes from the bottom: the base, then those that level 1 removes, and so on.
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
        let limbs = self.limbs_at(level);
        self.0.log2_q.get(limbs.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// log2 of the modulus under which the dense-to-sparse key is encrypted: q_0 and two special primes.
    #[must_use]
    pub fn log2_encapsulation(&self) -> Option<f64> {
        self.bootstrapping()?;
        let special = self.special().iter().take(ENCAPSULATION_SPECIAL);
        Some(self.0.q.first().into_iter().chain(special).map(|&p| (p as f64).log2()).sum())
    }

    /// Coefficients of the hand-over secret: the dimension of [`crate::LweSample`].
    #[must_use]
    pub fn hand_over_dimension(&self) -> usize {
        self.n().min(HAND_OVER_DEGREE)
    }

    /// log2 of the modulus under which the hand-over key is encrypted: q_0 and one special prime.
    #[must_use]
    pub fn log2_hand_over(&self) -> f64 {
        let special = self.special().iter().take(HAND_OVER_SPECIAL);
        self.0.q.first().into_iter().chain(special).map(|&p| (p as f64).log2()).sum()
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

    /// Refuses the hand-over key where its modulus is too large for its secret. That secret lies in Z[X^(n/d)], d its
    /// dimension; a polynomial of degree n is n/d of degree d, side by side, so that the key is n/d samples of RLWE in
    /// degree d and the table's row is that of d. Toys pass.
    ///
    /// # Errors
    /// [`Error::Insecure`] above the limit of the [`SecurityTable`].
    pub(crate) fn check_hand_over(&self) -> Result<()> {
        if self.0.toy {
            return Ok(());
        }
        let (dimension, ternary) = (self.hand_over_dimension(), SecretDistribution::UniformTernary);
        SecurityTable::check(HAND_OVER_KEY, dimension, ternary, self.log2_hand_over())
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
    use crate::{SecretDistribution, presets};

    #[test]
    fn presets_match_the_design() {
        // log QP, levels and digits (bottom first) as in the design's table.
        // For sets that bootstrap, levels is the highest one, of coefficients-to-slots; the design cuts digits from the
        // top, these are cut from the bottom.
        let rows: [(&str, f64, usize, &[usize]); 15] = [
            ("lev13", 213.0, 4, &[1, 1, 1, 1, 1]),
            ("lev14", 429.0, 7, &[2, 2, 2, 2]),
            ("lev14_35", 420.0, 8, &[2, 2, 2, 2, 1]),
            ("lev15", 850.0, 15, &[4, 4, 4, 4]),
            ("lev15_45", 830.0, 14, &[3, 3, 3, 3, 3]),
            ("lev16_36", 1710.0, 35, &[10, 11, 11, 4]),
            ("boot15", 860.7, 16, &[2, 2, 2, 2, 2, 2, 3, 2, 2]),
            ("boot16", 1740.3, 29, &[9, 9, 9, 5]),
            ("boot16_deep", 1720.3, 31, &[7, 7, 7, 6, 7]),
            ("boot16_hp", 1703.3, 25, &[8, 9, 13, 4]),
            ("toy12_boot", 1100.3, 18, &[4, 4, 3, 5, 4, 1]),
            ("toy10_boot", 970.3, 15, &[4, 4, 4, 5, 1]),
            ("toy11_boot", 1380.3, 25, &[4, 4, 4, 4, 3, 5, 3, 1]),
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
                .filter(|&l| {
                    // Those of slots-to-coefficients and above the anchor are near other powers.
                    p.bootstrapping().is_none_or(|b| {
                        (b.slots_to_coefficients.len()..p.application_level()).contains(&l)
                    })
                })
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
        for (set, anchor) in [("lev15", 15), ("boot16", 3), ("boot16_hp", 3), ("boot15", 2)] {
            let p = presets::get(set).unwrap();
            let nominal = (p.literal().log2_scale as f64).exp2();
            // The way down doubles the rounding of the highest scale at every level, 27 at most.
            assert!((p.scale_at(anchor) / nominal - 1.0).abs() < 2f64.powi(-24), "{set}");
            for l in 1..=p.max_level() {
                let want = p.scale_at(l) * p.scale_at(l) / p.modulus_at(l) as f64;
                assert_eq!(p.scale_at(l - 1), want, "{set} {l}");
            }
        }
    }

    #[test]
    fn levels_may_hold_pairs() {
        let p = presets::get("boot16").unwrap();
        // Base, three, fifteen, eight levels of ten primes, three.
        assert_eq!((p.application_level(), p.max_level(), p.limbs_at(29)), (18, 29, 32));
        let limbs: Vec<usize> = (18..=26).map(|l| p.limbs_at(l)).collect();
        assert_eq!(limbs, [19, 20, 21, 22, 23, 24, 26, 28, 29]);
        assert_eq!((p.primes_at(0), p.primes_at(3), p.primes_at(25)), (0, 1, 2));
        let k = |k: u128| (k << 17) + 1;
        assert_eq!(p.modulus_at(25), k(5790) * k(5796));
        assert_eq!(p.modulus_at(26), k(8_589_934_413));
        assert_eq!(p.modulus_at(18), k(331_168_985));
        assert_eq!(p.modulus_at(0), k(8_589_339_123));
        for level in 1..=29 {
            let step = (p.modulus_at(level) as f64).log2();
            assert!((p.log2_q_at(level) - p.log2_q_at(level - 1) - step).abs() < 1e-9);
        }
        // What a bootstrap delivers at: the 45.3-bit prime returns it to 2^40.
        assert!((p.scale_at(18).log2() - 42.65).abs() < 0.01);
        assert!((p.scale_at(17).log2() - 40.0).abs() < 1e-5);
        assert!((p.log2_encapsulation().unwrap() - 150.0).abs() < 0.01);
    }

    #[test]
    fn bad_bootstrapping_parts_are_refused() {
        let good = presets::literal("boot16").unwrap();
        let refused = |change: &dyn Fn(&mut BootstrappingLiteral)| {
            let mut literal = good.clone();
            literal.bootstrapping.iter_mut().for_each(change);
            literal.check().is_err()
        };
        assert!(!refused(&|_| ()));
        assert!(refused(&|b| b.slots_to_coefficients.clear()));
        assert!(refused(&|b| b.coefficients_to_slots.clear()));
        assert!(refused(&|b| drop(b.eval_mod.pop())));
        assert!(refused(&|b| b.eval_mod[0].clear()));
        assert!(refused(&|b| b.eval_mod[0] = b.eval_mod[1].clone()));
        assert!(refused(&|b| b.log2_ratio = 1));
        assert!(refused(&|b| b.overflow_bound = 16));
        // Not in the table, and above the table.
        assert!(refused(&|b| b.ephemeral_weight = 64));
        assert!(refused(&|b| b.ephemeral_weight = 0));
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

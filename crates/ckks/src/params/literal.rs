//! Literals: descriptions of parameter sets, and the checks that turn them into [`Parameters`].

use super::{ENCAPSULATION_KEY, ENCAPSULATION_SPECIAL, Inner, Parameters};
use crate::bootstrap::{EVAL_MOD_LEVELS, LEAST_LOG2_RATIO, failure_log2};
use crate::error::{Error, Result};
use crate::security::{SecretDistribution, SecurityTable};
use cipherform_ring::primes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// log2 by which P must exceed a digit of several primes: the key-switch noise is then below the rounding of mod-down
/// (see [`crate::noise::key_switch`]) for every ring degree of the table.
const DIGIT_MARGIN_LOG2: f64 = 3.0;

/// log2 by which P must exceed a digit of one prime, which cannot be cut any smaller (the base prime of `lev13`).
const SINGLE_PRIME_MARGIN_LOG2: f64 = 0.9;

/// Levels of slots-to-coefficients and of coefficients-to-slots: more would cost more levels than they save work.
const MAX_STAGES: usize = 4;

/// A failed bootstrap is a wrong answer that tells about the key to whoever sees it decrypted: as unlikely as a broken key.
const MAX_FAILURE_LOG2: f64 = -128.0;

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
    /// log2 of the scale at the highest level; with bootstrapping, at the lowest application level.
    pub log2_scale: u32,
    /// The prime that stays at level 0.
    pub base: u64,
    /// One prime a level, top down: rescaling from the highest application level removes the first.
    pub application: Vec<u64>,
    /// The special primes; their product P is the auxiliary modulus of key switching.
    pub special: Vec<u64>,
    /// The levels around the application levels that a bootstrap uses up, and its range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrapping: Option<BootstrappingLiteral>,
}

/// What a bootstrap needs beyond the application levels.
///
/// From the bottom, a chain is: the base, the slots-to-coefficients primes, the application primes, the
/// modular-reduction primes, the coefficients-to-slots primes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrappingLiteral {
    /// One prime a level, top down: the levels below the application levels.
    pub slots_to_coefficients: Vec<u64>,
    /// One or two primes a level, top down: the eight levels of the approximate modular reduction. Two small primes make
    /// a step larger than a word.
    pub eval_mod: Vec<Vec<u64>>,
    /// One prime a level, top down: the highest levels.
    pub coefficients_to_slots: Vec<u64>,
    /// log2 of R: a slot of 1 becomes a coefficient of q_0 / R before the modulus is raised.
    pub log2_ratio: u32,
    /// Weight h of the ephemeral secret under which the modulus is raised.
    pub ephemeral_weight: u32,
    /// K: raising the modulus adds multiples of q_0, which are taken to be at most K q_0.
    pub overflow_bound: u32,
}

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
    /// for every digit, and, with bootstrapping, a failure probability of at most 2^-128; [`Error::Insecure`] if log2 QP,
    /// or the modulus of the key to the ephemeral secret, is above the [`SecurityTable`]; [`Error::UnknownSecurity`]
    /// outside the table.
    pub fn check(self) -> Result<Parameters> {
        let parameters = self.build(false)?;
        SecurityTable::check(
            "the parameter set (QP)",
            parameters.n(),
            parameters.0.literal.secret,
            parameters.log_qp(),
        )?;
        if let Some(bootstrapping) = parameters.bootstrapping() {
            let secret = SecretDistribution::FixedWeight(bootstrapping.ephemeral_weight);
            let log2_modulus = parameters.log2_encapsulation().unwrap_or(f64::INFINITY);
            SecurityTable::check(ENCAPSULATION_KEY, parameters.n(), secret, log2_modulus)?;
            let failure = failure_log2(parameters.n(), bootstrapping, LEAST_LOG2_RATIO);
            if failure > MAX_FAILURE_LOG2 {
                return Err(parameters.0.literal.invalid(format!(
                    "a bootstrap fails with probability 2^{failure:.1}; it must be at most 2^{MAX_FAILURE_LOG2}"
                )));
            }
        }
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
        let groups = self.groups()?;
        let q: Vec<u64> = groups.iter().flatten().copied().collect();
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

        let scales = self.scales(&groups)?;
        let limbs = groups
            .iter()
            .scan(0, |sum, group| {
                *sum += group.len();
                Some(*sum)
            })
            .collect();
        let fingerprint = self.fingerprint(toy);
        Ok(Parameters(Arc::new(Inner {
            literal: self,
            q,
            limbs,
            digit_sizes,
            scales,
            log2_q,
            log2_p,
            toy,
            fingerprint,
        })))
    }

    /// The primes by level, bottom up: the base, then those that rescaling from levels 1, 2, .. removes.
    fn groups(&self) -> Result<Vec<Vec<u64>>> {
        let single =
            |primes: &[u64]| -> Vec<Vec<u64>> { primes.iter().rev().map(|&p| vec![p]).collect() };
        let mut groups = vec![vec![self.base]];
        let Some(b) = &self.bootstrapping else {
            groups.extend(single(&self.application));
            return Ok(groups);
        };
        let stages = 1..=MAX_STAGES;
        if !stages.contains(&b.slots_to_coefficients.len())
            || !stages.contains(&b.coefficients_to_slots.len())
        {
            return Err(self.invalid(format!(
                "slots-to-coefficients and coefficients-to-slots take 1 to {MAX_STAGES} levels each"
            )));
        }
        if b.eval_mod.len() != EVAL_MOD_LEVELS
            || b.eval_mod.iter().any(|group| !(1..=2).contains(&group.len()))
        {
            return Err(self.invalid(format!(
                "the modular reduction takes {EVAL_MOD_LEVELS} levels of one or two primes"
            )));
        }
        if self.application.len() < 2 {
            return Err(self.invalid("bootstrapping needs at least two application levels"));
        }
        // Above K = 15 the exponential needs a higher degree.
        if !(LEAST_LOG2_RATIO..=16).contains(&b.log2_ratio) || !(1..=15).contains(&b.overflow_bound)
        {
            return Err(self.invalid("log2_ratio must be in 6..=16 and overflow_bound in 1..=15"));
        }
        if b.ephemeral_weight == 0 || b.ephemeral_weight > 1 << (self.log_n - 1) {
            return Err(self.invalid("the ephemeral weight must be positive and at most n / 2"));
        }
        if self.special.len() < ENCAPSULATION_SPECIAL {
            return Err(self.invalid("bootstrapping needs at least two special primes"));
        }
        groups.extend(single(&b.slots_to_coefficients));
        groups.extend(single(&self.application));
        groups.extend(b.eval_mod.iter().rev().cloned());
        groups.extend(single(&b.coefficients_to_slots));
        Ok(groups)
    }

    /// The exact nominal scale of every level, bottom up: S_(l-1) = S_l^2 / q_l.
    ///
    /// It starts from 2^log2_scale at the highest level. With bootstrapping it starts at the highest level from where it
    /// reaches 2^log2_scale at the lowest application level: found upwards, S_l = sqrt(S_(l-1) q_l), which halves
    /// every deviation where the way down doubles it.
    fn scales(&self, groups: &[Vec<u64>]) -> Result<Vec<f64>> {
        let step = |group: &[u64]| group.iter().map(|&p| p as f64).product::<f64>();
        let lowest = self.bootstrapping.as_ref().map(|b| b.slots_to_coefficients.len());
        let nominal = (self.log2_scale as f64).exp2();
        let top = match lowest {
            None => nominal,
            Some(level) => {
                let above = groups.iter().skip(level + 1);
                above.fold(nominal, |scale, group| (scale * step(group)).sqrt())
            }
        };
        let mut scales = vec![top];
        let steps = groups.iter().enumerate().skip(1).rev();
        for (level, group) in steps {
            let high = scales.last().copied().unwrap_or(1.0);
            let scale = high * high / step(group);
            // A chain whose scales run away was listed in the wrong order.
            let application = lowest.map_or(0, |l| l + self.application.len());
            let drift = scale.log2() - self.log2_scale as f64;
            if drift.abs() > 0.5 && (lowest.is_none() || level <= application) {
                return Err(self.invalid(format!(
                    "the exact scale drifts to 2^{:.2} when {group:?} is removed; order the application primes top down \
                     so that it stays near 2^{}",
                    scale.log2(),
                    self.log2_scale
                )));
            }
            scales.push(scale);
        }
        scales.reverse();
        Ok(scales)
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
        if let Some(b) = &self.bootstrapping {
            hasher.update(b"bootstrapping 1");
            let fields = [b.log2_ratio, b.ephemeral_weight, b.overflow_bound].map(u64::from);
            let flat = [&b.slots_to_coefficients, &b.coefficients_to_slots];
            let lists = flat.into_iter().chain(&b.eval_mod);
            let words =
                lists.flat_map(|list| std::iter::once(list.len() as u64).chain(list.clone()));
            for word in fields.into_iter().chain(words) {
                hasher.update(&word.to_le_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }
}

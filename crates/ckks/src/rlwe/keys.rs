//! Public keys and key-switching keys.

use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::params::{ENCAPSULATION_KEY, ENCAPSULATION_SPECIAL, HAND_OVER_SPECIAL, Parameters};
use crate::rlwe::residency::{KeyHandle, Resident};
use crate::rlwe::{PUBLIC_KEY_DOMAIN, SecretId};
use crate::security::{SecretDistribution, SecurityTable};
use cipherform_ring::{GaloisElement, Limbs, RingPoly, sample};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// What a key-switching key makes possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// Products, by way of s^2.
    Relinearization,
    /// The rotation by this amount, 1 to slots - 1.
    Rotation(i64),
    /// Complex conjugation.
    Conjugation,
    /// From the secret to the sparse ephemeral secret of a bootstrap, modulo q_0 and two special primes only.
    DenseToSparse,
    /// From the sparse ephemeral secret of a bootstrap back to the secret.
    SparseToDense,
    /// From the secret to one in a subring, modulo q_0 and one special prime only: see [`crate::LweSample`].
    HandOver,
}

impl KeyKind {
    /// The rotation by `k` modulo the number of slots; `None` for the identity, which needs no key.
    #[must_use]
    pub fn rotation(k: i64, slots: usize) -> Option<Self> {
        match k.rem_euclid(slots.max(1) as i64) {
            0 => None,
            k => Some(Self::Rotation(k)),
        }
    }

    /// The automorphism X -> X^g behind it and its inverse; `None` for keys without one.
    pub(crate) fn galois_elements(self, n: usize) -> Option<[GaloisElement; 2]> {
        match self {
            Self::Relinearization | Self::DenseToSparse | Self::SparseToDense | Self::HandOver => {
                None
            }
            Self::Rotation(k) => Some([k, -k].map(|k| GaloisElement::rotation(k, n))),
            Self::Conjugation => Some([GaloisElement::conjugation(n); 2]),
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relinearization => f.write_str("relinearization"),
            Self::Rotation(k) => write!(f, "rotation {k}"),
            Self::Conjugation => f.write_str("conjugation"),
            Self::DenseToSparse => f.write_str("dense to sparse"),
            Self::SparseToDense => f.write_str("sparse to dense"),
            Self::HandOver => f.write_str("hand-over"),
        }
    }
}

/// A key and the highest level at which it can be used. Keys cost memory by level squared: make them no higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeySpec {
    /// What it switches.
    pub kind: KeyKind,
    /// Highest level of use.
    pub level: usize,
}

impl KeySpec {
    /// A relinearization key up to a level.
    #[must_use]
    pub fn relinearization(level: usize) -> Self {
        Self { kind: KeyKind::Relinearization, level }
    }

    /// A key for the rotation by `k` up to a level; `None` for the identity.
    #[must_use]
    pub fn rotation(params: &Parameters, k: i64, level: usize) -> Option<Self> {
        KeyKind::rotation(k, params.slots()).map(|kind| Self { kind, level })
    }

    /// A key for conjugation up to a level.
    #[must_use]
    pub fn conjugation(level: usize) -> Self {
        Self { kind: KeyKind::Conjugation, level }
    }

    /// The key to the ephemeral secret of a bootstrap: level 0, see [`KeyKind::DenseToSparse`].
    #[must_use]
    pub fn dense_to_sparse() -> Self {
        Self { kind: KeyKind::DenseToSparse, level: 0 }
    }

    /// The key from the ephemeral secret of a bootstrap, at the highest level.
    #[must_use]
    pub fn sparse_to_dense(params: &Parameters) -> Self {
        Self { kind: KeyKind::SparseToDense, level: params.max_level() }
    }

    /// The key to the hand-over secret: level 0, see [`KeyKind::HandOver`].
    #[must_use]
    pub fn hand_over() -> Self {
        Self { kind: KeyKind::HandOver, level: 0 }
    }

    /// Limbs of the key's polynomials, in its own ring (see [`Context::key_ring`]).
    pub(crate) fn limbs(self, params: &Parameters) -> Limbs {
        match self.kind {
            KeyKind::DenseToSparse => Limbs { q: 1, p: ENCAPSULATION_SPECIAL },
            KeyKind::HandOver => Limbs { q: 1, p: HAND_OVER_SPECIAL },
            _ => params.key_limbs_at(self.level),
        }
    }

    /// Digits of the key, as ranges of q limbs.
    pub(crate) fn digits(self, params: &Parameters) -> Vec<Range<usize>> {
        params.digits_at(self.level)
    }

    /// Refuses a key whose modulus is too large for the secret that it is encrypted *under*: its q limbs times P under the
    /// dense secret, q_0 times two special primes under the ephemeral one, or q_0 times one under the hand-over secret.
    ///
    /// # Errors
    /// [`Error::Insecure`]; [`Error::InvalidArgument`] for a key of bootstrapping in a set without it, or for a
    /// dense-to-sparse or hand-over key of another level than 0, whose modulus would be that of the level times P.
    pub(crate) fn check_modulus(self, params: &Parameters) -> Result<()> {
        let invalid = |detail: String| Error::InvalidArgument { op: "evaluation key", detail };
        let full = params.log2_q_at(self.level) + params.log2_p();
        if self.kind == KeyKind::HandOver {
            if self.level > 0 {
                return Err(invalid("the hand-over key exists at level 0 only".into()));
            }
            return params.check_hand_over();
        }
        let ephemeral = matches!(self.kind, KeyKind::DenseToSparse | KeyKind::SparseToDense);
        let (Some(set), true) = (params.bootstrapping(), ephemeral) else {
            if ephemeral {
                return Err(invalid(format!("{} cannot bootstrap", params.label())));
            }
            return params.check_modulus("an evaluation key", full);
        };
        if self.kind == KeyKind::SparseToDense {
            return params.check_modulus("an evaluation key", full);
        }
        if !params.is_toy() {
            let secret = SecretDistribution::FixedWeight(set.ephemeral_weight);
            let least = params.log2_encapsulation().unwrap_or(f64::INFINITY);
            let log2_modulus = if self.level == 0 { least } else { full };
            SecurityTable::check(ENCAPSULATION_KEY, params.n(), secret, log2_modulus)?;
        }
        if self.level > 0 {
            return Err(invalid("the dense-to-sparse key exists at level 0 only".into()));
        }
        Ok(())
    }

    /// The same key with its rotation amount brought to 1..slots.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for the identity rotation, [`Error::LevelTooHigh`] above the set; those of
    /// [`Self::check_modulus`].
    pub(crate) fn normalised(self, params: &Parameters) -> Result<Self> {
        const OP: &str = "key specification";
        params.require_level(OP, self.level)?;
        self.check_modulus(params)?;
        let kind = match self.kind {
            KeyKind::Rotation(k) => KeyKind::rotation(k, params.slots()).ok_or_else(|| {
                let detail = format!("rotation {k} is the identity and needs no key");
                Error::InvalidArgument { op: OP, detail }
            })?,
            other => other,
        };
        Ok(Self { kind, level: self.level })
    }
}

impl fmt::Display for KeySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at level {}", self.kind, self.level)
    }
}

/// A public encryption key (b, a) = (-a s + e, a) over all primes, special ones included.
#[derive(Clone, Debug)]
pub struct PublicKey {
    pub(crate) params: Parameters,
    pub(crate) secret: SecretId,
    pub(crate) seed: [u8; 32],
    pub(crate) b: RingPoly,
    pub(crate) a: RingPoly,
}

impl PublicKey {
    pub(crate) fn from_parts(
        ctx: &Context,
        secret: SecretId,
        seed: [u8; 32],
        b: RingPoly,
    ) -> Result<Self> {
        let params = ctx.params();
        params.check_modulus("a public key", params.log_qp())?;
        let limbs = ctx.key_limbs(params.max_level());
        let a = sample::uniform(ctx.ring(), limbs, &seed, PUBLIC_KEY_DOMAIN)?;
        Ok(Self { params: params.clone(), secret, seed, b, a })
    }

    /// The parameter set.
    #[must_use]
    pub fn params(&self) -> &Parameters {
        &self.params
    }

    /// The name of the secret that it belongs to.
    #[must_use]
    pub fn secret_id(&self) -> SecretId {
        self.secret
    }
}

/// A key-switching key as it travels: one polynomial a digit, and the seed of the uniform halves.
#[derive(Clone, Debug)]
pub struct SeededKey {
    pub(crate) params: Parameters,
    pub(crate) secret: SecretId,
    pub(crate) spec: KeySpec,
    pub(crate) seed: [u8; 32],
    /// b_d over the key's limbs, see [`KeySpec::limbs`].
    pub(crate) b: Vec<RingPoly>,
}

impl SeededKey {
    /// What the key is for.
    #[must_use]
    pub fn spec(&self) -> KeySpec {
        self.spec
    }

    /// The parameter set.
    #[must_use]
    pub fn params(&self) -> &Parameters {
        &self.params
    }

    /// The name of the secret that it belongs to.
    #[must_use]
    pub fn secret_id(&self) -> SecretId {
        self.secret
    }

    /// The key ready for use. Cost: one uniform polynomial a digit from the seed; doubles the memory.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`] for a context of another set; [`Error::Insecure`] if its modulus exceeds the
    /// security table.
    pub fn expand(self, ctx: &Context) -> Result<SwitchingKey> {
        let params = ctx.params();
        params.require_same("expand", &self.params)?;
        self.spec.check_modulus(params)?;
        let (ring, limbs) = (ctx.key_ring(self.spec.kind)?, self.spec.limbs(params));
        let digits = self
            .b
            .into_iter()
            .enumerate()
            .map(|(d, b)| Ok([b, sample::uniform(ring, limbs, &self.seed, d as u64)?]))
            .collect::<Result<_>>()?;
        let words = Arc::new(KeyHandle::new(ctx.key_memory(), params, self.spec, digits)?);
        Ok(SwitchingKey { params: params.clone(), secret: self.secret, spec: self.spec, words })
    }
}

/// A key-switching key in use, from a secret s' to a secret t: for every digit d, (b_d, a_d) with
/// b_d = -a_d t + e_d + P \[limb in digit d\] s'.
///
/// Hybrid key switching, Han-Ki (ePrint 2019/688). Relinearization goes from s^2 to s. The keys of a bootstrap go from s
/// to the ephemeral secret, in a ring of q_0 and two special primes, and back (Bossuat, Troncoso-Pastoriza and Hubaux,
/// ePrint 2022/024). For an automorphism phi the key
/// goes from s to phi^-1(s), and phi is applied afterwards: the image, under phi^-1, of the usual key from phi(s) to s.
/// That way phi permutes two polynomials of the level only, after the division by P, and hoisted rotations share
/// digits that nothing permutes. Usable at its level and all below: a lower level is a view of it.
#[derive(Clone, Debug)]
pub struct SwitchingKey {
    pub(crate) params: Parameters,
    pub(crate) secret: SecretId,
    pub(crate) spec: KeySpec,
    words: Arc<KeyHandle>,
}

impl SwitchingKey {
    /// What the key is for.
    #[must_use]
    pub fn spec(&self) -> KeySpec {
        self.spec
    }

    /// The name of the secret that it belongs to.
    #[must_use]
    pub fn secret_id(&self) -> SecretId {
        self.secret
    }

    /// Bytes of its words, wherever they are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        Self::expanded_bytes(&self.params, self.spec)
    }

    /// Bytes of the words of a key of this kind and level.
    #[must_use]
    pub fn expanded_bytes(params: &Parameters, spec: KeySpec) -> u64 {
        let rows = spec.limbs(params).rows();
        (spec.digits(params).len() * 2 * rows * params.n() * 8) as u64
    }
}

/// The keys an evaluator works with, all of one secret: at most one of each kind, the highest inserted.
#[derive(Clone, Debug)]
pub struct EvaluationKeys {
    params: Parameters,
    /// Of the first key.
    secret: Option<SecretId>,
    keys: BTreeMap<KeyKind, SwitchingKey>,
}

impl EvaluationKeys {
    /// No keys yet.
    #[must_use]
    pub fn new(ctx: &Context) -> Self {
        Self { params: ctx.params().clone(), secret: None, keys: BTreeMap::new() }
    }

    /// Adds a key; of two of the same kind the one with the higher level stays.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`] for a key of another set; [`Error::KeyMismatch`] for one of another secret than the
    /// first.
    pub fn insert(&mut self, key: SwitchingKey) -> Result<()> {
        const OP: &str = "insert key";
        self.params.require_same(OP, &key.params)?;
        self.secret.get_or_insert(key.secret).require_same(OP, key.secret)?;
        let kind = key.spec.kind;
        if self.keys.get(&kind).is_none_or(|old| old.spec.level < key.spec.level) {
            self.keys.insert(kind, key);
        }
        Ok(())
    }

    /// Those of `needed` for which no key of that kind and at least that level is here, with amounts normalised.
    #[must_use]
    pub fn missing(&self, needed: &[KeySpec]) -> Vec<KeySpec> {
        needed
            .iter()
            .filter_map(|spec| match spec.kind {
                KeyKind::Rotation(k) => KeySpec::rotation(&self.params, k, spec.level),
                _ => Some(*spec),
            })
            .filter(|spec| self.require(spec.kind, spec.level).is_err())
            .collect()
    }

    /// What is here.
    #[must_use]
    pub fn specs(&self) -> Vec<KeySpec> {
        self.keys.values().map(|key| key.spec).collect()
    }

    /// Bytes of all keys, on the device or put aside (see [`Context::limit_keys`]).
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.keys.values().map(SwitchingKey::bytes).sum()
    }

    /// The parameter set.
    #[must_use]
    pub fn params(&self) -> &Parameters {
        &self.params
    }

    /// The name of the secret that the keys belong to; `None` without keys.
    #[must_use]
    pub fn secret_id(&self) -> Option<SecretId> {
        self.secret
    }

    /// Refuses a ciphertext of another parameter set or secret.
    pub(crate) fn check(&self, op: &'static str, ct: &Ciphertext) -> Result<()> {
        ct.params.require_same(op, &self.params)?;
        self.secret.map_or(Ok(()), |id| ct.secret.require_same(op, id))
    }

    /// The key for a kind, usable at a level.
    pub(crate) fn require(&self, kind: KeyKind, level: usize) -> Result<&SwitchingKey> {
        let key = self.keys.get(&kind).filter(|key| key.spec.level >= level);
        key.ok_or(Error::MissingKey { spec: KeySpec { kind, level } })
    }

    /// Its digits, on the device while the result lives. Cost: a copy of the limbs of the level from the host, if the key
    /// is not there.
    pub(crate) fn get(&self, kind: KeyKind, level: usize) -> Result<Resident> {
        self.require(kind, level)?.words.get(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    #[test]
    fn a_key_under_the_ephemeral_secret_is_refused_at_any_other_modulus() {
        // The mistake that Lattigo 6.1.0 made: a weight-32 secret under the whole of QP.
        for set in ["boot15", "boot16", "boot16_deep", "boot16_hp"] {
            let params = presets::get(set).unwrap();
            KeySpec::dense_to_sparse().check_modulus(&params).unwrap();
            KeySpec::sparse_to_dense(&params).check_modulus(&params).unwrap();
            for level in [3, params.max_level()] {
                let spec = KeySpec { kind: KeyKind::DenseToSparse, level };
                let error = spec.check_modulus(&params).unwrap_err();
                let sparse = SecretDistribution::FixedWeight(32);
                assert!(
                    matches!(error, Error::Insecure { secret, .. } if secret == sparse),
                    "{error}"
                );
            }
        }
    }
}

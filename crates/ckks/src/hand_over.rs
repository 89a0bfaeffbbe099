//! From a ciphertext to a scalar sample of learning with errors: how a value leaves this scheme for another one.

use crate::ciphertext::Ciphertext;
use crate::error::{Error, Result};
use crate::evaluator::Evaluator;
use crate::rlwe::{EvaluationKeys, KeyKind, SecretId};
use cipherform_profile::{Counter, count, primitive};
use cipherform_ring::RingPoly;

/// One value under the hand-over secret t: `body + sum_j mask_j t_j = scale * value + noise` modulo q_0.
///
/// The value is the constant coefficient of the plaintext: the mean of the real parts of all slots. A ciphertext of a
/// ring of degree n has a mask of n coefficients; after a key switch to a secret in Z[X^k] only every k-th of them
/// meets the secret, so that a dimension of n/k is left ([`crate::Parameters::hand_over_dimension`]).
#[derive(Clone, Debug, PartialEq)]
pub struct LweSample {
    pub(crate) secret: SecretId,
    pub(crate) modulus: u64,
    pub(crate) scale: f64,
    pub(crate) mask: Vec<u64>,
    pub(crate) body: u64,
}

impl LweSample {
    /// The name of the secret from which the hand-over secret is derived.
    #[must_use]
    pub fn secret_id(&self) -> SecretId {
        self.secret
    }

    /// q_0.
    #[must_use]
    pub fn modulus(&self) -> u64 {
        self.modulus
    }

    /// Factor between the value and the phase.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The uniform part, residues below the modulus.
    #[must_use]
    pub fn mask(&self) -> &[u64] {
        &self.mask
    }

    /// The part that carries the value.
    #[must_use]
    pub fn body(&self) -> u64 {
        self.body
    }
}

impl Evaluator {
    /// Hands over the constant coefficient of a ciphertext at level 0: the mean of the real parts of its slots.
    ///
    /// Counts [`crate::cost::hand_over`]. Noise: that of one key switch modulo q_0, about sqrt(n) + sqrt(2 d / 3 / 12)
    /// units of q_0, d the dimension, beside the ciphertext's own.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::KeyMismatch`]; [`Error::LevelMismatch`] above level 0;
    /// [`Error::DegreeMismatch`] unless the degree is 1; [`Error::MissingKey`].
    ///
    /// Switching to a subring: Gentry, Halevi, Peikert and Smart (ePrint 2012/240), section 3.
    pub fn hand_over(&self, a: &Ciphertext, keys: &EvaluationKeys) -> Result<LweSample> {
        const OP: &str = "hand_over";
        self.check(OP, a)?;
        keys.check(OP, a)?;
        if a.level != 0 {
            return Err(Error::LevelMismatch { op: OP, lhs: a.level, rhs: 0 });
        }
        let [c0, c1] = a.polys.as_slice() else {
            return Err(Error::DegreeMismatch { op: OP, degree: a.degree(), needed: 1 });
        };
        let key = keys.get(KeyKind::HandOver, 0)?;
        let _span = primitive(OP);
        count(Counter::KeySwitches, 1);
        let params = self.context().params();
        let ring = self.context().key_ring(KeyKind::HandOver)?;
        let pair = c1.rebase(ring)?.key_switch(&key, [Some(&c0.rebase(ring)?), None], None)?;
        let coefficients = |c: RingPoly| c.into_coeff()?.to_residues();
        let switched = RingPoly::mod_down_many(pair.into(), 0)?.into_iter().map(coefficients);
        let switched = switched.collect::<Result<Vec<_>, _>>()?;
        let ([c0, c1], Some(&modulus)) = (switched.as_slice(), params.q().first()) else {
            return Err(Error::DegreeMismatch { op: OP, degree: switched.len(), needed: 1 });
        };
        // Coefficient 0 of c_1(X) t(X^k) modulo X^n + 1: c_1[0] t_0 - sum over j > 0 of c_1[n - k j] t_j.
        let stride = params.n() / params.hand_over_dimension();
        let first = c1.iter().take(1).copied();
        let rest = c1.iter().rev().skip(stride - 1).step_by(stride);
        let rest = rest.map(|&c| if c == 0 { 0 } else { modulus - c });
        let mask = first.chain(rest).take(params.hand_over_dimension()).collect();
        let body = c0.first().copied().unwrap_or_default();
        Ok(LweSample { secret: a.secret, modulus, scale: a.scale, mask, body })
    }
}

#[cfg(test)]
mod tests {
    use crate::presets;
    use crate::rlwe::{KeyGenerator, KeyKind, KeySpec};
    use crate::{Context, Device, Encoder, Encryptor, Error, EvaluationKeys, Evaluator, cost};
    use cipherform_profile::record;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    /// The phase of a sample, centred, in units of its scale.
    fn value(sample: &crate::LweSample, secret: &[i64]) -> f64 {
        let q = i128::from(sample.modulus());
        let mut phase = i128::from(sample.body());
        for (&a, &t) in sample.mask().iter().zip(secret) {
            phase += i128::from(a) * i128::from(t);
        }
        let phase = (phase + q / 2).rem_euclid(q) - q / 2;
        phase as f64 / sample.scale()
    }

    /// Toy and real sets: the mean of the slots arrives, within the noise that the documentation states.
    #[test]
    fn the_mean_of_the_slots_is_handed_over() {
        for name in ["toy11_lev", "lev14"] {
            let ctx = Context::new(presets::get(name).unwrap(), &Device::cpu()).unwrap();
            let params = ctx.params();
            let mut rng = ChaCha20Rng::from_seed([3; 32]);
            let generator = KeyGenerator::new(&ctx);
            let secret = generator.secret_key(&mut rng).unwrap();
            let key = generator.evaluation_key(&secret, KeySpec::hand_over(), &mut rng).unwrap();
            // Through its bytes, as it travels.
            let key = crate::SeededKey::from_bytes(&ctx, &key.to_bytes().unwrap()).unwrap();
            let mut keys = EvaluationKeys::new(&ctx);
            let slots: Vec<f64> = (0..params.slots()).map(|i| (i as f64 * 0.37).sin()).collect();
            let mean = slots.iter().sum::<f64>() / slots.len() as f64 + 0.3;
            let slots: Vec<f64> = slots.iter().map(|v| v + 0.3).collect();
            let scale = params.q()[0] as f64 / 48.0;
            let plain = Encoder::new(&ctx).encode(&slots, 0, scale).unwrap();
            let encryptor = Encryptor::with_secret_key(&ctx, &secret).unwrap();
            let ct = encryptor.encrypt(&plain, &mut rng).unwrap();
            let evaluator = Evaluator::new(&ctx);
            let missing = evaluator.hand_over(&ct, &keys).unwrap_err();
            assert!(matches!(missing, Error::MissingKey { .. }), "{missing}");
            keys.insert(key.expand(&ctx).unwrap()).unwrap();
            let (sample, recording) = record(|| evaluator.hand_over(&ct, &keys).unwrap());
            cost::hand_over().check(&recording.total()).unwrap();
            assert_eq!(sample.mask().len(), params.hand_over_dimension());
            let got = value(&sample, &secret.expose_hand_over_secret());
            // Fresh noise 3.2; key switch: sqrt(n / 12) 3.2 q_0 / p and rounding of d coefficients of +-1/2 each;
            // 8 deviations of all together, in units of the scale.
            let (n, d) = (params.n() as f64, params.hand_over_dimension() as f64);
            let ratio = params.q()[0] as f64 / params.special()[0] as f64;
            let sigma =
                (3.2f64.powi(2) + n / 12.0 * 3.2f64.powi(2) * ratio * ratio + d / 18.0 + 1.0)
                    .sqrt();
            assert!((got - mean).abs() < 8.0 * sigma / scale, "{name}: {got} for {mean}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ctx = Context::new(presets::get("toy11_lev").unwrap(), &Device::cpu()).unwrap();
        let mut rng = ChaCha20Rng::from_seed([4; 32]);
        let generator = KeyGenerator::new(&ctx);
        let (mine, theirs) =
            (generator.secret_key(&mut rng).unwrap(), generator.secret_key(&mut rng).unwrap());
        let mut keys = EvaluationKeys::new(&ctx);
        let key = generator.evaluation_key(&theirs, KeySpec::hand_over(), &mut rng).unwrap();
        keys.insert(key.expand(&ctx).unwrap()).unwrap();
        let evaluator = Evaluator::new(&ctx);
        let encrypt = |level, rng: &mut ChaCha20Rng| {
            let plain = Encoder::new(&ctx).encode(&[1.0], level, 1e6).unwrap();
            Encryptor::with_secret_key(&ctx, &mine).unwrap().encrypt(&plain, rng).unwrap()
        };
        let foreign = evaluator.hand_over(&encrypt(0, &mut rng), &keys).unwrap_err();
        assert!(matches!(foreign, Error::KeyMismatch { .. }), "{foreign}");
        let none = EvaluationKeys::new(&ctx);
        let high = evaluator.hand_over(&encrypt(1, &mut rng), &none).unwrap_err();
        assert!(matches!(high, Error::LevelMismatch { .. }), "{high}");
    }

    /// The key is checked in the degree of its secret, not in that of the ring.
    #[test]
    fn the_modulus_of_the_key_is_checked_for_its_own_secret() {
        for set in ["lev13", "lev14", "lev15", "lev16_36", "boot15", "boot16"] {
            let params = presets::get(set).unwrap();
            assert!(params.log2_hand_over() <= 106.0, "{set}");
            KeySpec::hand_over().check_modulus(&params).unwrap();
        }
        let params = presets::get("lev14").unwrap();
        let high = KeySpec { kind: KeyKind::HandOver, level: 1 }.check_modulus(&params);
        assert!(matches!(high, Err(Error::InvalidArgument { .. })));
    }
}

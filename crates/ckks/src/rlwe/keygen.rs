//! Making keys.

use crate::context::Context;
use crate::error::Result;
use crate::rlwe::{
    EvaluationKeys, KeyKind, KeySpec, PUBLIC_KEY_DOMAIN, PublicKey, SecretKey, SeededKey,
    fresh_seed,
};
use cipherform_ring::{Limbs, Ring, RingPoly, sample};
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, SeedableRng};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::{Zeroize, Zeroizing};

/// Makes keys for one context.
#[derive(Clone, Debug)]
pub struct KeyGenerator {
    ctx: Context,
}

impl KeyGenerator {
    /// A generator for a context.
    #[must_use]
    pub fn new(ctx: &Context) -> Self {
        Self { ctx: ctx.clone() }
    }

    /// A fresh secret key: uniform ternary, from a 32-byte seed drawn from `rng`.
    ///
    /// # Errors
    /// [`crate::Error::Ring`] for an error of the device.
    pub fn secret_key<R: CryptoRng + ?Sized>(&self, rng: &mut R) -> Result<SecretKey> {
        let seed = Zeroizing::new(fresh_seed(rng));
        SecretKey::from_seed(&self.ctx, *seed)
    }

    /// The public encryption key of a secret: an encryption of zero over all primes.
    ///
    /// # Errors
    /// [`crate::Error::ParameterMismatch`] for a secret of another set; [`crate::Error::Insecure`] if QP exceeds the
    /// security table.
    pub fn public_key<R: CryptoRng + ?Sized>(
        &self,
        secret: &SecretKey,
        rng: &mut R,
    ) -> Result<PublicKey> {
        let params = self.ctx.params();
        params.require_same("public_key", secret.params())?;
        params.check_modulus("a public key", params.log_qp())?;
        let seed = fresh_seed(rng);
        let b = encrypt_zero(secret.poly(), &seed, PUBLIC_KEY_DOMAIN, rng)?;
        PublicKey::from_parts(&self.ctx, secret.id(), seed, b)
    }

    /// A key-switching key, usable at `spec.level` and below. Rotation amounts are taken modulo the slots.
    ///
    /// Size: digits at that level x (q limbs + special) limbs, see [`SeededKey::serialized_len`].
    ///
    /// # Errors
    /// [`crate::Error::ParameterMismatch`]; [`crate::Error::LevelTooHigh`]; [`crate::Error::InvalidArgument`] for the
    /// identity rotation, or for a key of bootstrapping in a set without it; [`crate::Error::Insecure`] if the key's
    /// modulus exceeds the table for the secret it is encrypted under.
    ///
    /// Hybrid key switching: Han-Ki (ePrint 2019/688), section 3.
    pub fn evaluation_key<R: CryptoRng + ?Sized>(
        &self,
        secret: &SecretKey,
        spec: KeySpec,
        rng: &mut R,
    ) -> Result<SeededKey> {
        let params = self.ctx.params();
        params.require_same("evaluation_key", secret.params())?;
        let spec = spec.normalised(params)?;
        let ring = self.ctx.key_ring(spec.kind)?;
        let limbs = spec.limbs(params);
        let [source, target] = self.endpoints(secret, spec, ring, limbs)?;
        let words = Zeroizing::new(source.to_residues()?);
        drop(source);

        let seed = fresh_seed(rng);
        let mut b = Vec::new();
        for (d, digit) in spec.digits(params).into_iter().enumerate() {
            let mut b_d = encrypt_zero(&target, &seed, d as u64, rng)?;
            let gadget = Zeroizing::new(gadget(ring, &words, limbs, digit)?);
            b_d.add_assign(&gadget)?;
            b.push(b_d);
        }
        Ok(SeededKey { params: params.clone(), secret: secret.id(), spec, seed, b })
    }

    /// Makes many keys on all cores; each goes to `sink` as soon as it is ready, in any order and from any thread.
    ///
    /// The sink keeps, sends or writes the key and may report progress. Every key has randomness of its own, drawn from
    /// `rng` before the work starts, so that the keys do not depend on the order in which threads run.
    ///
    /// # Errors
    /// As [`Self::evaluation_key`]; the first error of `sink`.
    pub fn evaluation_keys<R: CryptoRng + ?Sized>(
        &self,
        secret: &SecretKey,
        specs: &[KeySpec],
        rng: &mut R,
        sink: impl Fn(SeededKey) -> Result<()> + Sync,
    ) -> Result<()> {
        let seeds = specs.iter().map(|_| Zeroizing::new(fresh_seed(rng))).collect::<Vec<_>>();
        // One at a time and in order: keys are large, so none is made before its turn.
        specs.par_iter().zip(&seeds).with_max_len(1).try_for_each(|(&spec, seed)| {
            let mut rng = ChaCha20Rng::from_seed(**seed);
            sink(self.evaluation_key(secret, spec, &mut rng)?)
        })
    }

    /// Makes and expands many keys on all cores, for use where they are made; `done` hears of each, from any thread.
    ///
    /// Memory: [`crate::SwitchingKey::expanded_bytes`] of all, and one seeded key a core.
    ///
    /// # Errors
    /// As [`Self::evaluation_key`].
    pub fn expanded_keys<R: CryptoRng + ?Sized>(
        &self,
        secret: &SecretKey,
        specs: &[KeySpec],
        rng: &mut R,
        done: impl Fn(KeySpec) + Sync,
    ) -> Result<EvaluationKeys> {
        let keys = Mutex::new(EvaluationKeys::new(&self.ctx));
        self.evaluation_keys(secret, specs, rng, |key| {
            let (spec, key) = (key.spec(), key.expand(&self.ctx)?);
            keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key)?;
            done(spec);
            Ok(())
        })?;
        // A panic of `done` would have left this function: the keys are whole.
        Ok(keys.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The secrets that a key switches from and to, see [`crate::SwitchingKey`].
    fn endpoints(
        &self,
        secret: &SecretKey,
        spec: KeySpec,
        ring: &Arc<Ring>,
        limbs: Limbs,
    ) -> Result<[Zeroizing<RingPoly>; 2]> {
        let params = self.ctx.params();
        let whole = |limbs| secret.poly().with_limbs(limbs).map(Zeroizing::new);
        let weight = params.bootstrapping().map_or(0, |set| set.ephemeral_weight);
        match spec.kind {
            KeyKind::DenseToSparse => {
                let source = Zeroizing::new(secret.poly_in(ring, limbs)?);
                Ok([source, Zeroizing::new(secret.ephemeral(ring, limbs, weight)?)])
            }
            KeyKind::SparseToDense => {
                Ok([Zeroizing::new(secret.ephemeral(ring, limbs, weight)?), whole(limbs)?])
            }
            KeyKind::HandOver => {
                let source = Zeroizing::new(secret.poly_in(ring, limbs)?);
                Ok([source, Zeroizing::new(secret.hand_over(ring, limbs)?)])
            }
            kind => {
                let (mut source, mut target) = (whole(limbs)?, whole(limbs)?);
                if let Some([_, inverse]) = kind.galois_elements(params.n()) {
                    target = Zeroizing::new(target.automorphism(inverse)?);
                } else {
                    source.mul_assign(secret.poly())?;
                }
                Ok([source, target])
            }
        }
    }
}

/// -a t + e under a secret t, over its limbs, with a from the seed.
fn encrypt_zero<R: CryptoRng + ?Sized>(
    secret: &RingPoly,
    seed: &[u8; 32],
    domain: u64,
    rng: &mut R,
) -> Result<RingPoly> {
    let (ring, limbs) = (secret.ring(), secret.limbs());
    // a is public, so that a t would give t away: it is wiped before its buffer is used again.
    let mut mask = Zeroizing::new(sample::uniform(ring, limbs, seed, domain)?);
    mask.mul_assign(secret)?;
    let mut b = sample::gaussian(ring, rng).to_ntt(ring, limbs)?;
    if let Err(error) = b.sub_assign(&mask) {
        b.zeroize();
        return Err(error.into());
    }
    Ok(b)
}

/// P s' on the limbs of a digit, 0 on all others: the gadget of the digit in RNS.
///
/// (Q/D)[(Q/D)^-1]_D is 1 modulo the primes of the digit and 0 modulo the other primes of Q; P times it is 0 modulo
/// the special primes too.
fn gadget(ring: &Arc<Ring>, words: &[u64], limbs: Limbs, digit: Range<usize>) -> Result<RingPoly> {
    let basis = ring.basis();
    let n = basis.n();
    let mut gadget = vec![0u64; limbs.rows() * n];
    let rows = gadget.chunks_exact_mut(n).zip(words.chunks_exact(n)).zip(basis.q());
    for ((out, row), modulus) in rows.skip(digit.start).take(digit.len()) {
        let p = basis
            .p()
            .iter()
            .fold(1, |p, special| modulus.mul(p, special.value() % modulus.value()));
        for (o, &w) in out.iter_mut().zip(row) {
            *o = modulus.mul(w, p);
        }
    }
    Ok(RingPoly::from_residues(ring, limbs, gadget)?)
}

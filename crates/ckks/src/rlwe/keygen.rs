//! Making keys.

use crate::context::Context;
use crate::error::Result;
use crate::rlwe::keys::check_key_modulus;
use crate::rlwe::{KeySpec, PUBLIC_KEY_DOMAIN, PublicKey, SecretKey, SeededKey, fresh_seed};
use cipherform_ring::{Limbs, RingPoly, sample};
use rand_core::CryptoRng;
use std::ops::Range;
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
        let limbs = self.ctx.key_limbs(params.max_level());
        let seed = fresh_seed(rng);
        let b = self.encrypt_zero(secret.poly(), limbs, &seed, PUBLIC_KEY_DOMAIN, rng)?;
        PublicKey::from_parts(&self.ctx, seed, b)
    }

    /// A key-switching key, usable at `spec.level` and below. Rotation amounts are taken modulo the slots.
    ///
    /// Size: digits at that level x (level + 1 + special) limbs, see [`SeededKey::serialized_len`].
    ///
    /// # Errors
    /// [`crate::Error::ParameterMismatch`]; [`crate::Error::LevelTooHigh`]; [`crate::Error::InvalidArgument`] for the
    /// identity rotation; [`crate::Error::Insecure`] if the key's modulus (its q limbs times P) exceeds the table.
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
        check_key_modulus(params, spec.level)?;
        let limbs = self.ctx.key_limbs(spec.level);

        // The secrets that the key switches from and to: s^2 and s, or s and its image, see `SwitchingKey`.
        let mut source = secret.poly().with_limbs(limbs)?;
        let mut target = source.clone();
        if let Some([_, inverse]) = spec.kind.galois_elements(params.n()) {
            let image = target.automorphism(inverse)?;
            target.zeroize();
            target = image;
        } else {
            source.mul_assign(secret.poly())?;
        }
        let words = Zeroizing::new(source.to_residues()?);
        source.zeroize();

        let seed = fresh_seed(rng);
        let mut b = Vec::new();
        for (d, digit) in params.digits_at(spec.level).into_iter().enumerate() {
            let mut b_d = self.encrypt_zero(&target, limbs, &seed, d as u64, rng)?;
            let mut gadget = self.gadget(&words, limbs, digit)?;
            b_d.add_assign(&gadget)?;
            gadget.zeroize();
            b.push(b_d);
        }
        target.zeroize();
        Ok(SeededKey { params: params.clone(), spec, seed, b })
    }

    /// -a t + e under a secret t, with a from the seed.
    fn encrypt_zero<R: CryptoRng + ?Sized>(
        &self,
        secret: &RingPoly,
        limbs: Limbs,
        seed: &[u8; 32],
        domain: u64,
        rng: &mut R,
    ) -> Result<RingPoly> {
        let ring = self.ctx.ring();
        // a is public, so that a t would give t away: it is wiped before its buffer is used again.
        let mut mask = sample::uniform(ring, limbs, seed, domain)?;
        mask.mul_assign(secret)?;
        let mut b = sample::gaussian(ring, rng).to_ntt(ring, limbs)?;
        b.sub_assign(&mask)?;
        mask.zeroize();
        Ok(b)
    }

    /// P s' on the limbs of a digit, 0 on all others: the gadget of the digit in RNS.
    ///
    /// (Q/D)[(Q/D)^-1]_D is 1 modulo the primes of the digit and 0 modulo the other primes of Q; P times it is 0 modulo
    /// the special primes too.
    fn gadget(&self, words: &[u64], limbs: Limbs, digit: Range<usize>) -> Result<RingPoly> {
        let basis = self.ctx.ring().basis();
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
        Ok(RingPoly::from_residues(self.ctx.ring(), limbs, gadget)?)
    }
}

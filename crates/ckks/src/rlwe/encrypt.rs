//! Encryption and decryption.

use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::error::Result;
use crate::plaintext::{PlainPoly, Plaintext};
use crate::rlwe::{CIPHERTEXT_DOMAIN, PublicKey, SecretKey, fresh_seed};
use cipherform_profile::primitive;
use cipherform_ring::sample;
use rand_core::CryptoRng;
use zeroize::Zeroize;

/// Encrypts plaintexts, under a secret or a public key.
#[derive(Debug)]
pub struct Encryptor<'k> {
    ctx: Context,
    key: Key<'k>,
}

#[derive(Debug)]
enum Key<'k> {
    Secret(&'k SecretKey),
    Public(&'k PublicKey),
}

impl<'k> Encryptor<'k> {
    /// Encrypts with the secret key: less noise (one error of deviation 3.2), and the ciphertexts are seeded, i.e.
    /// serialise at half size.
    ///
    /// # Errors
    /// [`crate::Error::ParameterMismatch`] for a key of another set.
    pub fn with_secret_key(ctx: &Context, secret: &'k SecretKey) -> Result<Self> {
        ctx.params().require_same("encryptor", secret.params())?;
        Ok(Self { ctx: ctx.clone(), key: Key::Secret(secret) })
    }

    /// Encrypts with the public key.
    ///
    /// # Errors
    /// [`crate::Error::ParameterMismatch`] for a key of another set.
    pub fn with_public_key(ctx: &Context, public: &'k PublicKey) -> Result<Self> {
        ctx.params().require_same("encryptor", public.params())?;
        Ok(Self { ctx: ctx.clone(), key: Key::Public(public) })
    }

    /// Encrypts, at the level and scale of the plaintext.
    ///
    /// Secret key: c_1 uniform from a fresh seed, c_0 = -c_1 s + e + m. Public key: an encryption of zero modulo QP,
    /// divided by P, plus m; the division leaves only its rounding, four bits less noise than encrypting modulo Q.
    ///
    /// # Errors
    /// [`crate::Error::ParameterMismatch`] for a plaintext of another set.
    pub fn encrypt<R: CryptoRng + ?Sized>(
        &self,
        plaintext: &Plaintext,
        rng: &mut R,
    ) -> Result<Ciphertext> {
        let _span = primitive("encrypt");
        let (ctx, level) = (&self.ctx, plaintext.level());
        ctx.params().require_same("encrypt", plaintext.params())?;
        let (id, mut c0, c1, seed) = match self.key {
            Key::Secret(secret) => {
                let limbs = ctx.limbs(level);
                let seed = fresh_seed(rng);
                let c1 = sample::uniform(ctx.ring(), limbs, &seed, CIPHERTEXT_DOMAIN)?;
                let mut mask = c1.clone();
                mask.mul_assign(secret.poly())?;
                let mut c0 = sample::gaussian(ctx.ring(), rng).to_ntt(ctx.ring(), limbs)?;
                c0.sub_assign(&mask)?;
                mask.zeroize();
                (secret.id(), c0, c1, Some(seed))
            }
            Key::Public(public) => {
                let limbs = ctx.key_limbs(level);
                let mut u = sample::ternary(ctx.ring(), rng).to_ntt(ctx.ring(), limbs)?;
                let mut c0 = sample::gaussian(ctx.ring(), rng).to_ntt(ctx.ring(), limbs)?;
                let mut c1 = sample::gaussian(ctx.ring(), rng).to_ntt(ctx.ring(), limbs)?;
                c0.mul_add_assign(&u, &public.b)?;
                c1.mul_add_assign(&u, &public.a)?;
                u.zeroize();
                (public.secret, c0.mod_down()?, c1.mod_down()?, None)
            }
        };
        match &plaintext.poly {
            PlainPoly::Dense(poly) => c0.add_assign(poly)?,
            PlainPoly::Periodic(_) => c0.add_assign(&plaintext.to_dense(ctx)?)?,
        }
        Ok(Ciphertext {
            params: ctx.params().clone(),
            secret: id,
            level,
            scale: plaintext.scale(),
            polys: vec![c0, c1],
            seed,
        })
    }
}

/// Decrypts with the secret key.
#[derive(Debug)]
pub struct Decryptor<'k> {
    pub(super) ctx: Context,
    pub(super) secret: &'k SecretKey,
}

impl<'k> Decryptor<'k> {
    /// A decryptor for one secret key.
    ///
    /// # Errors
    /// [`crate::Error::ParameterMismatch`] for a key of another set.
    pub fn new(ctx: &Context, secret: &'k SecretKey) -> Result<Self> {
        ctx.params().require_same("decryptor", secret.params())?;
        Ok(Self { ctx: ctx.clone(), secret })
    }

    /// Decrypts: c_0 + c_1 s (+ c_2 s^2), the message with its noise.
    ///
    /// # Errors
    /// [`crate::Error::ParameterMismatch`] for a ciphertext of another set; [`crate::Error::KeyMismatch`] for one of
    /// another secret.
    ///
    /// # Security
    /// For the owner of the key only. CKKS decryptions carry the noise of the computation, and that noise tells about
    /// the key: do not publish the result and never send it back to whoever computed on the ciphertext, not even
    /// rounded (IND-CPA-D attacks, Li and Micciancio, ePrint 2020/1533). IND-CPA security, which is what this scheme
    /// offers, says nothing about an adversary who sees decryptions: for those there is [`Self::decrypt_public`]. The
    /// plaintext and what decoding copies of it are wiped when dropped; the slots that decoding returns are the caller's.
    pub fn decrypt(&self, ciphertext: &Ciphertext) -> Result<Plaintext> {
        let _span = primitive("decrypt");
        let ctx = &self.ctx;
        ctx.params().require_same("decrypt", ciphertext.params())?;
        self.secret.id().require_same("decrypt", ciphertext.secret)?;
        let limbs = ctx.limbs(ciphertext.level());
        let mut message = cipherform_ring::RingPoly::zero(ctx.ring(), limbs)?;
        // Horner in s: ((c_2) s + c_1) s + c_0.
        for (i, poly) in ciphertext.polys.iter().rev().enumerate() {
            if i > 0 {
                message.mul_assign(self.secret.poly())?;
            }
            message.add_assign(poly)?;
        }
        Ok(Plaintext {
            params: ctx.params().clone(),
            level: ciphertext.level(),
            scale: ciphertext.scale(),
            period: ctx.params().slots(),
            poly: PlainPoly::Dense(message),
            decrypted: true,
        })
    }
}

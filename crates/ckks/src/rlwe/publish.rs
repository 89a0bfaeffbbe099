//! Decryptions that others may see.

use crate::ciphertext::Ciphertext;
use crate::encoding::Encoder;
use crate::error::{Error, Result};
use crate::evaluator::{check_levels, check_scales};
use crate::noise::{NoiseEstimate, NoiseMode};
use crate::plaintext::{PlainPoly, Plaintext};
use crate::rlwe::flooding::WideGaussian;
use crate::rlwe::{Decryptor, SecretKey};
use cipherform_ring::sample::SmallPoly;
use num_complex::Complex64;
use rand_core::CryptoRng;
use std::fmt;

const OP: &str = "decrypt_public";

/// The smallest statistical security that [`Decryptor::decrypt_public`] accepts, in bits.
pub const MIN_STATISTICAL_SECURITY: u32 = 30;

/// Bits that the flooding must leave between its deviation and the last published bit.
const MARGIN_BITS: f64 = 2.0;

/// Widest flooding that the sampler makes.
const LOG2_FLOODING_MAX: f64 = 50.0;

/// Deviations within which a flooded coefficient stays: nine of the flooding, the rest for the error.
const TAIL: f64 = 16.0;

const MAGIC: [u8; 4] = *b"CFPL";
const VERSION: u16 = 1;
const CHECK_LEN: usize = 16;
const LEDGER_LEN: usize = 4 + 2 + 32 + 8 + 8 + CHECK_LEN;

/// How many decryptions may be published under one secret key, and how many have been.
///
/// The flooding is sized for `allowed` from the first publication on: an adversary adds up what all of them tell. The owner
/// of the key keeps the bytes with the key. They hold no secret, but whoever can set them back undoes the limit, and nothing
/// in a file can prove that it is the newest: [`Self::from_bytes`] therefore takes the count that the owner knows
/// from elsewhere, and refuses to go below it.
#[derive(PartialEq, Eq)]
pub struct PublicationLedger {
    key: [u8; 32],
    allowed: u64,
    published: u64,
}

impl PublicationLedger {
    /// A ledger for a key under which nothing has been published yet.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if none is allowed.
    pub fn new(secret: &SecretKey, allowed: u64) -> Result<Self> {
        if allowed == 0 {
            let detail = "a ledger that allows no publication has no use".to_owned();
            return Err(Error::InvalidArgument { op: "publication ledger", detail });
        }
        Ok(Self { key: secret.id(), allowed, published: 0 })
    }

    /// tau: how many publications the flooding is sized for.
    #[must_use]
    pub fn allowed(&self) -> u64 {
        self.allowed
    }

    /// How many there have been, attempts that failed to be stored included.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published
    }

    /// 70 bytes: magic `CFPL`, version, key's name, allowed, published, check sum.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEDGER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.allowed.to_le_bytes());
        out.extend_from_slice(&self.published.to_le_bytes());
        let check = blake3::hash(&out);
        out.extend(check.as_bytes().iter().take(CHECK_LEN));
        out
    }

    /// Reads a ledger that must have counted at least to `at_least`.
    ///
    /// # Errors
    /// [`Error::Malformed`] for other bytes, a wrong check sum, or a count below `at_least` or above what is allowed.
    pub fn from_bytes(bytes: &[u8], at_least: u64) -> Result<Self> {
        let malformed =
            |detail: &str| Error::Malformed { what: "publication ledger", detail: detail.into() };
        let (Some((body, check)), true) =
            (bytes.split_at_checked(LEDGER_LEN - CHECK_LEN), bytes.len() == LEDGER_LEN)
        else {
            return Err(malformed("wrong length"));
        };
        if blake3::hash(body).as_bytes().get(..CHECK_LEN) != Some(check) {
            return Err(malformed("wrong check sum"));
        }
        let field = |from: usize| -> u64 {
            let bytes = body.get(from..from + 8).and_then(|b| b.try_into().ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let (head, key) = (body.get(..6), body.get(6..38).and_then(|k| k.try_into().ok()));
        let (Some(head), Some(key)) = (head, key) else {
            return Err(malformed("wrong length"));
        };
        if head != [MAGIC.as_slice(), &VERSION.to_le_bytes()].concat() {
            return Err(malformed("unknown magic or version"));
        }
        let ledger = Self { key, allowed: field(38), published: field(46) };
        if ledger.allowed == 0 || ledger.published > ledger.allowed {
            return Err(malformed("more published than allowed"));
        }
        if ledger.published < at_least {
            return Err(malformed("it counts fewer publications than there were: an old copy"));
        }
        Ok(ledger)
    }
}

impl fmt::Debug for PublicationLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicationLedger({} of {})", self.published, self.allowed)
    }
}

/// What is to be published of a ciphertext.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// Binary places that are published of every real and imaginary part.
    pub bits: u32,
    /// s: see [`Decryptor::decrypt_public`]; at least [`MIN_STATISTICAL_SECURITY`].
    pub statistical_security: u32,
    /// What is known about the ciphertext's error: an upper bound for *this* ciphertext, of [`NoiseMode::Bound`].
    pub error: &'a NoiseEstimate,
}

impl Publication<'_> {
    /// The deviation of the flooding for a number of publications: t sqrt(12 tau) 2^(s/2), on the coefficients.
    fn flooding(&self, allowed: u64) -> f64 {
        let queries = (12.0 * allowed as f64).sqrt();
        self.error.std() * queries * (f64::from(self.statistical_security) / 2.0).exp2()
    }

    /// Binary places that can be published with a ledger that allows so many: -log2(sigma_f) - 2, where sigma_f is the
    /// deviation of the flooding in a real or imaginary part of a slot.
    #[must_use]
    pub fn available_bits(&self, allowed: u64) -> f64 {
        let slot = self.error.slot_std() * self.flooding(allowed) / self.error.std();
        -slot.log2() - MARGIN_BITS
    }
}

impl Decryptor<'_> {
    /// Decrypts for others: floods the error, decodes, and rounds to the binary places asked for.
    ///
    /// The coefficients get a discrete Gaussian of deviation sigma_f = t sqrt(12 tau) 2^(s/2), t the bound of the error,
    /// tau the publications that the ledger allows (form of OpenFHE's noise flooding, after Li, Micciancio, Schultz and
    /// Sorrell, ePrint 2022/816). `store` gets the ledger's bytes with this publication already counted, *before* anything
    /// is decrypted: it must make them durable, and if it fails nothing is published, but the count stays. Cost: up to 64
    /// samples of the narrow Gaussian a coefficient, one decryption, one decoding.
    ///
    /// # Errors
    /// [`Error::PrecisionUnavailable`] unless `bits` <= log2(1 / sigma_f) - 2; [`Error::PublicationsExhausted`];
    /// [`Error::LedgerNotStored`]; [`Error::InvalidArgument`] for s below [`MIN_STATISTICAL_SECURITY`], an estimate that is no
    /// bound, or the ledger of another key; [`Error::ParameterMismatch`], [`Error::LevelMismatch`],
    /// [`Error::ScaleMismatch`] unless the estimate is that of the ciphertext; [`Error::ValueTooLarge`] if the flooding does
    /// not fit the modulus (publish from a level with more of it).
    ///
    /// # Security
    /// What a decryption tells about the key is in its error (Li and Micciancio, ePrint 2020/1533); here the error drowns.
    /// For one coefficient whose error has root mean square t at most, the flooded error differs from flooding alone by a
    /// Kullback-Leibler divergence of 1 / (24 tau 2^s), hence n / (24 2^s) for all coefficients of all tau publications: an
    /// adversary tells the two apart with advantage at most the root of half of that. For s = 30 and n = 2^16 that is 2^-10,
    /// for s = 64 it is 2^-27. The protection is statistical and only as good as t: it needs a circuit whose error bound
    /// holds for every input the adversary may choose, values inside the ranges it was computed for, and a bootstrap that
    /// does not fail. Rounding protects nothing by itself and is there because the places below are noise.
    ///
    /// The Gaussian is sampled without branches or addresses that depend on it; decoding and rounding work on what is
    /// published in f64 arithmetic, whose timing is the processor's.
    pub fn decrypt_public<R: CryptoRng + ?Sized>(
        &self,
        encoder: &Encoder,
        ciphertext: &Ciphertext,
        publication: &Publication<'_>,
        ledger: &mut PublicationLedger,
        store: impl FnOnce(&[u8]) -> std::io::Result<()>,
        rng: &mut R,
    ) -> Result<Vec<Complex64>> {
        let flooding = self.plan(encoder, ciphertext, publication, ledger)?;
        if ledger.published >= ledger.allowed {
            return Err(Error::PublicationsExhausted { allowed: ledger.allowed });
        }
        ledger.published += 1;
        store(&ledger.to_bytes()).map_err(|source| Error::LedgerNotStored { source })?;

        let plaintext = self.flooded(ciphertext, &flooding, rng)?;
        let unit = f64::from(publication.bits).exp2();
        let round = |x: f64| (x * unit).round() / unit;
        let slots = encoder.decode(&plaintext)?;
        Ok(slots.into_iter().map(|v| Complex64::new(round(v.re), round(v.im))).collect())
    }

    /// All checks, and how to flood.
    fn plan(
        &self,
        encoder: &Encoder,
        ciphertext: &Ciphertext,
        publication: &Publication<'_>,
        ledger: &PublicationLedger,
    ) -> Result<WideGaussian> {
        let invalid = |detail: &str| Error::InvalidArgument { op: OP, detail: detail.to_owned() };
        let (params, error) = (self.ctx.params(), publication.error);
        params.require_same(OP, ciphertext.params())?;
        params.require_same(OP, encoder.context().params())?;
        params.require_same(OP, error.params())?;
        check_levels(OP, ciphertext.level(), error.level())?;
        check_scales(OP, ciphertext.scale(), error.scale())?;
        if error.mode() != NoiseMode::Bound || error.degree() != ciphertext.degree() {
            return Err(invalid(
                "the estimate must be a bound (`NoiseMode::Bound`) for this ciphertext",
            ));
        }
        if publication.statistical_security < MIN_STATISTICAL_SECURITY {
            return Err(invalid("the statistical security must be at least 30 bits"));
        }
        if ledger.key != self.secret.id() {
            return Err(invalid("the ledger belongs to another secret key"));
        }
        let available = publication.available_bits(ledger.allowed);
        if f64::from(publication.bits) > available {
            return Err(Error::PrecisionUnavailable { bits: publication.bits, available });
        }
        let std = publication.flooding(ledger.allowed);
        let largest = error.message() * error.scale() + TAIL * std;
        let limit = (params.log2_q_at(ciphertext.level()) - 1.0).min(62.0);
        if largest.log2() >= limit || std.log2() > LOG2_FLOODING_MAX {
            let log2_value = largest.log2();
            return Err(Error::ValueTooLarge { op: OP, log2_value, log2_modulus: limit });
        }
        Ok(WideGaussian::new(std))
    }

    fn flooded<R: CryptoRng + ?Sized>(
        &self,
        ciphertext: &Ciphertext,
        flooding: &WideGaussian,
        rng: &mut R,
    ) -> Result<Plaintext> {
        let mut plaintext = self.decrypt(ciphertext)?;
        if let PlainPoly::Dense(poly) = &mut plaintext.poly {
            let ring = self.ctx.ring();
            let mut noise = flooding.sample(ring, rng);
            let noise = SmallPoly::from_coefficients(std::mem::take(&mut *noise));
            poly.add_assign(&noise.to_ntt(ring, poly.limbs())?)?;
        }
        Ok(plaintext)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::NoiseModel;
    use crate::{Context, Device, Encryptor, KeyGenerator, presets};
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn the_flooding_has_its_deviation_in_the_slots() {
        let ctx = Context::new(presets::get("lev13").unwrap(), &Device::cpu()).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let secret = KeyGenerator::new(&ctx).secret_key(&mut rng).unwrap();
        let encoder = Encoder::new(&ctx);
        let (level, scale) = (2, ctx.params().scale_at(2));
        let plain = encoder.encode(&[0.5], level, scale).unwrap();
        let ct = Encryptor::with_secret_key(&ctx, &secret).unwrap().encrypt(&plain, &mut rng);
        let ct = ct.unwrap();
        let error = NoiseModel::new(ctx.params())
            .encrypted_with_secret_key(NoiseMode::Bound, level, scale, 1.0)
            .unwrap();
        let publication = Publication { bits: 0, statistical_security: 30, error: &error };
        let allowed = 4;
        let decryptor = Decryptor::new(&ctx, &secret).unwrap();
        let plan = WideGaussian::new(publication.flooding(allowed));
        let slots = encoder.decode(&decryptor.flooded(&ct, &plan, &mut rng).unwrap()).unwrap();
        let mean_square =
            slots.iter().map(|v| (v - 0.5).norm_sqr()).sum::<f64>() / (2 * slots.len()) as f64;
        // sigma_f in values; the deviation of n = 8192 Gaussian parts scatters by 1 / sqrt(2 n) = 0.8 %, five of those and
        // up to 5 % by which the sampler may exceed what is asked of it.
        let want = error.slot_std() * (12.0 * allowed as f64).sqrt() * 2f64.powi(15);
        let ratio = mean_square.sqrt() / want;
        assert!((0.96..1.09).contains(&ratio), "{ratio}");
        assert!(
            (mean_square.sqrt() / want / (plan.std() / publication.flooding(allowed)) - 1.0).abs()
                < 0.04
        );
    }
}

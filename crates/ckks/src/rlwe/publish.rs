//! Decryptions that others may see.

use crate::alignment::{check_levels, check_scales};
use crate::ciphertext::Ciphertext;
use crate::encoding::Encoder;
use crate::error::{Error, Result};
use crate::noise::{NoiseEstimate, NoiseMode, SIGMA};
use crate::plaintext::{PlainPoly, Plaintext};
use crate::rlwe::flooding::WideGaussian;
use crate::rlwe::{Decryptor, SecretKey};
use cipherform_ring::sample::SmallPoly;
use num_complex::Complex64;
use rand_core::CryptoRng;
use std::fmt;
use zeroize::Zeroize;

const OP: &str = "decrypt_public";

/// The smallest parameter s of the flooding that [`Decryptor::decrypt_public`] accepts. What it is worth depends on the degree,
/// see [`Publication::advantage_log2`]: 2^-9.8 at n = 2^16.
pub const MIN_STATISTICAL_SECURITY: u32 = 30;

/// Bits that the flooding must leave between its deviation and the last published bit.
const MARGIN_BITS: f64 = 2.0;

/// Binary places of values near 1 that f64 has.
const MAX_BITS: f64 = 52.0;

/// Deviations of the flooding that no coefficient, and no part of a slot, exceeds but with probability 2^-160; the error, which
/// is smaller by 2^15 at least, and the 5 % by which the sampler exceeds its deviation are in that.
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
        Ok(Self { key: secret.id().0, allowed, published: 0 })
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
    /// s: sizes the flooding, see [`Self::advantage_log2`]; at least [`MIN_STATISTICAL_SECURITY`].
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
    /// deviation of the flooding in a real or imaginary part of a slot. At most 52; minus infinity for an estimate that bounds
    /// no ciphertext's error.
    #[must_use]
    pub fn available_bits(&self, allowed: u64) -> f64 {
        let available = -self.error.in_slots(self.flooding(allowed)).log2() - MARGIN_BITS;
        if self.is_usable() && !available.is_nan() {
            available.min(MAX_BITS)
        } else {
            f64::NEG_INFINITY
        }
    }

    /// log2 of a bound on the advantage with which an adversary tells all publications of a ledger together from publications
    /// of flooding alone: log2 sqrt(n / (48 2^s)).
    #[must_use]
    pub fn advantage_log2(&self) -> f64 {
        let log2_n = f64::from(self.error.params().log_n());
        (log2_n - 48f64.log2() - f64::from(self.statistical_security)) / 2.0
    }

    /// Whether the estimate may be one of a ciphertext: no operation leaves less error than a fresh encryption has.
    fn is_usable(&self) -> bool {
        let (std, message) = (self.error.std(), self.error.message());
        std >= SIGMA && std.is_finite() && message >= 0.0 && message.is_finite()
    }
}

impl Decryptor<'_> {
    /// Decrypts for others: floods the error, decodes, and rounds to the binary places asked for.
    ///
    /// The coefficients get a discrete Gaussian of deviation sigma_f = t sqrt(12 tau) 2^(s/2), t the bound of the error,
    /// tau the publications that the ledger allows (form of OpenFHE's noise flooding, after Li, Micciancio, Schultz and
    /// Sorrell, ePrint 2022/816). `store` gets the ledger's bytes with this publication already counted, *before* anything
    /// is decrypted: it must make them durable, and if it fails nothing is published, but the count stays. A flooded slot that
    /// is larger than the estimate's message by more than the flooding explains is not published either, and counts. Cost: up
    /// to 64 samples of the narrow Gaussian a coefficient, one decryption, one decoding.
    ///
    /// # Errors
    /// [`Error::PrecisionUnavailable`] unless `bits` <= log2(1 / sigma_f) - 2; [`Error::PublicationsExhausted`];
    /// [`Error::LedgerNotStored`]; [`Error::OutsideEstimate`]; [`Error::InvalidArgument`] for s below
    /// [`MIN_STATISTICAL_SECURITY`], an estimate that is no bound or is below the error of a fresh encryption, or the ledger of
    /// another key; [`Error::ParameterMismatch`], [`Error::LevelMismatch`],
    /// [`Error::ScaleMismatch`] unless the estimate is that of the ciphertext; [`Error::ValueTooLarge`] if the flooding does
    /// not fit the modulus (publish from a level with more of it).
    ///
    /// # Security
    /// What a decryption tells about the key is in its error (Li and Micciancio, ePrint 2020/1533); here the error drowns.
    /// For one coefficient whose error has root mean square t at most, the flooded error differs from flooding alone by a
    /// Kullback-Leibler divergence of 1 / (24 tau 2^s), hence n / (24 2^s) for all coefficients of all tau publications: an
    /// adversary tells the two apart with advantage at most the root of half of that, [`Publication::advantage_log2`]. For
    /// n = 2^16 that is 2^-9.8 at s = 30 and 2^-26.8 at s = 64. The protection is statistical and only as good as t: it needs a
    /// circuit whose error bound holds for every input the adversary may choose, values inside the ranges it was computed for,
    /// and a bootstrap that does not fail. Rounding protects nothing by itself and is there because the places below are noise.
    ///
    /// **Against a semi-honest evaluator only**: the ciphertext must be the output of the circuit that was walked. Whoever makes
    /// the ciphertext can put anything in it, the key included: of (c_0, c_1) = (0, 2^40) the decryption is 2^40 s. That one is
    /// refused as too large; the same attack with a smaller factor, repeated, is not. Never publish what a party
    /// returned that may deviate, unless the computation has been verified.
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
        // A function of what is flooded, so that whether it is refused tells no more than what would be published.
        let error = publication.error;
        let largest = error.message()
            + 2f64.sqrt() * TAIL * error.in_slots(publication.flooding(ledger.allowed));
        if !slots.iter().all(|v| v.norm() <= largest) {
            return Err(Error::OutsideEstimate { message: error.message() });
        }
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
        self.secret.id().require_same(OP, ciphertext.secret_id())?;
        params.require_same(OP, encoder.context().params())?;
        params.require_same(OP, error.params())?;
        check_levels(OP, ciphertext.level(), error.level())?;
        check_scales(OP, ciphertext.scale(), error.scale())?;
        if error.mode() != NoiseMode::Bound || error.degree() != ciphertext.degree() {
            return Err(invalid(
                "the estimate must be a bound (`NoiseMode::Bound`) for this ciphertext",
            ));
        }
        if !publication.is_usable() {
            return Err(invalid(
                "the estimate is below the error of a fresh encryption or not finite: no bound",
            ));
        }
        if publication.statistical_security < MIN_STATISTICAL_SECURITY {
            return Err(invalid("the statistical security must be at least 30"));
        }
        if ledger.key != self.secret.id().0 {
            return Err(invalid("the ledger belongs to another secret key"));
        }
        let available = publication.available_bits(ledger.allowed);
        // Never a NaN: see there.
        if f64::from(publication.bits) > available {
            return Err(Error::PrecisionUnavailable { bits: publication.bits, available });
        }
        let std = publication.flooding(ledger.allowed);
        let largest = error.message() * error.scale() + TAIL * std;
        let limit = (params.log2_q_at(ciphertext.level()) - 1.0).min(62.0);
        WideGaussian::new(std).filter(|_| largest.log2() < limit).ok_or(Error::ValueTooLarge {
            op: OP,
            log2_value: largest.log2(),
            log2_modulus: limit,
        })
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
            let mut noise = noise.to_ntt(ring, poly.limbs())?;
            let added = poly.add_assign(&noise);
            noise.zeroize();
            added?;
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
        let plan = WideGaussian::new(publication.flooding(allowed)).unwrap();
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

    #[test]
    fn the_key_is_not_published() {
        let ctx = Context::new(presets::get("toy11_lev").unwrap(), &Device::cpu()).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        let secret = KeyGenerator::new(&ctx).secret_key(&mut rng).unwrap();
        let (level, ring) = (2, ctx.ring());
        let (limbs, scale) = (ctx.limbs(level), ctx.params().scale_at(level));
        let mut constant = vec![0; ctx.params().n()];
        constant[0] = 1 << 40;
        // (0, 2^40): decrypts to 2^40 s.
        let chosen = Ciphertext {
            params: ctx.params().clone(),
            secret: secret.id(),
            level,
            scale,
            polys: vec![
                cipherform_ring::RingPoly::zero(ring, limbs).unwrap(),
                SmallPoly::from_coefficients(constant).to_ntt(ring, limbs).unwrap(),
            ],
            seed: None,
        };
        let error = NoiseModel::new(ctx.params())
            .encrypted_with_secret_key(NoiseMode::Bound, level, scale, 1.0)
            .unwrap();
        let publication = Publication { bits: 0, statistical_security: 30, error: &error };
        let mut ledger = PublicationLedger::new(&secret, 1).unwrap();
        let outcome = Decryptor::new(&ctx, &secret).unwrap().decrypt_public(
            &Encoder::new(&ctx),
            &chosen,
            &publication,
            &mut ledger,
            |_| Ok(()),
            &mut rng,
        );
        assert!(matches!(outcome, Err(Error::OutsideEstimate { .. })));
        assert_eq!(ledger.published(), 1);
    }

    #[test]
    fn the_advantage_is_stated() {
        let params = presets::get("boot16").unwrap();
        let error = NoiseModel::new(&params)
            .estimate(NoiseMode::Bound, 1, params.scale_at(1), 1.0, 10.0)
            .unwrap();
        for (s, want) in [(30, -9.79), (64, -26.79)] {
            let publication = Publication { bits: 0, statistical_security: s, error: &error };
            assert!((publication.advantage_log2() - want).abs() < 0.01);
        }
    }
}

//! The seam between ciphertexts and additive shares modulo 2^64: both directions, without a message beyond the ciphertext.
//!
//! `ARCHITECTURE.md`, "Hybrid: ciphertexts and shares", has the protocol, its bounds and what each party sees.

use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::double::{Double, Wide, wide_fft};
use crate::encoding::{Encoder, lift};
use crate::error::{Error, Result};
use crate::fft::{Number, SpecialFft};
use crate::params::Parameters;
use crate::plaintext::{PlainPoly, Plaintext};
use crate::rlwe::{Decryptor, Encryptor, PublicKey, SecretKey, fresh_seed};
use cipherform_profile::primitive;
use cipherform_ring::{Coeff, RingPoly, sample};
use rand_core::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

/// Halves of a ciphertext's integers add up to them with at least this many bits of probability: over all coefficients
/// together they do not with probability 2^-30 at most.
const WRAP_BITS: f64 = 30.0;

/// Integers of both directions stay below 2^this, well inside the 106 bits of the arithmetic.
const LOG2_WIDE: f64 = 98.0;

/// Stream of the mask's seed.
const MASK_DOMAIN: u64 = 0x7365_616d;

/// One party's part of the integers under a ciphertext: both parts add up to coefficients times the scale. Wiped when dropped.
pub struct Half {
    coefficients: Zeroizing<Vec<i128>>,
    log2_q: f64,
    scale: f64,
}

impl std::fmt::Debug for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Half")
    }
}

/// One share of every slot, real and imaginary part, as integers modulo 2^64 at some number of fraction bits.
pub type SlotWords = Zeroizing<Vec<[u64; 2]>>;

/// Passes values between ciphertexts and shares.
#[derive(Debug)]
pub struct Seam {
    encoder: Encoder,
    fft: SpecialFft<Wide>,
}

impl Seam {
    /// Precomputes the roots of unity.
    #[must_use]
    pub fn new(ctx: &Context) -> Self {
        Self { encoder: Encoder::new(ctx), fft: wide_fft(ctx.params().slots()) }
    }

    fn ctx(&self) -> &Context {
        self.encoder.context()
    }

    /// The lowest level, `highest` or below, whose modulus hides slots below `2^log2_bound` at `scale`: a uniform mask modulo Q
    /// leaves halves that add up without a wrap but with probability `n 2^log2_bound scale / Q`, at most 2^-30.
    ///
    /// # Errors
    /// [`Error::LevelExhausted`] when none is.
    pub fn level(
        params: &Parameters,
        scale: f64,
        log2_bound: f64,
        highest: usize,
    ) -> Result<usize> {
        let needed = scale.log2() + log2_bound + f64::from(params.log_n()) + WRAP_BITS;
        let fits = |level: &usize| params.log2_q_at(*level) >= needed;
        (0..=highest).find(fits).ok_or_else(|| Error::LevelExhausted {
            op: "seam",
            level: highest,
            needed: (highest + 1..=params.max_level()).find(fits).unwrap_or(params.max_level() + 1),
        })
    }

    /// What the evaluator of a circuit does: drops `ciphertext` to the seam's level, adds an encryption of zero, which hides what c_1 says about the
    /// circuit, and takes a uniform polynomial from c_0, which hides message and noise. The ciphertext is for the client, the half stays.
    ///
    /// Every slot, those that nobody reads included, must be below `2^log2_bound`.
    ///
    /// # Errors
    /// [`Error::LevelExhausted`] as [`Seam::level`]; [`Error::DegreeMismatch`], [`Error::ParameterMismatch`], [`Error::KeyMismatch`].
    pub fn mask<R: CryptoRng + ?Sized>(
        &self,
        ciphertext: &Ciphertext,
        public: &PublicKey,
        log2_bound: f64,
        rng: &mut R,
    ) -> Result<(Ciphertext, Half)> {
        const OP: &str = "mask";
        let _span = primitive(OP);
        let (ctx, params) = (self.ctx(), self.ctx().params());
        params.require_same(OP, &ciphertext.params)?;
        let scale = ciphertext.scale;
        let level = Self::level(params, scale, log2_bound, ciphertext.level)?;
        let zero = self.encoder.encode(&[0.0], level, scale)?;
        let mut masked = Encryptor::with_public_key(ctx, public)?.encrypt(&zero, rng)?;
        ciphertext.secret.require_same(OP, masked.secret)?;
        if ciphertext.degree() != 1 {
            return Err(Error::DegreeMismatch { op: OP, degree: ciphertext.degree(), needed: 1 });
        }
        let limbs = ctx.limbs(level);
        for (sum, poly) in masked.polys.iter_mut().zip(&ciphertext.polys) {
            sum.add_assign(&poly.with_limbs(limbs)?)?;
        }
        let seed = fresh_seed(rng);
        let mask = sample::uniform(ctx.ring(), limbs, &seed, MASK_DOMAIN)?;
        if let Some(c0) = masked.polys.first_mut() {
            c0.sub_assign(&mask)?;
        }
        let half = self.half(mask, level, scale)?;
        Ok((masked, half))
    }

    /// What the owner of the key does with a masked ciphertext: decrypts it to its half.
    ///
    /// # Errors
    /// As [`Decryptor::decrypt`].
    pub fn open(&self, masked: &Ciphertext, secret: &SecretKey) -> Result<Half> {
        let plaintext = Decryptor::new(self.ctx(), secret)?.decrypt(masked)?;
        let poly = plaintext.to_dense(self.ctx())?;
        self.half(poly, masked.level, masked.scale)
    }

    fn half(&self, poly: RingPoly, level: usize, scale: f64) -> Result<Half> {
        let mut poly = poly.into_coeff()?;
        let coefficients = Zeroizing::new(lift(self.ctx(), &poly, integer)?);
        poly.zeroize();
        Ok(Half { coefficients, log2_q: self.ctx().params().log2_q_at(level), scale })
    }

    /// A half as shares of `factor` times the slots with `fraction` fraction bits modulo 2^64: its own transform, rounded, so the shares add up to the slots within one
    /// unit of the last place.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when scale and fraction ask for more bits than the arithmetic has.
    pub fn words(&self, half: &Half, factor: f64, fraction: u32) -> Result<SlotWords> {
        let _span = primitive("slots of a half");
        let params = self.ctx().params();
        let scale = half.scale / factor;
        let bits =
            half.log2_q + f64::from(params.log_n()) + f64::from(fraction) - scale.abs().log2();
        check_bits("seam", bits.max(half.log2_q))?;
        let (low, high) = half.coefficients.split_at(params.slots());
        let mut work: Vec<Wide> = low
            .iter()
            .zip(high)
            .map(|(re, im)| Wide { re: Double::from_integer(*re), im: Double::from_integer(*im) })
            .collect();
        self.fft.forward(&mut work);
        let unit = Wide { re: Double::inverse_of(scale), im: Double::default() }
            .times(f64::from(fraction).exp2());
        let words = work.iter().map(|z| [z.re * unit.re, z.im * unit.re].map(|x| x.round() as u64));
        let words = SlotWords::new(words.collect());
        work.fill(Wide::default());
        Ok(words)
    }

    /// The plaintext of `factor` times one party's shares: integers of (-2^63, 2^63) with `fraction` fraction bits, one pair a slot. Encrypted by one party and
    /// added by the other, they are the values, within one unit of a coefficient each, unless the integers themselves do not add up: of shares
    /// uniform modulo 2^64 of a value below 2^b that happens with probability `2^(b + fraction - 64)`.
    ///
    /// # Errors
    /// [`Error::Length`] unless there is a pair for each slot; [`Error::LevelTooHigh`]; [`Error::InvalidScale`]; [`Error::InvalidArgument`] when scale and
    /// fraction ask for more bits than the arithmetic has.
    pub fn plaintext(
        &self,
        words: &[[u64; 2]],
        fraction: u32,
        factor: f64,
        level: usize,
        scale: f64,
    ) -> Result<Plaintext> {
        const OP: &str = "plaintext of shares";
        let _span = primitive(OP);
        let (ctx, params) = (self.ctx(), self.ctx().params());
        params.require_level(OP, level)?;
        ctx.check_scale(OP, level, scale)?;
        if words.len() != params.slots() {
            let expected = format!("one pair for each of {} slots", params.slots());
            return Err(Error::Length { what: "shares", expected, got: words.len() });
        }
        let factor = factor * scale * (-f64::from(fraction)).exp2();
        check_bits(OP, 64.0 + factor.abs().log2())?;
        let number = |w: u64| Double::from_integer(i128::from(w as i64));
        let mut work: Vec<Wide> =
            words.iter().map(|[re, im]| Wide { re: number(*re), im: number(*im) }).collect();
        self.fft.inverse(&mut work);
        let scaled = |z: &Wide| z.times(factor);
        let coefficients: Zeroizing<Vec<i128>> = Zeroizing::new(
            work.iter()
                .map(|z| scaled(z).re.round())
                .chain(work.iter().map(|z| scaled(z).im.round()))
                .collect(),
        );
        work.fill(Wide::default());
        let poly = RingPoly::<Coeff>::from_i128(ctx.ring(), ctx.limbs(level), &coefficients)?;
        Ok(Plaintext {
            params: params.clone(),
            level,
            scale,
            period: params.slots(),
            poly: PlainPoly::Dense(poly.into_ntt()?),
            decrypted: true,
        })
    }
}

fn check_bits(op: &'static str, bits: f64) -> Result<()> {
    if bits <= LOG2_WIDE {
        return Ok(());
    }
    let detail = format!(
        "shares of {bits:.0} bits, at most {LOG2_WIDE} are exact; use fewer fraction bits or a smaller scale"
    );
    Err(Error::InvalidArgument { op, detail })
}

/// The integer of mixed-radix digits. Below 2^98, as [`check_bits`] asks before it is used.
fn integer(digits: &[i64], moduli: &[u64]) -> i128 {
    let join = |sum: i128, (&d, &q): (&i64, &u64)| {
        sum.wrapping_mul(i128::from(q)).wrapping_add(i128::from(d))
    };
    digits.iter().zip(moduli).rev().fold(0, join)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, EvaluationKeys, Evaluator, KeyGenerator, KeySpec, presets};
    use num_complex::Complex64;
    use rand_chacha::ChaCha20Rng;
    use rand_core::{Rng, SeedableRng};

    const FRACTION: u32 = 18;

    fn values(n: usize, bound: f64, rng: &mut ChaCha20Rng) -> Vec<Complex64> {
        let mut part = || (rng.next_u64() as f64 / 2f64.powi(63) - 1.0) * bound;
        (0..n).map(|_| Complex64::new(part(), part())).collect()
    }

    /// Ciphertext of a product, shares, ciphertext again, and a product of that: each crossing within its stated error.
    #[test]
    fn values_cross_both_ways() {
        let ctx = Context::new(presets::get("toy11_lev").unwrap(), &Device::cpu()).unwrap();
        let params = ctx.params();
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let generator = KeyGenerator::new(&ctx);
        let secret = generator.secret_key(&mut rng).unwrap();
        let public = generator.public_key(&secret, &mut rng).unwrap();
        let top = params.max_level();
        let mut keys = EvaluationKeys::new(&ctx);
        let key =
            generator.evaluation_key(&secret, KeySpec::relinearization(top), &mut rng).unwrap();
        keys.insert(key.expand(&ctx).unwrap()).unwrap();
        let (encoder, evaluator) = (Encoder::new(&ctx), Evaluator::new(&ctx));
        let encryptor = Encryptor::with_secret_key(&ctx, &secret).unwrap();
        let z = values(params.slots(), 2.0, &mut rng);
        let plain = encoder.encode(&z, top, params.scale_at(top)).unwrap();
        let x = encryptor.encrypt(&plain, &mut rng).unwrap();
        let square = evaluator.relinearize(&evaluator.mul(&x, &x).unwrap(), &keys).unwrap();
        let square = evaluator.rescale(square).unwrap();

        let seam = Seam::new(&ctx);
        let (masked, server) = seam.mask(&square, &public, 3.5, &mut rng).unwrap();
        assert_eq!(masked.level(), 1);
        let client = seam.open(&masked, &secret).unwrap();
        let (mut a, mut b) = (
            seam.words(&server, 1.0, FRACTION).unwrap(),
            seam.words(&client, 1.0, FRACTION).unwrap(),
        );
        let unit = f64::from(FRACTION).exp2();
        let sum = |a: u64, b: u64| a.wrapping_add(b) as i64 as f64 / unit;
        for ((z, a), b) in z.iter().zip(a.iter()).zip(b.iter()) {
            let want = z * z;
            let error = Complex64::new(sum(a[0], b[0]), sum(a[1], b[1])) - want;
            // A unit of the words in each part, and the noise of the square at scale 2^40: measured 2^-22.
            assert!(error.norm() < 1.5 / unit + 2f64.powi(-20), "{error}");
        }

        // Refreshed: the same word taken from one share and given to the other makes them uniform.
        for (a, b) in a.iter_mut().zip(b.iter_mut()) {
            for (a, b) in a.iter_mut().zip(b.iter_mut()) {
                let word = rng.next_u64();
                (*a, *b) = (a.wrapping_add(word), b.wrapping_sub(word));
            }
        }
        let scale = params.scale_at(top);
        let up = |words: &[[u64; 2]]| seam.plaintext(words, FRACTION, 1.0, top, scale).unwrap();
        let mut fresh = encryptor.encrypt(&up(&b), &mut rng).unwrap();
        evaluator.add_plain_assign(&mut fresh, &up(&a)).unwrap();
        let got = Decryptor::new(&ctx, &secret).unwrap().decrypt(&fresh).unwrap();
        let got = encoder.decode(&got).unwrap();
        for ((a, b), got) in a.iter().zip(b.iter()).zip(got) {
            let error = got - Complex64::new(sum(a[0], b[0]), sum(a[1], b[1]));
            // Fresh noise of deviation 3.2 and two roundings, n coefficients: 8 deviations of a slot.
            assert!(error.norm() < 8.0 * 3.3 * 2048f64.sqrt() / scale, "{error}");
        }
    }

    /// What the client sees does not depend on the ciphertext: of one that hides nothing (m, 0), c_1 is spread over the
    /// modulus and so is the client's half.
    #[test]
    fn the_clients_view_is_uniform() {
        let ctx = Context::new(presets::get("toy11_lev").unwrap(), &Device::cpu()).unwrap();
        let params = ctx.params();
        let mut rng = ChaCha20Rng::seed_from_u64(8);
        let generator = KeyGenerator::new(&ctx);
        let secret = generator.secret_key(&mut rng).unwrap();
        let public = generator.public_key(&secret, &mut rng).unwrap();
        let plain = Encoder::new(&ctx).encode(&[1.5], 1, params.scale_at(1)).unwrap();
        let mut bare =
            Encryptor::with_secret_key(&ctx, &secret).unwrap().encrypt(&plain, &mut rng).unwrap();
        bare.polys[1].mul_integer_assign(0).unwrap();
        bare.polys[0] = plain.to_dense(&ctx).unwrap();
        let seam = Seam::new(&ctx);
        let mut bins = [[0f64; 16]; 2];
        let runs = 8;
        for _ in 0..runs {
            let (masked, _) = seam.mask(&bare, &public, 1.0, &mut rng).unwrap();
            let half = seam.open(&masked, &secret).unwrap();
            let c1 = seam.half(masked.polys[1].clone(), 1, masked.scale).unwrap();
            for (bins, half) in bins.iter_mut().zip([&half, &c1]) {
                for c in half.coefficients.iter() {
                    let place = *c as f64 / half.log2_q.exp2() + 0.5;
                    bins[(place * 16.0) as usize] += 1.0;
                }
            }
        }
        let expected = (runs * params.n()) as f64 / 16.0;
        for bins in bins {
            // 15 degrees of freedom: 45 is exceeded with probability 1e-4; the seed is fixed.
            let chi: f64 = bins.iter().map(|b| (b - expected).powi(2) / expected).sum();
            assert!(chi < 45.0, "{chi} {bins:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let params = presets::get("toy11_lev").unwrap();
        let level = |bound, highest| Seam::level(&params, params.scale_at(1), bound, highest);
        assert_eq!(level(2.0, 3).unwrap(), 1);
        assert!(matches!(level(2.0, 0), Err(Error::LevelExhausted { needed: 1, .. })));
        assert!(level(200.0, 3).is_err());
        let ctx = Context::new(params, &Device::cpu()).unwrap();
        let seam = Seam::new(&ctx);
        let words = vec![[0; 2]; ctx.params().slots()];
        assert!(matches!(seam.plaintext(&words[1..], 16, 1.0, 1, 1.0), Err(Error::Length { .. })));
        assert!(matches!(seam.plaintext(&words, 16, 1.0, 9, 1.0), Err(Error::LevelTooHigh { .. })));
        let scale = 2f64.powi(80);
        assert!(matches!(
            seam.plaintext(&words, 16, 1.0, 2, scale),
            Err(Error::InvalidArgument { .. })
        ));
    }
}

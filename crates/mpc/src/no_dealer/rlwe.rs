//! Encryption of small polynomials under the client's key, as far as products with the server's plaintexts need it.
//!
//! A message `m` modulo `t = 2^w` is `c0 + c1 s = q m / t + e`, rounded, over `Z_q[X]/(X^N + 1)` (Brakerski, Fan and Vercauteren); `c1` comes from a
//! public seed. The server multiplies ciphertexts by plaintext polynomials and adds; what it returns is hidden before it leaves:
//!
//! * an encryption of zero under the public key makes `c1` fresh (the client knows the old one, and with it the multipliers);
//! * uniform noise of at least 40 bits more than the largest error of the product (6 deviations) covers what the error says about them: as
//!   much as still decrypts, see [`Set::told`];
//! * then the modulus is switched to the first prime, and only the wanted coefficients of `c0` are sent.
//!
//! **Parameters.** log2 q is at most the limit of ePrint 2024/463 (128 bits, classical, ternary secret, deviation 3.2): 106 at N = 2^12, 214 at N = 2^13.
//! The secret is used for one run.

use super::bits::{Packer, Unpacker};
use crate::error::{Error, Result};
use cipherform_ring::sample::{SIGMA, SmallPoly, gaussian, ternary, uniform};
use cipherform_ring::{Coeff, Device, Limbs, Modulus, Ring, RingPoly, RnsBasis, primes};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// A ring of encryptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// N = 2^12, q of 45 + 31 + 30 bits.
    Small,
    /// N = 2^13, q of 49 + 49 + 49 bits.
    Large,
}

/// Bits of flooding above the largest error, at least.
const FLOOD: f64 = 40.0;

impl Set {
    pub(super) const BOTH: [Set; 2] = [Set::Small, Set::Large];

    pub(super) fn degree(self) -> usize {
        match self {
            Set::Small => 1 << 12,
            Set::Large => 1 << 13,
        }
    }

    /// Bits of the primes; replies are modulo the first.
    pub(super) fn prime_bits(self) -> [u32; 3] {
        match self {
            Set::Small => [45, 31, 30],
            Set::Large => [49, 49, 49],
        }
    }

    /// Bits of a coefficient under encryption, and of one in a reply.
    pub(super) fn bits(self) -> (usize, usize) {
        let bits = self.prime_bits();
        (bits.iter().sum::<u32>() as usize, bits[0] as usize)
    }

    /// log2 of the largest flooding that still decrypts modulo 2^width, with the rounding of the switch.
    fn room(self, width: u32) -> f64 {
        // Primes are within 2^-8 of their power of two. Half the distance of two messages after the switch, less its rounding:
        // 6 deviations sqrt((1 + 2N/3) / 12).
        let [first, rest @ ..] = self.prime_bits().map(f64::from);
        let half = (first - 0.01 - width as f64 - 1.0).exp2();
        let rounding = 6.0 * ((1.0 + 2.0 * self.degree() as f64 / 3.0) / 12.0).sqrt() + 1.0;
        (half - rounding).max(0.0).log2() + rest.iter().map(|b| b - 0.01).sum::<f64>()
    }

    /// log2 of the largest error of a product with multipliers of the Euclidean norm 2^norm in all: 6 deviations of sqrt(sigma^2 + 1/12).
    fn error(norm: f64) -> f64 {
        norm + (6.0 * (SIGMA * SIGMA + 0.1).sqrt()).log2()
    }

    /// log2 of the flooding of a reply modulo 2^width; an integer, so that the flooding is exactly uniform. One more bit of the room is for the
    /// encryption of zero.
    fn flood(self, width: u32) -> u32 {
        (self.room(width) - 0.1).floor().clamp(0.0, 120.0) as u32
    }

    /// Whether a product with multipliers of norm at most 2^norm decrypts modulo 2^width, flooded enough.
    pub(super) fn fits(self, width: u32, norm: f64) -> bool {
        FLOOD + Self::error(norm) + 1.0 <= self.flood(width) as f64
    }

    /// Statistical distance between one flooded coefficient for two choices of the multipliers: errors differ by twice the largest,
    /// and a uniform word below 2^f in size moved by e has distance e / 2^(f + 1).
    pub(super) fn told(self, width: u32, norm: f64) -> f64 {
        (Self::error(norm) - self.flood(width) as f64).exp2()
    }

    /// The ring, with the largest primes of these sizes.
    pub(super) fn ring(self) -> Result<Arc<Ring>> {
        let n = self.degree();
        let mut q: Vec<u64> = Vec::new();
        for bits in self.prime_bits() {
            let step = 2 * n as u64;
            let first = (1u64 << bits) - step + 1;
            let found = (0..1u64 << 12)
                .map(|i| first - i * step)
                .find(|p| primes::is_ntt_friendly(*p, n) && !q.contains(p));
            q.extend(found);
        }
        let basis = RnsBasis::new(n, &q, &[], &[]).map_err(failed)?;
        Ring::new(basis, &Device::cpu()).map_err(failed)
    }
}

/// An error of the ring; it names sizes only.
#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn failed(source: cipherform_ring::Error) -> Error {
    Error::Unsupported { op: "lattice product", detail: source.to_string() }
}

fn all(ring: &Ring) -> Limbs {
    ring.basis().all_limbs()
}

/// `q m / 2^width` rounded, plus `error`, for every coefficient: the residue of `q m / t` is `(t/2 - (q m + t/2 mod t)) / t`, as q is 0 modulo its primes.
fn scaled(ring: &Arc<Ring>, messages: &[u64], width: u32, errors: &[i128]) -> Result<RingPoly> {
    let n = ring.n();
    let q = ring.basis().q().iter().fold(1u64, |q, p| q.wrapping_mul(p.value()));
    let half = 1u64 << (width - 1);
    let mut words = Vec::with_capacity(n * ring.basis().q().len());
    for p in ring.basis().q() {
        let inverse = p.inv(p.pow(2, width as u64)).map_err(failed)?;
        let message = messages.iter().chain(std::iter::repeat(&0)).take(n);
        words.extend(message.zip(errors).map(|(m, e)| {
            let rest = q.wrapping_mul(*m).wrapping_add(half) & crate::low(width);
            let exact = p.mul(p.reduce_i64(half as i64 - rest as i64), inverse);
            p.add(exact, p.reduce_i128(*e))
        }));
    }
    let poly: RingPoly<Coeff> = RingPoly::from_residues(ring, all(ring), words).map_err(failed)?;
    poly.into_ntt().map_err(failed)
}

fn wide(small: &SmallPoly) -> Zeroizing<Vec<i128>> {
    Zeroizing::new(small.coefficients().iter().map(|x| *x as i128).collect())
}

fn write(poly: &RingPoly, out: &mut Packer) -> Result<()> {
    let ring = poly.ring();
    let moduli: Vec<&Modulus> = ring.basis().row_moduli(poly.limbs()).collect();
    let words = poly.to_residues().map_err(failed)?;
    for (row, modulus) in words.chunks_exact(ring.n()).zip(moduli) {
        for word in row {
            out.push(*word, modulus.bits());
        }
    }
    Ok(())
}

fn read(ring: &Arc<Ring>, limbs: Limbs, bits: &mut Unpacker<'_>) -> Result<RingPoly> {
    let widths = ring.basis().row_moduli(limbs).map(Modulus::bits);
    let words = widths.flat_map(|w| vec![w; ring.n()]).map(|w| bits.next(w)).collect();
    RingPoly::from_residues(ring, limbs, words)
        .map_err(|e| Error::Malformed { what: "ciphertext", detail: e.to_string() })
}

/// The client: the secret key of one run.
pub(super) struct Secret {
    ring: Arc<Ring>,
    key: RingPoly,
    seed: [u8; 32],
    /// Stream of the next uniform polynomial.
    next: u64,
    rng: ChaCha20Rng,
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Bytes of a public key.
pub(super) fn key_bits(set: Set) -> usize {
    8 * 32 + set.degree() * set.bits().0
}

impl Secret {
    pub(super) fn new(set: Set, mut rng: ChaCha20Rng) -> Result<Self> {
        let ring = set.ring()?;
        let key = ternary(&ring, &mut rng).to_ntt(&ring, all(&ring)).map_err(failed)?;
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Ok(Self { ring, key, seed, next: 0, rng })
    }

    /// Appends `-c1 s + q m / t + e`.
    fn encryption(&mut self, messages: &[u64], width: u32, out: &mut Packer) -> Result<()> {
        let errors = wide(&gaussian(&self.ring, &mut self.rng));
        let mut c0 = scaled(&self.ring, messages, width, &errors)?;
        let mut mask =
            uniform(&self.ring, all(&self.ring), &self.seed, self.next).map_err(failed)?;
        self.next += 1;
        mask.mul_assign(&self.key).map_err(failed)?;
        c0.sub_assign(&mask).map_err(failed)?;
        write(&c0, out)
    }

    /// Appends the public key, an encryption of zero, after the seed of all uniform polynomials. First of all messages.
    pub(super) fn publish(&mut self, out: &mut Packer) -> Result<()> {
        for word in self.seed.as_chunks::<8>().0 {
            out.push(u64::from_le_bytes(*word), 64);
        }
        self.encryption(&[], 1, out)
    }

    /// Appends the encryption of polynomials modulo 2^width.
    pub(super) fn encrypt(&mut self, m: &[Vec<u64>], width: u32, out: &mut Packer) -> Result<()> {
        m.iter().try_for_each(|m| self.encryption(m, width, out))
    }

    /// Coefficients `places` of the next reply.
    pub(super) fn decrypt(
        &self,
        places: &[usize],
        width: u32,
        bits: &mut Unpacker<'_>,
    ) -> Result<Vec<u64>> {
        let first = Limbs::q(1);
        let prime = self.ring.basis().q()[0];
        let mut phase = read(&self.ring, first, bits)?;
        let c0: Vec<u64> = places.iter().map(|_| bits.next(prime.bits())).collect();
        phase.mul_assign(&self.key).map_err(failed)?;
        let phase = phase.into_coeff().and_then(|p| p.to_residues()).map_err(failed)?;
        let phase = Zeroizing::new(phase);
        let p = prime.value() as u128;
        let message = |(place, c0): (&usize, &u64)| {
            let x = prime.add(prime.reduce_u64(*c0), phase[*place]) as u128;
            ((x << width) + p / 2).div_euclid(p) as u64 & crate::low(width)
        };
        Ok(places.iter().zip(&c0).map(message).collect())
    }
}

/// A ciphertext at the server.
pub(super) struct Ciphertext([RingPoly; 2]);

/// The server: the client's public key.
pub(super) struct Public {
    set: Set,
    ring: Arc<Ring>,
    key: [RingPoly; 2],
    seed: [u8; 32],
    next: u64,
}

impl Public {
    /// Reads what [`Secret::publish`] wrote.
    pub(super) fn read(set: Set, bits: &mut Unpacker<'_>) -> Result<Self> {
        let ring = set.ring()?;
        let mut seed = [0; 32];
        seed.as_chunks_mut::<8>().0.iter_mut().for_each(|w| *w = bits.next(64).to_le_bytes());
        let c0 = read(&ring, all(&ring), bits)?;
        let c1 = uniform(&ring, all(&ring), &seed, 0).map_err(failed)?;
        Ok(Self { set, ring, key: [c0, c1], seed, next: 1 })
    }

    /// Reads `count` ciphertexts.
    pub(super) fn ciphertexts(
        &mut self,
        count: usize,
        bits: &mut Unpacker<'_>,
    ) -> Result<Vec<Ciphertext>> {
        let mut one = || {
            let c0 = read(&self.ring, all(&self.ring), bits)?;
            let c1 = uniform(&self.ring, all(&self.ring), &self.seed, self.next).map_err(failed)?;
            self.next += 1;
            Ok(Ciphertext([c0, c1]))
        };
        (0..count).map(|_| one()).collect()
    }

    /// A multiplier with small coefficients.
    pub(super) fn multiplier(&self, coefficients: &[i64]) -> Result<RingPoly> {
        RingPoly::from_i64(&self.ring, all(&self.ring), coefficients)
            .and_then(RingPoly::into_ntt)
            .map_err(failed)
    }

    /// The sum of products minus `mask`, hidden; appends `c1` and the coefficients `places` of `c0`.
    pub(super) fn reply<'a>(
        &self,
        products: impl Iterator<Item = (&'a Ciphertext, &'a RingPoly)>,
        mask: &[u64],
        width: u32,
        places: &[usize],
        rng: &mut ChaCha20Rng,
    ) -> Result<Packer> {
        let ring = &self.ring;
        let flood_bits = self.set.flood(width);
        let mut flood = Zeroizing::new(vec![0i128; ring.n()]);
        let mut message = vec![0u64; ring.n()];
        for (place, mask) in places.iter().zip(mask) {
            let random = (rng.next_u64() as u128) << 64 | rng.next_u64() as u128;
            flood[*place] = (random >> (127 - flood_bits)) as i128 - (1 << flood_bits);
            message[*place] = mask.wrapping_neg() & crate::low(width);
        }
        let zero = ternary(ring, rng).to_ntt(ring, all(ring)).map_err(failed)?;
        let mut c0 = scaled(ring, &message, width, &flood)?;
        let mut c1 = gaussian(ring, rng).to_ntt(ring, all(ring)).map_err(failed)?;
        c0.mul_add_assign(&self.key[0], &zero).map_err(failed)?;
        c1.mul_add_assign(&self.key[1], &zero).map_err(failed)?;
        for (Ciphertext(c), multiplier) in products {
            c0.mul_add_assign(&c[0], multiplier).map_err(failed)?;
            c1.mul_add_assign(&c[1], multiplier).map_err(failed)?;
        }
        let rest = ring.basis().q().len() - 1;
        let (c0, c1) = (c0.rescale_by(rest).map_err(failed)?, c1.rescale_by(rest).map_err(failed)?);
        let c0 = c0.into_coeff().and_then(|c| c.to_residues()).map_err(failed)?;
        let prime = ring.basis().q()[0].bits();
        let mut out = Packer::with_bits((ring.n() + places.len()) * prime as usize);
        write(&c1, &mut out)?;
        for place in places {
            out.push(c0[*place], prime);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn sets_are_within_the_limits_for_128_bits() {
        // ePrint 2024/463, table for ternary secrets, 128 bits classical.
        for (set, limit) in [(Set::Small, 106), (Set::Large, 214)] {
            let ring = set.ring().unwrap();
            let log2: f64 = ring.basis().q().iter().map(|p| (p.value() as f64).log2()).sum();
            assert!(log2 <= limit as f64 && log2 > set.bits().0 as f64 - 0.03, "{set:?} {log2}");
            let bits: Vec<u32> = ring.basis().q().iter().map(Modulus::bits).collect();
            assert_eq!(bits, set.prime_bits());
        }
    }

    #[test]
    fn products_decrypt_at_the_edge_of_what_fits_and_replies_hide_their_masks() {
        for set in Set::BOTH {
            let norm = 23.0;
            let width = (20..=42).rev().find(|w| set.fits(*w, norm)).unwrap();
            let mut secret = Secret::new(set, ChaCha20Rng::from_seed([3; 32])).unwrap();
            let n = set.degree();
            let word = |i: usize| (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let message: Vec<u64> = (0..n).map(|i| word(i) & crate::low(width)).collect();
            let mut out = Packer::default();
            secret.publish(&mut out).unwrap();
            secret.encrypt(std::slice::from_ref(&message), width, &mut out).unwrap();
            let out = out.finish();
            assert_eq!(out.len() * 8, key_bits(set) + n * set.bits().0);
            let mut bits = Unpacker::new(&out);
            let mut public = Public::read(set, &mut bits).unwrap();
            let c = public.ciphertexts(1, &mut bits).unwrap();
            // Two coefficients whose norm is the bound.
            let mut multiplier = vec![0i64; n];
            (multiplier[0], multiplier[1]) = (-5_931_641, 5_931_641);
            let poly = public.multiplier(&multiplier).unwrap();
            let places: Vec<usize> = (1..n).step_by(3).collect();
            let mask: Vec<u64> = places.iter().map(|p| word(p + n) & crate::low(width)).collect();
            let mut rng = ChaCha20Rng::from_seed([4; 32]);
            let pairs = c.iter().zip(std::iter::once(&poly));
            let reply = public.reply(pairs, &mask, width, &places, &mut rng).unwrap();
            let reply = reply.finish();
            assert_eq!(reply.len(), ((n + places.len()) * set.bits().1).div_ceil(8));
            let got = secret.decrypt(&places, width, &mut Unpacker::new(&reply)).unwrap();
            for ((place, got), mask) in places.iter().zip(&got).zip(&mask) {
                let product =
                    message[place - 1].wrapping_sub(message[*place]).wrapping_mul(5_931_641);
                assert_eq!(
                    *got,
                    product.wrapping_sub(*mask) & crate::low(width),
                    "{set:?} {place}"
                );
            }
        }
    }
}

//! 128 oblivious transfers of 32-byte keys from a group of prime order.
//!
//! 1. The sender draws `y` and sends `S = y B`.
//! 2. For choice `c_i` the receiver draws `x_i` and sends `R_i = x_i B + c_i S`; its key is `H(i, S, R_i, x_i S)`.
//! 3. The sender's keys are `H(i, S, R_i, y R_i)` and `H(i, S, R_i, y (R_i - S))`.
//!
//! Source: Chou and Orlandi, *The Simplest Protocol for Oblivious Transfer* (ePrint 2015/267), over Ristretto; semi-honest parties.

use crate::error::{Error, Result};
use crate::prg::{Seed, Stream};
use curve25519_dalek::constants::RISTRETTO_BASEPOINT_TABLE as BASE;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;
use zeroize::Zeroize;

/// Transfers.
pub(super) const COUNT: usize = 128;
/// Bytes of an encoded point.
pub(super) const POINT: usize = 32;

/// `count` scalars from this party's randomness.
fn scalars(own: &Stream, draw: usize, count: usize) -> Vec<Scalar> {
    let mut words = own.words(draw, 0, 8 * count);
    let out = words
        .as_chunks::<8>()
        .0
        .iter()
        .map(|w| {
            let mut wide = [0u8; 64];
            wide.as_chunks_mut::<8>().0.iter_mut().zip(w).for_each(|(b, w)| *b = w.to_le_bytes());
            let scalar = Scalar::from_bytes_mod_order_wide(&wide);
            wide.zeroize();
            scalar
        })
        .collect();
    words.zeroize();
    out
}

fn point(bytes: &[u8]) -> Result<RistrettoPoint> {
    let malformed = || Error::Malformed {
        what: "base transfer",
        detail: "bytes that are not a point of the group".into(),
    };
    let point = CompressedRistretto::from_slice(bytes).ok().and_then(|p| p.decompress());
    point.filter(|p| *p != RistrettoPoint::identity()).ok_or_else(malformed)
}

fn key(index: usize, offer: &[u8], answer: &[u8], shared: &RistrettoPoint) -> Seed {
    let mut hasher = blake3::Hasher::new_derive_key("cipherform mpc 1 base transfer");
    hasher.update(&(index as u64).to_le_bytes());
    hasher.update(offer).update(answer).update(shared.compress().as_bytes());
    Seed(*hasher.finalize().as_bytes())
}

/// The sender between its two messages.
pub(super) struct Offer {
    secret: Scalar,
    pub(super) message: [u8; POINT],
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Offer {
    pub(super) fn new(own: &Stream, draw: usize) -> Self {
        let secret = scalars(own, draw, 1).first().copied().unwrap_or_default();
        Self { secret, message: (&secret * BASE).compress().to_bytes() }
    }

    /// Both keys of every transfer.
    pub(super) fn keys(&self, answers: &[u8]) -> Result<Vec<[Seed; 2]>> {
        let whole = self.secret * (&self.secret * BASE);
        let both = |(i, bytes): (usize, &[u8])| {
            let shared = self.secret * point(bytes)?;
            let of = |p: &RistrettoPoint| key(i, &self.message, bytes, p);
            Ok([of(&shared), of(&(shared - whole))])
        };
        answers.chunks_exact(POINT).enumerate().map(both).collect()
    }
}

/// The receiver: its answer and its key of every transfer, chosen by the bits of `choices`.
pub(super) fn answer(
    offer: &[u8],
    choices: u128,
    own: &Stream,
    draw: usize,
) -> Result<(Vec<u8>, Vec<Seed>)> {
    let whole = point(offer)?;
    let (mut message, mut keys) = (Vec::with_capacity(COUNT * POINT), Vec::with_capacity(COUNT));
    let mut secrets = scalars(own, draw, COUNT);
    for (i, secret) in secrets.iter().enumerate() {
        // c S with c as a scalar: no branch on the choice.
        let choice = Scalar::from((choices >> i) as u64 & 1);
        let answer = (secret * BASE + choice * whole).compress().to_bytes();
        keys.push(key(i, offer, &answer, &(secret * whole)));
        message.extend_from_slice(&answer);
    }
    secrets.zeroize();
    Ok((message, keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receiver_has_the_key_it_chose_and_bad_points_are_refused() {
        let (a, b) = (Seed([1; 32]).stream(), Seed([2; 32]).stream());
        let choices = 0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210_u128;
        let offer = Offer::new(&a, 0);
        let (message, got) = answer(&offer.message, choices, &b, 0).unwrap();
        let keys = offer.keys(&message).unwrap();
        assert_eq!((keys.len(), got.len(), message.len()), (COUNT, COUNT, COUNT * POINT));
        for (i, (keys, got)) in keys.iter().zip(&got).enumerate() {
            let choice = (choices >> i) as usize & 1;
            assert!(keys[choice] == *got && keys[1 - choice] != *got, "{i}");
        }
        assert!(answer(&[0; 32], 1, &b, 0).is_err());
        assert!(answer(&[0xFF; 32], 1, &b, 0).is_err());
        assert!(offer.keys(&[0; COUNT * POINT]).is_err());
    }
}

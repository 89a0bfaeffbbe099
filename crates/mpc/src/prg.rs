//! Pseudorandom words: a counter stream from a secret seed, and the public fixed-key permutation of function secret
//! sharing.

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Block};
use rayon::prelude::*;
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A 32-byte secret from which one party's masks are expanded.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Seed(pub(crate) [u8; 32]);

impl Seed {
    /// A seed from a cryptographic generator.
    #[must_use]
    pub fn random(rng: &mut impl rand_core::CryptoRng) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    pub(crate) fn stream(&self) -> Stream {
        let hash = blake3::derive_key("cipherform mpc 1 mask stream", &self.0);
        let mut key = [0u8; 16];
        key.copy_from_slice(&hash[..16]);
        let cipher = Aes128::new(&key.into());
        key.zeroize();
        Stream { cipher }
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// AES-128 in counter mode over (instruction, part, counter): every part of every instruction has words of its own.
#[derive(Clone)]
pub(crate) struct Stream {
    cipher: Aes128,
}

const RUN: usize = 1 << 12;

impl Stream {
    /// `len` words of part `part` of instruction `instruction`.
    pub(crate) fn words(&self, instruction: usize, part: u32, len: usize) -> Vec<u64> {
        let mut out = vec![0u64; len];
        let prefix = (instruction as u64) << 32 | part as u64;
        let fill = |(run, out): (usize, &mut [u64])| {
            let mut counters = [0u64; 4 * BATCH];
            let mut words = [0u64; 4 * BATCH];
            for (batch, out) in out.chunks_mut(4 * BATCH).enumerate() {
                let first = run * (RUN / 2) + batch * 2 * BATCH;
                for (i, pair) in counters.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    *pair = [(first + i) as u64, prefix];
                }
                let plain =
                    Block::cast_slice_from_core(bytemuck::cast_slice::<u64, [u8; 16]>(&counters));
                let cipher = bytemuck::cast_slice_mut::<u64, [u8; 16]>(&mut words);
                let cipher = Block::cast_slice_from_core_mut(cipher);
                if self.cipher.encrypt_blocks_b2b(plain, cipher).is_ok() {
                    out.copy_from_slice(&words[..out.len()]);
                }
            }
            words.zeroize();
        };
        if len <= 4 * RUN {
            out.chunks_mut(RUN).enumerate().for_each(fill);
        } else {
            out.par_chunks_mut(RUN).enumerate().for_each(fill);
        }
        out
    }
}

/// The public permutation of one session: AES-128 under a key derived from the session's nonce, so that no two sessions
/// share a permutation. Inputs are tweaked by instruction, level and use.
#[derive(Clone)]
pub(crate) struct Permutation {
    cipher: Aes128,
}

impl Permutation {
    pub(crate) fn new(nonce: &[u8; 32]) -> Self {
        let hash = blake3::derive_key("cipherform mpc 1 function secret sharing", nonce);
        let mut key = [0u8; 16];
        key.copy_from_slice(&hash[..16]);
        Self { cipher: Aes128::new(&key.into()) }
    }

    /// `x -> pi(x) xor x` of every block (Matyas-Meyer-Oseas), two words a block, low word first; `out` is as long as `input`.
    /// Multiples of [`BATCH`] blocks are fastest.
    pub(crate) fn hash(&self, input: &[u64], out: &mut [u64]) {
        let plain = Block::cast_slice_from_core(bytemuck::cast_slice::<u64, [u8; 16]>(input));
        let cipher =
            Block::cast_slice_from_core_mut(bytemuck::cast_slice_mut::<u64, [u8; 16]>(out));
        if self.cipher.encrypt_blocks_b2b(plain, cipher).is_ok() {
            out.iter_mut().zip(input).for_each(|(o, i)| *o ^= i);
        }
    }
}

/// Blocks that the widest implementation of AES handles at once.
pub(crate) const BATCH: usize = 64;

#[cfg(target_endian = "big")]
compile_error!("keys and streams are words of little-endian blocks");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cipher_is_aes_128() {
        // FIPS 197, appendix C.1.
        let key: [u8; 16] = std::array::from_fn(|i| i as u8);
        let mut block = Block::from(std::array::from_fn(|i| (i * 0x11) as u8));
        Aes128::new(&key.into()).encrypt_block(&mut block);
        assert_eq!(block.0[..4], [0x69, 0xc4, 0xe0, 0xd8]);
    }

    #[test]
    fn words_depend_on_instruction_part_and_position_only() {
        let stream = Seed([7; 32]).stream();
        let long = stream.words(3, 1, 5 * RUN + 3);
        assert_eq!(stream.words(3, 1, 700), long[..700]);
        assert_ne!(stream.words(3, 2, 8), long[..8]);
        assert_ne!(stream.words(4, 1, 8), long[..8]);
        let mut sorted = long.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), long.len());
    }
}

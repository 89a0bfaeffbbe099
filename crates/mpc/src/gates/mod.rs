//! The gates: what the dealer generates for one instruction and what a party makes of it.
//!
//! Notation: `x` is the value, `c = x + r` its masked form, public; the dealer knows `r`. `[v]` are additive shares.
//! *Corrections* are shares of values that only the dealer knows: the server's half comes from its seed, the client's is sent.
//! Every gate works element by element (or row by row) on whole tensors, without branches on anything but public data.

pub(crate) mod compare;
pub(crate) mod knots;
pub(crate) mod power;
pub(crate) mod product;
pub(crate) mod table;
pub(crate) mod truncate;

use crate::fixed::low;
use crate::fss::Tweak;
use crate::prg::{Permutation, Stream};
use crate::role::Role;

/// Part of an instruction's stream that masks what it opens.
pub(crate) const MASK: u32 = 0;
/// Part that holds the server's half of the corrections.
const CORRECTIONS: u32 = 1;
/// Part of the dealer's own stream: roots of keys.
const ROOTS: u32 = 2;

/// What the dealer holds while it prepares one instruction.
pub(crate) struct Dealing<'a> {
    pub(crate) permutation: &'a Permutation,
    /// The dealer's own randomness.
    pub(crate) own: &'a Stream,
    pub(crate) server: &'a Stream,
    pub(crate) id: usize,
    pub(crate) server_out: &'a mut [u8],
    pub(crate) client_out: &'a mut [u8],
}

impl Dealing<'_> {
    /// Writes the client's half of `lists`, after `keys` bytes of keys.
    pub(crate) fn correct(&mut self, keys: usize, lists: &[&[u64]]) {
        let total = lists.iter().map(|l| l.len()).sum();
        let server = self.server.words(self.id, CORRECTIONS, total);
        let values = lists.iter().copied().flatten();
        let out = self.client_out[keys..].chunks_exact_mut(8);
        for ((out, value), share) in out.zip(values).zip(&server) {
            out.copy_from_slice(&value.wrapping_sub(*share).to_le_bytes());
        }
    }

    pub(crate) fn roots(&self, words: usize) -> Vec<u64> {
        self.own.words(self.id, ROOTS, words)
    }

    pub(crate) fn tweak(&self) -> Tweak {
        Tweak::instruction(self.id)
    }
}

/// What a party holds while it evaluates one instruction.
#[derive(Clone, Copy)]
pub(crate) struct Evaluation<'a> {
    pub(crate) permutation: &'a Permutation,
    pub(crate) role: Role,
    pub(crate) id: usize,
    pub(crate) stream: &'a Stream,
    /// The instruction's correlations.
    pub(crate) bytes: &'a [u8],
}

impl Evaluation<'_> {
    /// This party's half of `count` corrections, after `keys` bytes of keys.
    pub(crate) fn shares(&self, keys: usize, count: usize) -> Vec<u64> {
        match self.role {
            Role::Server => self.stream.words(self.id, CORRECTIONS, count),
            Role::Client => {
                let words = self.bytes[keys..].as_chunks::<8>().0;
                words.iter().take(count).map(|w| u64::from_le_bytes(*w)).collect()
            }
        }
    }

    pub(crate) fn tweak(&self) -> Tweak {
        Tweak::instruction(self.id)
    }

    /// This party's share of the public word `x`.
    pub(crate) fn public(&self, x: u64) -> u64 {
        self.role.public().wrapping_mul(x)
    }
}

/// `bits` bits of `x` above the lowest `drop`.
#[inline]
pub(crate) fn window(x: u64, drop: u32, bits: u32) -> u64 {
    (x >> drop) & low(bits)
}

/// The two candidates for the mask as a signed number, selected by the top bit of the masked value: with the wrap modulo
/// 2^bits, and without. See [`truncate`] for why the top bits decide.
#[inline]
pub(crate) fn candidates(r: u64, bits: u32) -> [u64; 2] {
    let top = r >> (bits - 1);
    [r.wrapping_sub(crate::fixed::shl(top, bits)), r]
}

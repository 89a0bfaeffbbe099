//! Correlated transfers from 128 base transfers: the start of [`super::silent`].
//!
//! The party that will send holds `delta` and received, as base receiver, `k^i_(delta_i)` for every bit i; the other holds
//! both. With choices `r`:
//! 1. The receiver sends `u^i = G(k^i_0) xor G(k^i_1) xor r`.
//! 2. Column i is `t^i = G(k^i_0)` there, `q^i = G(k^i_(delta_i)) xor delta_i u^i = t^i xor delta_i r` here.
//! 3. Row j of the transposed matrices: `q_j = t_j xor r_j delta`.
//!
//! Source: Ishai, Kilian, Nissim, Petrank (CRYPTO 2003), the semi-honest protocol.

use super::base::COUNT;
use crate::prg::{Seed, Stream};
use zeroize::Zeroizing;

/// Bytes of the receiver's message for `len` transfers, a multiple of 64.
pub(super) fn message_bytes(len: usize) -> usize {
    COUNT * len / 8
}

type Columns = Vec<Zeroizing<Vec<u64>>>;

fn columns<'a>(keys: impl Iterator<Item = &'a Seed>, len: usize) -> Columns {
    keys.map(|k| Zeroizing::new(k.stream().words(0, 0, len / 64))).collect()
}

/// Row j holds bit j of every column, column 0 lowest.
fn transpose(columns: &[Zeroizing<Vec<u64>>], len: usize) -> Vec<u128> {
    let mut rows = vec![0u128; len];
    for (i, column) in columns.iter().enumerate() {
        for (rows, word) in rows.chunks_mut(64).zip(column.iter()) {
            for (j, row) in rows.iter_mut().enumerate() {
                *row |= ((word >> j & 1) as u128) << i;
            }
        }
    }
    rows
}

/// The receiver's rows, their choices and the message.
pub(super) fn receive(
    keys: &[[Seed; 2]],
    own: &Stream,
    draw: usize,
    len: usize,
) -> (Vec<u128>, Vec<u64>, Vec<u8>) {
    let choices = own.words(draw, 0, len / 64);
    let t = columns(keys.iter().map(|k| &k[0]), len);
    let others = columns(keys.iter().map(|k| &k[1]), len);
    let mut message = Vec::with_capacity(message_bytes(len));
    for (t, other) in t.iter().zip(&others) {
        for ((t, o), r) in t.iter().zip(other.iter()).zip(&choices) {
            message.extend_from_slice(&(t ^ o ^ r).to_le_bytes());
        }
    }
    (transpose(&t, len), choices, message)
}

/// The sender's rows.
pub(super) fn send(keys: &[Seed], delta: u128, message: &[u8], len: usize) -> Vec<u128> {
    let mut q = columns(keys.iter(), len);
    for (i, (q, u)) in q.iter_mut().zip(message.chunks_exact(len / 8)).enumerate() {
        let chosen = ((delta >> i) as u64 & 1).wrapping_neg();
        for (q, u) in q.iter_mut().zip(u.as_chunks::<8>().0) {
            *q ^= u64::from_le_bytes(*u) & chosen;
        }
    }
    transpose(&q, len)
}

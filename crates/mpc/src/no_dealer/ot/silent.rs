//! Many correlated transfers from few, with a message of 0.65 bytes a transfer.
//!
//! One round makes `NOISE` blocks of `LEAVES` transfers whose choices are zero but for one secret place a block, and hides them:
//! 1. For every block the sender expands a random seed into a binary tree and sends, for every level, the exclusive or of all left
//!    nodes and of all right ones by one transfer each (a bit of the secret place is the *complement* of a random choice, so the
//!    receiver sends nothing), and the sum of the leaves plus delta.
//! 2. The receiver has all leaves but the one at its secret place, and there the leaf plus delta.
//! 3. Both add, to every leaf, ten of `SECRET` older transfers, chosen by a public matrix: learning parity with (regular) noise says that the
//!    new choices look random.
//!
//! `RESERVED` of the results are the older transfers of the next round.
//!
//! Source: Yang, Weng, Lan, Zhang, Wang, *Ferret* (ePrint 2020/924), its semi-honest protocol.
//!
//! **Sizes.** n = 470,016, k = 32,768, t = 918 are the set-up sizes of `ferret_b13` in the authors' code (emp-ot), where they serve one
//! round before larger ones; here every round has them, as the vector of secrets then stays in the level-2 cache. Nobody has
//! estimated them for this use. Gaussian elimination alone: regular noise gives an equation without noise a block, so k - t = 31,850 more
//! are needed; taken evenly from the blocks, all are free of noise with probability (1 - 31,850 / n)^t = 2^-92.9, and one try costs about
//! 31,850^2.8 = 2^41.9, together 2^134. Decoding attacks and the algebraic ones on regular noise (ePrint 2023/176, 2025/1476) are not
//! estimated here and may do better.

use crate::prg::{Permutation, Seed, Stream};
use rayon::prelude::*;
use zeroize::Zeroizing;

const DEPTH: usize = 9;
const LEAVES: usize = 1 << DEPTH;
const NOISE: usize = 918;
const SECRET: usize = 32_768;
const LENGTH: usize = NOISE * LEAVES;
/// Older transfers a round consumes.
pub(super) const RESERVED: usize = SECRET + NOISE * DEPTH;
/// New ones it leaves.
pub(super) const NET: usize = LENGTH - RESERVED;
/// Bytes of a round's message.
pub(super) const MESSAGE: usize = 16 * NOISE * (2 * DEPTH + 1);

/// Places of a row of the matrix.
const ROW: usize = 10;

/// The public matrix: `ROW` places below `SECRET` a row.
pub(super) struct Matrix(Vec<u16>);

impl Matrix {
    /// From public randomness.
    pub(super) fn new(session: &[u8; 32]) -> Self {
        let seed = blake3::derive_key("cipherform mpc 1 parity matrix", session);
        let words = Seed(seed).stream().words(0, 0, LENGTH * ROW / 4);
        let places = words.iter().flat_map(|w| [*w, w >> 16, w >> 32, w >> 48]);
        Self(places.map(|p| p as u16 % SECRET as u16).collect())
    }

    fn add(&self, secret: &[u128], out: &mut [u128]) {
        out.par_chunks_mut(4096).zip(self.0.par_chunks(4096 * ROW)).for_each(|(out, places)| {
            for (out, places) in out.iter_mut().zip(places.as_chunks::<ROW>().0) {
                // Places are below the length by construction.
                *out ^= places.iter().fold(0, |sum, p| sum ^ secret[*p as usize]);
            }
        });
    }
}

fn hash(permutation: &Permutation, input: &[u128]) -> Vec<u128> {
    let mut out = vec![0u128; input.len()];
    permutation.hash(bytemuck::cast_slice(input), bytemuck::cast_slice_mut(&mut out));
    out
}

/// Left children, then right ones.
fn children(permutation: &Permutation, nodes: &[u128]) -> (Vec<u128>, Vec<u128>) {
    let right: Vec<u128> = nodes.iter().map(|n| n ^ 1 << 127).collect();
    (hash(permutation, nodes), hash(permutation, &right))
}

fn sum(nodes: impl Iterator<Item = u128>) -> u128 {
    nodes.fold(0, |a, b| a ^ b)
}

/// Blocks a task.
const TASK: usize = 27;

/// The sender's round: consumes `old`, returns the new transfers and the message. `mark` is the bit of a transfer that is the choice.
pub(super) fn send(
    permutation: &Permutation,
    matrix: &Matrix,
    delta: u128,
    mark: u128,
    old: &[u128],
    random: &Stream,
    draw: usize,
) -> (Vec<u128>, Vec<u8>) {
    let (secret, paths) = old.split_at(SECRET);
    let seeds = Zeroizing::new(random.words(draw, 0, 2 * NOISE));
    let (mut out, mut message) = (vec![0; LENGTH], vec![0u8; MESSAGE]);
    out.par_chunks_mut(TASK * LEAVES)
        .zip(message.par_chunks_mut(TASK * MESSAGE / NOISE))
        .zip(seeds.par_chunks(2 * TASK).zip(paths.par_chunks(TASK * DEPTH)))
        .for_each(|((out, message), (seeds, paths))| {
            let blocks =
                out.chunks_exact_mut(LEAVES).zip(message.chunks_exact_mut(MESSAGE / NOISE));
            for ((leaves, message), (seed, path)) in
                blocks.zip(seeds.as_chunks::<2>().0.iter().zip(paths.chunks_exact(DEPTH)))
            {
                let both: Vec<u128> = path.iter().flat_map(|q| [*q, q ^ delta]).collect();
                let pads = hash(permutation, &both);
                let mut nodes = vec![seed[0] as u128 | (seed[1] as u128) << 64];
                let mut words = message.as_chunks_mut::<16>().0.iter_mut();
                let mut say = |word: u128| {
                    if let Some(out) = words.next() {
                        *out = word.to_le_bytes();
                    }
                };
                for (level, pads) in pads.as_chunks::<2>().0.iter().enumerate() {
                    let (mut left, mut right) = children(permutation, &nodes);
                    if level + 1 == DEPTH {
                        left.iter_mut().chain(&mut right).for_each(|n| *n &= !mark);
                    }
                    say(sum(left.iter().copied()) ^ pads[0]);
                    say(sum(right.iter().copied()) ^ pads[1]);
                    nodes = left.iter().zip(&right).flat_map(|(l, r)| [*l, *r]).collect();
                }
                say(sum(nodes.iter().copied()) ^ delta);
                leaves.copy_from_slice(&nodes);
            }
        });
    matrix.add(secret, &mut out);
    (out, message)
}

/// The receiver's round: consumes `old`, returns the new transfers.
pub(super) fn receive(
    permutation: &Permutation,
    matrix: &Matrix,
    mark: u128,
    old: &[u128],
    message: &[u8],
) -> Vec<u128> {
    let (secret, paths) = old.split_at(SECRET);
    let mut out = vec![0; LENGTH];
    out.par_chunks_mut(TASK * LEAVES)
        .zip(message.par_chunks(TASK * MESSAGE / NOISE).zip(paths.par_chunks(TASK * DEPTH)))
        .for_each(|(out, (message, paths))| {
            let blocks = out.chunks_exact_mut(LEAVES).zip(message.chunks_exact(MESSAGE / NOISE));
            for ((leaves, message), path) in blocks.zip(paths.chunks_exact(DEPTH)) {
                let pads = hash(permutation, path);
                let words: Vec<u128> =
                    message.as_chunks::<16>().0.iter().map(|w| u128::from_le_bytes(*w)).collect();
                // The node on the secret path is kept at zero; `at` is its place.
                let (mut nodes, mut at) = (vec![0u128], 0usize);
                for (level, (pad, t)) in pads.iter().zip(path).enumerate() {
                    let side = usize::from(t & mark != 0);
                    let known = words[2 * level + side] ^ pad;
                    let (mut left, mut right) = children(permutation, &nodes);
                    (left[at], right[at]) = (0, 0);
                    if level + 1 == DEPTH {
                        left.iter_mut().chain(&mut right).for_each(|n| *n &= !mark);
                    }
                    let rest = [&left, &right][side].iter().copied();
                    let sibling = known ^ sum(rest);
                    nodes = left.iter().zip(&right).flat_map(|(l, r)| [*l, *r]).collect();
                    nodes[2 * at + side] = sibling;
                    at = 2 * at + 1 - side;
                }
                nodes[at] = words[2 * DEPTH] ^ sum(nodes.iter().copied());
                leaves.copy_from_slice(&nodes);
            }
        });
    matrix.add(secret, &mut out);
    out
}

//! Tables without a dealer: two parties make the keys that [`crate::gates::table`] evaluates.
//!
//! The mask is `r = place 2^l + low`, `place` the point of the key, `low < 2^l`.
//! 1. *Place*: the choices of random transfers, one a bit and direction, exclusive or. Its sum modulo 2^b by one transfer a bit.
//! 2. *Low*: `l_S + l_C - 2^l w`, the carry `w` by a comparison. `low^2` from `l_S l_C` and from `w (l_S + l_C)`.
//! 3. *Corrections*, level by level: the parties' trees agree in all nodes but the one on the path, where they differ by
//!    `delta = delta_S xor delta_C`. So `C_i = sum H(node)` over both parties' nodes, plus `(1 - a_i) delta`, whose shares are the transfers of step 1:
//!    no message beside the opened correction.
//! 4. *Last correction*: `payload - sum_S + sum_C` over all leaves' values, negated where the client's control bit at the point is set; that
//!    bit is the second lowest of the difference of the numbers of set control bits, and local as a share.
//! 5. `x + r` is opened, the gate is evaluated.
//!
//! Source: step 3 is the distributed generation of Guo et al., *Half-Tree* (ePrint 2022/1431), with the sums of Doerner and shelat (ePrint 2017/827)
//! instead of a known path, so that neither party knows the point.

use super::bits::{bytes, pack, unpack};
use super::engine::{Batch, Engine};
use super::ot::{Received, Sent};
use crate::circuit::Table;
use crate::error::Result;
use crate::fixed::low;
use crate::fss::{CHUNK, Tweak, dpf};
use crate::gates::{Evaluation, table};
use crate::prg::{Permutation, Seed};
use crate::role::Role;
use rayon::prelude::*;
use zeroize::Zeroizing;

/// Transfers that add up the bits of a place: the highest needs none.
pub(super) fn place(items: usize, bits: u32) -> Batch {
    Batch { items, widths: (1..bits).collect(), lanes: 1 }
}

/// Transfers of `l_S l_C` modulo 2^(2 bits), which is doubled.
pub(super) fn cross(items: usize, bits: u32) -> Batch {
    Batch { items, widths: (0..bits).map(|i| 2 * bits - i).collect(), lanes: 1 }
}

/// The point of every key: its bits as transfers, highest first.
struct Points {
    sent: Sent,
    received: Received,
}

/// Shares of the low part of the mask, and of the payload, word by word.
type Lows = (Zeroizing<Vec<u64>>, Vec<Vec<u64>>);

/// Keys `first ..` as far as their corrections are known, 16 bytes a key and section.
fn partial<'a, const M: usize>(
    roots: &'a [u8],
    levels: &'a [Vec<u8>],
    (first, count): (usize, usize),
) -> dpf::Keys<'a, M> {
    let part = 16 * first..16 * (first + count);
    let levels = levels.iter().map(|l| &l[part.clone()]).collect();
    dpf::Keys::partial(&roots[part.clone()], levels, count)
}

fn block(words: [u64; 2]) -> u128 {
    words[0] as u128 | (words[1] as u128) << 64
}

impl Engine<'_, '_> {
    /// Shares of the table at shared numbers of its input bits, modulo 2^width.
    pub(super) fn look_up(&mut self, x: &[u64], table: &Table, width: u32) -> Result<Vec<u64>> {
        let (b, n) = (table.index_bits, x.len());
        let l = table.input_bits - b;
        let words = table.degree() + 1;
        let count = n * b as usize;
        let points =
            Points { sent: self.transfers.send(count)?, received: self.transfers.receive(count)? };
        let bits: Vec<u8> =
            points.received.t.iter().map(|t| self.transfers.choice(*t) as u8).collect();
        let places = self.places(&bits, b as usize)?;
        let (lows, payload) = self.lows(n, table, width)?;
        let masks: Vec<u64> =
            places.iter().zip(lows.iter()).map(|(p, low)| (p << l).wrapping_add(*low)).collect();

        let session = self.transfers.session();
        let name = |context: &str| blake3::derive_key(context, session);
        let permutation = Permutation::new(&name("cipherform mpc 1 point functions"));
        // Known to both: the roots differ by delta, of which neither knows more than its part.
        let common = Seed(name("cipherform mpc 1 roots")).stream();
        let roots: Vec<u128> = common
            .words(self.transfers.draw(), 0, 2 * n)
            .as_chunks::<2>()
            .0
            .iter()
            .map(|w| block(*w) ^ self.transfers.delta())
            .collect();
        let roots: Vec<u8> = roots.iter().flat_map(|r| r.to_le_bytes()).collect();
        let keys = match words {
            1 => self.keys_of::<1>(&permutation, &roots, &points, &bits, &payload, width),
            2 => self.keys_of::<2>(&permutation, &roots, &points, &bits, &payload, width),
            _ => self.keys_of::<3>(&permutation, &roots, &points, &bits, &payload, width),
        }?;

        let opened: Vec<u64> = x.iter().zip(&masks).map(|(x, r)| x.wrapping_add(*r)).collect();
        let input = table.input_bits;
        let theirs = self.wire.exchange(&pack(&opened, input), bytes(n * input as usize))?;
        let theirs = unpack(&theirs, input, n);
        let c: Vec<u64> =
            opened.iter().zip(&theirs).map(|(a, b)| a.wrapping_add(*b) & low(input)).collect();
        let evaluation = Evaluation {
            permutation: &permutation,
            role: self.role(),
            id: 0,
            stream: &common,
            bytes: &keys,
        };
        Ok(table::evaluate_points(evaluation, &c, table))
    }

    /// Shares modulo 2^b of the numbers whose bits, highest first, are shared by exclusive or.
    fn places(&mut self, bits: &[u8], b: usize) -> Result<Vec<u64>> {
        let n = bits.len() / b;
        let batch = place(n, b as u32);
        let none = Batch::default();
        // Bit i of weight 2^(b - 1 - i) is needed modulo 2^(i + 1), its doubled product modulo 2^i.
        let after = |k: usize| bits[k / (b - 1).max(1) * b + 1 + k % (b - 1).max(1)];
        let count = n * (b - 1);
        let both = if self.role() == Role::Server {
            let values: Vec<u64> = (0..count).map(|k| after(k) as u64).collect();
            let [both, _] = self.products(&batch, &values, &none, &[])?;
            both
        } else {
            let choices: Vec<u8> = (0..count).map(after).collect();
            let [_, both] = self.products(&none, &[], &batch, &choices)?;
            both
        };
        let number = |item: usize| {
            (0..b).fold(0u64, |sum, i| {
                let product = if i == 0 { 0 } else { both[item * (b - 1) + i - 1] };
                let bit = (bits[item * b + i] as u64).wrapping_sub(product << 1);
                sum.wrapping_add(bit << (b - 1 - i))
            })
        };
        Ok((0..n).map(number).collect())
    }

    /// Shares of `low` (modulo 2^input) and of the payload `1, low, low^2`, as many words as the table's degree needs.
    fn lows(&mut self, n: usize, table: &Table, width: u32) -> Result<Lows> {
        let l = table.input_bits - table.index_bits;
        let one = vec![self.public(1); n];
        if l == 0 {
            let zero = vec![0; n];
            return Ok((Zeroizing::new(zero.clone()), vec![one, zero.clone(), zero]));
        }
        let own: Vec<u64> = self.transfers.random(n).iter().map(|r| r & low(l)).collect();
        let compared: Vec<u64> = match self.role() {
            Role::Server => own.clone(),
            Role::Client => own.iter().map(|x| low(l) - x).collect(),
        };
        let carry = self.greater(&compared, l, 1)?;
        let carries = self.number(&carry, table.index_bits.max(width.saturating_sub(l)).max(2))?;
        let lows: Vec<u64> =
            own.iter().zip(&carries).map(|(x, w)| x.wrapping_sub(w << l)).collect();
        let mut payload = vec![one, lows.clone()];
        if table.degree() > 1 {
            // (s - 2^l w)^2 = s^2 - 2^(l+1) w s + 2^(2l) w with s = l_S + l_C, below 2^(2l).
            let ring = 2 * l + 1;
            let (batch, none) = (cross(n, l), Batch::default());
            let products = if self.role() == Role::Server {
                let values: Vec<u64> =
                    own.iter().flat_map(|x| std::iter::repeat_n(*x, l as usize)).collect();
                let [products, _] = self.products(&batch, &values, &none, &[])?;
                products
            } else {
                let choices: Vec<u8> =
                    own.iter().flat_map(|x| (0..l).map(move |i| (x >> i & 1) as u8)).collect();
                let [_, products] = self.products(&none, &[], &batch, &choices)?;
                products
            };
            let wrapped = self.select(&carry, &own, 1, l)?;
            let square = |i: usize| {
                let row = products[i * l as usize..(i + 1) * l as usize].iter().enumerate();
                let both = row.fold(0u64, |sum, (bit, p)| sum.wrapping_add(p << bit));
                let sum = own[i].wrapping_mul(own[i]).wrapping_add(both << 1);
                let square = sum.wrapping_sub(wrapped[i] << (l + 1));
                square.wrapping_add(carries[i] << (2 * l)) & low(ring)
            };
            let squares: Vec<u64> = (0..n).map(square).collect();
            payload.push(self.extend(&squares, ring, width, false)?);
        }
        Ok((Zeroizing::new(lows), payload))
    }

    /// This party's keys, in chunks.
    fn keys_of<const M: usize>(
        &mut self,
        permutation: &Permutation,
        roots: &[u8],
        points: &Points,
        bits: &[u8],
        payload: &[Vec<u64>],
        width: u32,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let tweak = Tweak::instruction(0);
        let n = roots.len() / 16;
        let b = bits.len() / n.max(1);
        let (server, delta) = (self.role() == Role::Server, self.transfers.delta());
        let mut levels: Vec<Vec<u8>> = Vec::with_capacity(b);
        let chunks: Vec<(usize, usize)> =
            (0..n).step_by(CHUNK).map(|first| (first, CHUNK.min(n - first))).collect();
        let totals = |levels: &[Vec<u8>]| -> Vec<(dpf::Node, u64)> {
            chunks
                .par_iter()
                .flat_map_iter(|chunk| {
                    partial::<M>(roots, levels, *chunk).totals(permutation, tweak)
                })
                .collect()
        };
        for level in 0..b {
            let mine: Vec<u8> = totals(&levels)
                .iter()
                .enumerate()
                .flat_map(|(key, (sum, _))| {
                    let at = key * b + level;
                    // 1 - a: the server's bit is turned round, and the client's product with it.
                    let own = u128::from(bits[at] ^ u8::from(server)).wrapping_neg() & delta;
                    let turned = if server { 0 } else { delta };
                    let shared = points.sent.q[at] ^ points.received.t[at];
                    (block(*sum) ^ own ^ turned ^ shared).to_le_bytes()
                })
                .collect();
            let theirs = self.wire.exchange(&mine, mine.len())?;
            levels.push(mine.iter().zip(&theirs).map(|(a, b)| a ^ b).collect());
        }

        let set: Vec<u64> = totals(&levels).iter().map(|(_, set)| *set).collect();
        let signs: Vec<u8> =
            set.iter().map(|t| ((t >> 1 ^ if server { 0 } else { *t }) & 1) as u8).collect();
        let sums: Vec<[u64; M]> = chunks
            .par_iter()
            .flat_map_iter(|chunk| {
                let keys = partial::<M>(roots, &levels, *chunk);
                let mut out = vec![[0; M]; chunk.1];
                keys.expand(
                    permutation,
                    tweak,
                    |_, _| true,
                    |key, _, rows| {
                        out[key] = rows.map(|row| row.iter().fold(0u64, |s, w| s.wrapping_add(*w)));
                    },
                );
                out
            })
            .collect();
        let value = |key: usize, word: usize| {
            let (own, sum) = (payload[word][key], sums[key][word]);
            if server { own.wrapping_sub(sum) } else { own.wrapping_add(sum) }
        };
        let values: Vec<u64> = (0..n)
            .flat_map(|key| (0..M).map(move |word| (key, word)))
            .map(|(k, w)| value(k, w))
            .collect();
        let negative = self.select(&signs, &values, M, width - 1)?;
        let mine: Vec<u64> =
            values.iter().zip(&negative).map(|(v, n)| v.wrapping_sub(n << 1)).collect();
        let theirs = self.wire.exchange(&pack(&mine, width), bytes(mine.len() * width as usize))?;
        let last = mine.iter().zip(unpack(&theirs, width, mine.len()));
        let last: Vec<u64> = last.map(|(a, b)| a.wrapping_add(b) & low(width)).collect();

        let mut out = Zeroizing::new(Vec::with_capacity(n * dpf::key_bytes(b, M)));
        for (first, count) in chunks {
            for section in std::iter::once(roots).chain(levels.iter().map(Vec::as_slice)) {
                out.extend_from_slice(&section[16 * first..16 * (first + count)]);
            }
            // No payloads of blocks: they would cost more bytes than the points they spare cost time.
            out.extend(std::iter::repeat_n(0, 16 * count));
            out.extend(last[M * first..M * (first + count)].iter().flat_map(|w| w.to_le_bytes()));
        }
        Ok(out)
    }
}

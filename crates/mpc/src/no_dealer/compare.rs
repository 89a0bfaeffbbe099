//! Signs of shared numbers, and numbers against public points.
//!
//! `x = s + c` modulo 2^n, `s` at the server, `c` at the client. The top bit of `x` is that of `s`, of `c` and the carry of their low bits, and
//! the low bits carry exactly when `low(s) > 2^(n-1) - 1 - low(c)`: the millionaires' problem.
//! 1. Both cut their number into digits of 4 bits. For every digit the server learns, by one transfer of 1 out of 16 (from 4 of
//!    1 out of 2), the client's table of `(own digit > it, equal)` under two random bits that the client keeps as its share.
//! 2. Neighbours join, `(g, e) = (g_h xor e_h g_l, e_h e_l)`, in ceil(log2 digits) rounds.
//!
//! Points cost the client's longer tables and the joining only: a server's digit is transferred once for all points.
//!
//! Source: Rathee et al., *CrypTFlow2* (ePrint 2020/1002), section 3.1, with digits of 4 bits.

use super::bits::{Packer, Unpacker, bytes, pack, unpack};
use super::engine::Engine;
use crate::error::Result;
use crate::fixed::low;
use crate::role::Role;

/// Bits of a digit.
const DIGIT: u32 = 4;

/// Digits of numbers of `bits` bits.
pub(super) fn digits(bits: u32) -> usize {
    bits.div_ceil(DIGIT) as usize
}

/// Of 16 pairs of bits, those whose place has bit k set.
const PLACES: [u32; 4] = [0xCCCC_CCCC, 0xF0F0_F0F0, 0xFF00_FF00, 0xFFFF_0000];

/// `(v > digit, v = digit)` for v = 0 ... 15, two bits each.
fn table(digit: u32) -> u32 {
    let greater = 0x5555_5555_u64 << (2 * digit + 2);
    greater as u32 | 2 << (2 * digit)
}

impl Engine<'_, '_> {
    /// Shares (exclusive or) of `1[x < p]` for every public point `p`, all modulo 2^n: the top bit of `x - p`. In the order item, point.
    pub(super) fn below(&mut self, x: &[u64], n: u32, points: &[u64]) -> Result<Vec<u8>> {
        let half = low(n - 1);
        let top = |v: u64| (v >> (n - 1) & 1) as u8;
        if self.role() == Role::Server {
            let own: Vec<u64> = x.iter().map(|x| x & half).collect();
            let carries = self.greater(&own, n - 1, points.len())?;
            let tops = x.iter().flat_map(|x| std::iter::repeat_n(top(*x), points.len()));
            return Ok(carries.iter().zip(tops).map(|(c, t)| c ^ t).collect());
        }
        let shifted: Vec<u64> =
            x.iter().flat_map(|x| points.iter().map(move |p| x.wrapping_sub(*p))).collect();
        let own: Vec<u64> = shifted.iter().map(|v| half - (v & half)).collect();
        let carries = self.greater(&own, n - 1, points.len())?;
        Ok(carries.iter().zip(&shifted).map(|(c, v)| c ^ top(*v)).collect())
    }

    /// Shares of `1[a > b]`, `a` the server's numbers, `b` the client's, `lanes` for each of the server's.
    pub(super) fn greater(&mut self, own: &[u64], bits: u32, lanes: usize) -> Result<Vec<u8>> {
        let q = digits(bits);
        let mut nodes = if self.role() == Role::Server {
            self.choose(own, q, lanes)
        } else {
            self.offer(own, q, lanes)
        }?;
        let mut width = q;
        while width > 1 {
            let pairs = width / 2;
            let (mut x, mut y) = (Vec::new(), Vec::new());
            for element in nodes.chunks_exact(width) {
                for pair in element.as_chunks::<2>().0 {
                    x.push(pair[1] >> 1);
                    y.push(pair[0]);
                }
            }
            let joined = self.and(&x, &y)?;
            let elements = nodes.chunks_exact(width).zip(joined.chunks_exact(pairs));
            nodes = elements
                .flat_map(|(element, joined)| {
                    let high = element.iter().skip(1).step_by(2);
                    let pairs = joined.iter().zip(high).map(|(j, high)| j ^ high & 1);
                    pairs.chain(element.chunks_exact(2).remainder().iter().copied())
                })
                .collect();
            width = width.div_ceil(2);
        }
        Ok(nodes.iter().map(|node| node & 1).collect())
    }

    /// The server's half of the digits: bit 0 greater, bit 1 equal; in the order item, lane, digit, lowest digit first.
    fn choose(&mut self, own: &[u64], q: usize, lanes: usize) -> Result<Vec<u8>> {
        let received = self.transfers.receive(own.len() * q * DIGIT as usize)?;
        let bit = |i: usize| own[i / (4 * q)] >> (i % (4 * q)) & 1;
        let choices = received.t.iter().enumerate();
        let choices: Vec<u64> = choices.map(|(i, t)| self.transfers.choice(*t) ^ bit(i)).collect();
        let theirs = self
            .wire
            .exchange(&pack(&choices, 1), 0)
            .and_then(|_| self.wire.exchange(&[], bytes(32 * own.len() * q * lanes)))?;
        let pads = self.transfers.receiver_pads(&received, lanes.div_ceil(2));
        let mut message = Unpacker::new(&theirs);
        let mut nodes = vec![0; own.len() * lanes * q];
        for (item, own) in own.iter().enumerate() {
            for digit in 0..q {
                let place = own >> (DIGIT as usize * digit) & 15;
                let pads: [&[u64]; 4] =
                    std::array::from_fn(|k| pads.of(4 * (item * q + digit) + k));
                for lane in 0..lanes {
                    let pad = pads.iter().fold(0, |sum, pad| sum ^ half_word(pad, lane));
                    let pair = (message.next(32) as u32 ^ pad) >> (2 * place) & 3;
                    nodes[(item * lanes + lane) * q + digit] = pair as u8;
                }
            }
        }
        Ok(nodes)
    }

    /// The client's half.
    fn offer(&mut self, own: &[u64], q: usize, lanes: usize) -> Result<Vec<u8>> {
        let items = own.len() / lanes.max(1);
        let count = items * q * DIGIT as usize;
        let sent = self.transfers.send(count)?;
        let flips = self.wire.exchange(&[], bytes(count))?;
        let flips: Vec<u8> = unpack(&flips, 1, count).iter().map(|f| *f as u8).collect();
        let zero = self.transfers.sender_pads(&sent, &flips, false, lanes.div_ceil(2));
        let one = self.transfers.sender_pads(&sent, &flips, true, lanes.div_ceil(2));
        let random = self.transfers.random((own.len() * q).div_ceil(32));
        let mut message = Packer::with_bits(32 * own.len() * q);
        let mut nodes = vec![0; own.len() * q];
        for item in 0..items {
            for digit in 0..q {
                let first = 4 * (item * q + digit);
                for lane in 0..lanes {
                    let at = (item * lanes + lane) * q + digit;
                    let mask = random[at / 32] >> (2 * (at % 32)) & 3;
                    nodes[at] = mask as u8;
                    let digit = own[item * lanes + lane] >> (DIGIT as usize * digit) & 15;
                    let pad = PLACES.iter().enumerate().fold(0, |sum, (k, places)| {
                        let zero = half_word(zero.of(first + k), lane);
                        let one = half_word(one.of(first + k), lane);
                        sum ^ zero & !places ^ one & places
                    });
                    let masked = table(digit as u32) ^ (mask as u32 * 0x5555_5555) ^ pad;
                    message.push(masked as u64, 32);
                }
            }
        }
        self.wire.exchange(&message.finish(), 0)?;
        Ok(nodes)
    }
}

/// The `index`-th half of a row of words.
fn half_word(words: &[u64], index: usize) -> u32 {
    (words[index / 2] >> (32 * (index % 2))) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_hold_every_pair_of_digits() {
        for digit in 0..16u32 {
            for v in 0..16u32 {
                let want = u32::from(v > digit) | u32::from(v == digit) << 1;
                assert_eq!(table(digit) >> (2 * v) & 3, want, "{v} {digit}");
                for (k, places) in PLACES.iter().enumerate() {
                    assert_eq!(places >> (2 * v) & 1, v >> k & 1);
                }
            }
        }
    }
}

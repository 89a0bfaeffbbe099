//! Steps from transfers: products of a bit and a word, and of shared bits. Everything else is made of these.

use super::bits::{Packer, Unpacker, bytes, pack, unpack};
use super::ot::Transfers;
use super::wire::Wire;
use crate::error::Result;
use crate::fixed::low;
use crate::role::Role;

/// The transfers of one direction of a step: for every item one transfer a width, each with `lanes` words of that width.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub(super) items: usize,
    pub(super) widths: Vec<u32>,
    pub(super) lanes: usize,
}

impl Batch {
    /// One transfer an item, one word each.
    pub(super) fn single(items: usize, width: u32) -> Self {
        Self { items, widths: vec![width], lanes: 1 }
    }

    pub(super) fn transfers(&self) -> usize {
        self.items * self.widths.len()
    }

    /// Bytes of the sender's message.
    pub(super) fn payload(&self) -> usize {
        let bits: u32 = self.widths.iter().sum();
        bytes(self.items * self.lanes * bits as usize)
    }

    fn width(&self, transfer: usize) -> u32 {
        self.widths[transfer % self.widths.len()]
    }
}

/// One party's end of a run.
pub(super) struct Engine<'a, 'l> {
    pub(super) wire: &'a mut Wire<'l>,
    pub(super) transfers: &'a mut Transfers,
}

impl Engine<'_, '_> {
    pub(super) fn role(&self) -> Role {
        self.wire.role()
    }

    /// `x` at the server, 0 at the client.
    pub(super) fn public(&self, x: u64) -> u64 {
        self.role().public().wrapping_mul(x)
    }

    /// Shares of `b f`, for words `f` here and bits `b` of the peer, and the other way round; each modulo 2^(its width).
    ///
    /// 1. The receiver sends its bit plus the random choice of a transfer.
    /// 2. The sender sends `f + K_0 - K_1`, K the pads in the order of the receiver's bit; it keeps `-K_0`, the receiver has `K_0` or
    ///    `f + K_0`.
    ///
    /// `values` and the results are in the order item, width, lane; `bits` item, width. 2 rounds.
    pub(super) fn products(
        &mut self,
        sending: &Batch,
        values: &[u64],
        receiving: &Batch,
        bits: &[u8],
    ) -> Result<[Vec<u64>; 2]> {
        let sent = self.transfers.send(sending.transfers())?;
        let received = self.transfers.receive(receiving.transfers())?;
        let choices: Vec<u64> = received
            .t
            .iter()
            .zip(bits)
            .map(|(t, b)| self.transfers.choice(*t) ^ *b as u64)
            .collect();
        let flips = self.wire.exchange(&pack(&choices, 1), bytes(sending.transfers()))?;
        let flips: Vec<u8> =
            unpack(&flips, 1, sending.transfers()).iter().map(|f| *f as u8).collect();

        let zero = self.transfers.sender_pads(&sent, &flips, false, sending.lanes);
        let one = self.transfers.sender_pads(&sent, &flips, true, sending.lanes);
        let mut message = Packer::with_bits(8 * sending.payload());
        let mut mine = Vec::with_capacity(values.len());
        for (i, f) in values.chunks_exact(sending.lanes.max(1)).enumerate() {
            let width = sending.width(i);
            for ((f, zero), one) in f.iter().zip(zero.of(i)).zip(one.of(i)) {
                message.push(f.wrapping_add(*zero).wrapping_sub(*one), width);
                mine.push(zero.wrapping_neg() & low(width));
            }
        }
        let theirs = self.wire.exchange(&message.finish(), receiving.payload())?;
        let pads = self.transfers.receiver_pads(&received, receiving.lanes);
        let mut message = Unpacker::new(&theirs);
        let mut other = Vec::with_capacity(receiving.transfers() * receiving.lanes);
        for (i, b) in bits.iter().enumerate() {
            let width = receiving.width(i);
            let chosen = (*b as u64).wrapping_neg();
            for pad in &pads.of(i)[..receiving.lanes] {
                other.push(pad.wrapping_add(message.next(width) & chosen) & low(width));
            }
        }
        Ok([mine, other])
    }

    /// Shares (exclusive or) of `x y` for shared bits `x` and pairs of bits `y`.
    ///
    /// A transfer each way makes a triple without a message: the receiver's `a` is its choice, the sender's `b` the exclusive or
    /// of its pads. Then `x xor a` and `y xor b` are opened: 3 bits, 1 round.
    pub(super) fn and(&mut self, x: &[u8], y: &[u8]) -> Result<Vec<u8>> {
        let n = x.len();
        let sent = self.transfers.send(n)?;
        let received = self.transfers.receive(n)?;
        let plain = vec![0; n];
        let zero = self.transfers.sender_pads(&sent, &plain, false, 1);
        let one = self.transfers.sender_pads(&sent, &plain, true, 1);
        let got = self.transfers.receiver_pads(&received, 1);
        let both = |i: usize| {
            let b = (zero.of(i)[0] ^ one.of(i)[0]) & 3;
            let a = self.transfers.choice(received.t[i]);
            let product = (zero.of(i)[0] ^ got.of(i)[0] ^ b & a.wrapping_neg()) & 3;
            (a, b, product)
        };
        let triples: Vec<(u64, u64, u64)> = (0..n).map(both).collect();
        let opened = |((x, y), (a, b, _)): ((&u8, &u8), &(u64, u64, u64))| {
            (*x as u64 ^ a) | (*y as u64 ^ b) << 1
        };
        let mine: Vec<u64> = x.iter().zip(y).zip(&triples).map(opened).collect();
        let theirs = self.wire.exchange(&pack(&mine, 3), bytes(3 * n))?;
        let server = self.role().public();
        let results = mine.iter().zip(unpack(&theirs, 3, n)).zip(&triples);
        Ok(results
            .map(|((mine, theirs), (a, b, ab))| {
                let (x, y) = ((mine ^ theirs) & 1, (mine ^ theirs) >> 1);
                let (on_x, on_a) = (x.wrapping_neg(), a.wrapping_neg());
                ((y & on_x & server.wrapping_neg()) ^ (b & on_x) ^ (y & on_a) ^ ab) as u8
            })
            .collect())
    }
}

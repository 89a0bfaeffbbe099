//! Costs without a dealer, step by step as the protocols say: what the wire must show. Sizes of batches, layouts and digits are the code's own
//! functions; what is independent of the code are the wire, which tests hold against these counts, and the totals they pin.

use super::arithmetic::{extension, known_vector, multiplication};
use super::bits::bytes;
use super::compare::digits;
use super::engine::Batch;
use super::ot;
use super::table::{cross, place};
use crate::role::Role;

/// Payload bytes, transfers and rounds of one run without a dealer; all counts are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoDealerCost {
    /// Bytes the server sends, transfers included.
    pub server_sent: u64,
    /// Bytes the client sends, transfers included.
    pub client_sent: u64,
    /// Of these, what makes transfers ready, before the input is known; by sender.
    pub silent: [u64; 2],
    /// Random transfers used up, by sender: server, client.
    pub transfers: [u64; 2],
    /// Longest chain of dependent messages.
    pub rounds: u32,
}

impl NoDealerCost {
    /// Bytes either party sends once a connection, before the first run.
    #[must_use]
    pub fn setup_sent() -> u64 {
        ot::SETUP.0
    }

    /// Bytes `role` sends.
    #[must_use]
    pub fn sent(&self, role: Role) -> u64 {
        match role {
            Role::Server => self.server_sent,
            Role::Client => self.client_sent,
        }
    }
}

/// Counts the steps of a run.
#[derive(Default)]
pub(super) struct Tally {
    sent: [u64; 2],
    transfers: [u64; 2],
    /// Deepest message each party has seen or sent.
    depth: [u32; 2],
}

impl Tally {
    /// One step: what server and client send, 0 for nothing.
    pub(super) fn step(&mut self, sent: [usize; 2]) {
        let before = self.depth;
        for (party, bytes) in sent.into_iter().enumerate() {
            if bytes > 0 {
                self.sent[party] += bytes as u64;
                let depth = before[party] + 1;
                self.depth[party] = self.depth[party].max(depth);
                self.depth[1 - party] = self.depth[1 - party].max(depth);
            }
        }
    }

    /// Products of bits and words: one bit a transfer from its receiver, then the payload.
    pub(super) fn products(&mut self, by_server: &Batch, by_client: &Batch) {
        let (s, c) = (by_server.transfers(), by_client.transfers());
        self.transfers[0] += s as u64;
        self.transfers[1] += c as u64;
        self.step([bytes(c), bytes(s)]);
        self.step([by_server.payload(), by_client.payload()]);
    }

    /// n pairs of ands with one factor in common: 3 bits each way, a transfer each way.
    pub(super) fn and(&mut self, n: usize) {
        self.transfers[0] += n as u64;
        self.transfers[1] += n as u64;
        self.step([bytes(3 * n), bytes(3 * n)]);
    }

    /// n elements of `bits` bits against points: a digit 4 bits from the server and 32 a point from the client, who sends 4
    /// transfers; (digits - 1) ands a point in ceil(log2 digits) rounds.
    pub(super) fn below(&mut self, n: usize, bits: u32, points: usize) {
        self.greater(n, bits - 1, points);
    }

    /// Whether sums of n pairs of `bits` bits carry.
    fn carry(&mut self, n: usize, bits: u32) {
        self.greater(n, bits, 1);
    }

    fn greater(&mut self, n: usize, bits: u32, points: usize) {
        let q = digits(bits);
        self.transfers[1] += (4 * q * n) as u64;
        self.step([bytes(4 * q * n), 0]);
        self.step([0, bytes(32 * q * n * points)]);
        let mut width = q;
        while width > 1 {
            self.and(n * points * (width / 2));
            width = width.div_ceil(2);
        }
    }

    /// A transfer of (to - from) bits an element.
    pub(super) fn extend(&mut self, n: usize, from: u32, to: u32) {
        if to > from {
            self.products(&extension(n, from, to), &Batch::default());
        }
    }

    /// A transfer of (width - 1) bits an element.
    pub(super) fn number(&mut self, n: usize, width: u32) {
        self.products(&Batch::single(n, width - 1), &Batch::default());
    }

    /// A transfer each way of `lanes` words of `width` bits.
    pub(super) fn select(&mut self, n: usize, lanes: usize, width: u32) {
        let batch = Batch { items: n, widths: vec![width], lanes };
        self.products(&batch, &batch);
    }

    /// `width` transfers each way of width, width - 1, .. 1 bits, each `lanes` times.
    pub(super) fn multiply(&mut self, n: usize, lanes: usize, width: u32) {
        let batch = multiplication(n, lanes, width);
        self.products(&batch, &batch);
    }

    /// `width - 1` transfers from the server.
    pub(super) fn square(&mut self, n: usize, width: u32) {
        self.products(&multiplication(n, 1, width - 1), &Batch::default());
    }

    /// A known vector of `bits` bits times n lanes each: one direction, a transfer a bit of width, width - 1, ..
    pub(super) fn vector(&mut self, n: usize, lanes: usize, width: u32, bits: u32) {
        self.products(&Batch::default(), &known_vector(n, lanes, width, bits));
    }

    /// n look-ups of `input` bits in 2^index knots with `words` words of payload, results modulo 2^width: mask, keys, opening.
    pub(super) fn table(&mut self, n: usize, input: u32, index: u32, words: usize, width: u32) {
        let low = input - index;
        // Bits of the place, both ways, and their sum.
        self.transfers[0] += n as u64 * index as u64;
        self.transfers[1] += n as u64 * index as u64;
        self.products(&place(n, index), &Batch::default());
        if low > 0 {
            self.carry(n, low);
            self.number(n, index.max(width.saturating_sub(low)).max(2));
        }
        if words > 2 {
            self.products(&cross(n, low), &Batch::default());
            self.select(n, 1, low);
            self.extend(n, 2 * low + 1, width);
        }
        // A correction a level, the last ones with their sign.
        for _ in 0..index {
            self.step([16 * n, 16 * n]);
        }
        self.select(n, words, width - 1);
        let last = bytes(n * words * width as usize);
        self.step([last, last]);
        let opened = bytes(n * input as usize);
        self.step([opened, opened]);
    }

    /// `width` bits an element, from the party that learns nothing.
    pub(super) fn reveal(&mut self, n: usize, width: u32, to: Role) {
        let mut sent = [0; 2];
        sent[to.peer().index()] = bytes(n * width as usize);
        self.step(sent);
    }

    /// The sum, with the message that makes the transfers.
    pub(super) fn cost(&self) -> NoDealerCost {
        let silent = self.transfers.map(ot::silent_bytes);
        NoDealerCost {
            server_sent: self.sent[0] + silent[0],
            client_sent: self.sent[1] + silent[1],
            silent,
            transfers: self.transfers,
            rounds: self.depth[0].max(self.depth[1]) + u32::from(silent != [0; 2]),
        }
    }
}

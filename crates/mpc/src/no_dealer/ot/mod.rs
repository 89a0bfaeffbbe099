//! Random correlated transfers in both directions, the only secret material of the non-linear part.
//!
//! In a *transfer* the sender holds `q` and, the same for all, `delta`; the receiver holds `t = q xor c delta` for its random choice `c`. One
//! bit of a block, the direction's *mark*, is 0 in every `q` and 1 in `delta`, so that `t` carries its choice. From a transfer
//! both derive pads: the sender `H(q)` and `H(q xor delta)`, the receiver the one of its choice.
//!
//! The marks of the directions differ, which makes the lowest bit of `delta_S xor delta_C` one: [`super::table`] builds on it.

mod base;
mod extension;
mod silent;

use super::wire::Wire;
use crate::error::{Error, Result};
use crate::prg::{Permutation, Seed, Stream};
use crate::role::Role;
use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

/// Transfers from the extension: what the first silent round consumes, in whole words.
const FIRST: usize = silent::RESERVED.next_multiple_of(64);

/// Payload bytes either party sends, and rounds, to set up both directions.
pub(super) const SETUP: (u64, u32) =
    ((32 + base::POINT + base::COUNT * base::POINT) as u64 + (16 * FIRST) as u64, 3);

/// Silent rounds that `transfers` need.
pub(super) fn rounds_for(transfers: u64) -> u64 {
    transfers.div_ceil(silent::NET as u64)
}

/// Bytes the sender sends for `transfers`.
pub(super) fn silent_bytes(transfers: u64) -> u64 {
    rounds_for(transfers) * silent::MESSAGE as u64
}

/// The bit of a block that carries the choice when `sender` sends.
fn mark(sender: Role) -> u128 {
    1 << sender.index()
}

/// Blocks of one direction: what rounds start from, and what is left to take.
struct Pool {
    reserve: Vec<u128>,
    ready: Vec<u128>,
    /// Blocks handed out before: the index of the next one in its direction.
    taken: u64,
}

impl Pool {
    fn new(reserve: Vec<u128>) -> Self {
        Self { reserve, ready: Vec::new(), taken: 0 }
    }

    fn take(&mut self, count: usize) -> Result<(Zeroizing<Vec<u128>>, u64)> {
        let Some(left) = self.ready.len().checked_sub(count) else {
            return Err(Error::Exhausted { used: self.taken as usize });
        };
        let first = self.taken;
        self.taken += count as u64;
        let out = Zeroizing::new(self.ready.split_off(left));
        // What was handed out must not stay behind in the vector's spare room.
        self.ready.spare_capacity_mut().iter_mut().take(count).for_each(|w| {
            w.write(0);
        });
        Ok((out, first))
    }

    fn refill(&mut self, mut blocks: Vec<u128>) {
        self.reserve.zeroize();
        self.reserve = blocks.split_off(silent::NET);
        self.ready.append(&mut blocks);
    }

    /// Forgets what was not used: a run's cost does not depend on the run before.
    fn clear(&mut self) {
        self.ready.zeroize();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.reserve.zeroize();
        self.ready.zeroize();
    }
}

/// One party's end of both directions.
pub(super) struct Transfers {
    role: Role,
    delta: u128,
    sending: Pool,
    receiving: Pool,
    permutation: Permutation,
    matrix: silent::Matrix,
    /// This party's own randomness.
    own: Stream,
    draws: usize,
    /// Draws from randomness that both know.
    common: usize,
    /// Names the connection; both parties contributed to it.
    session: [u8; 32],
}

impl Drop for Transfers {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}

/// Transfers taken by the sender.
pub(super) struct Sent {
    pub(super) q: Zeroizing<Vec<u128>>,
    first: u64,
}

/// Transfers taken by the receiver.
pub(super) struct Received {
    pub(super) t: Zeroizing<Vec<u128>>,
    first: u64,
}

impl Transfers {
    /// Base transfers and one extension in both directions. 3 rounds, [`SETUP`] bytes each.
    pub(super) fn new(wire: &mut Wire<'_>, seed: &Seed) -> Result<Self> {
        let role = wire.role();
        let own = seed.stream();
        let offer = base::Offer::new(&own, 0);
        let contribution = own.words(1, 0, 4);
        let delta = own.words(2, 0, 2);
        let delta = delta[0] as u128 | (delta[1] as u128) << 64;
        let delta = delta & !mark(role.peer()) | mark(role);

        let mut hello: Vec<u8> = contribution.iter().flat_map(|w| w.to_le_bytes()).collect();
        hello.extend_from_slice(&offer.message);
        let theirs = wire.exchange(&hello, hello.len())?;
        let mut hasher = blake3::Hasher::new_derive_key("cipherform mpc 1 no dealer session");
        let (server, client) =
            if role == Role::Server { (&hello, &theirs) } else { (&theirs, &hello) };
        let session = *hasher.update(server).update(client).finalize().as_bytes();

        let (answer, chosen) = base::answer(&theirs[32..], delta, &own, 3)?;
        let answers = wire.exchange(&answer, answer.len())?;
        let both = offer.keys(&answers)?;
        let (mut t, choices, message) = extension::receive(&both, &own, 4, FIRST);
        let theirs = wire.exchange(&message, extension::message_bytes(FIRST))?;
        let mut q = extension::send(&chosen, delta, &theirs, FIRST);
        let (mine, other) = (mark(role), mark(role.peer()));
        for q in &mut q {
            *q &= !mine;
        }
        for (j, t) in t.iter_mut().enumerate() {
            let choice = (choices[j / 64] >> (j % 64) & 1) as u128;
            *t = *t & !other | choice.wrapping_neg() & other;
        }
        let choices = Zeroizing::new(choices);
        drop(choices);
        q.truncate(silent::RESERVED);
        t.truncate(silent::RESERVED);
        Ok(Self {
            role,
            delta,
            sending: Pool::new(q),
            receiving: Pool::new(t),
            permutation: Permutation::new(&blake3::derive_key(
                "cipherform mpc 1 transfers",
                &session,
            )),
            matrix: silent::Matrix::new(&session),
            own,
            draws: 5,
            common: 0,
            session,
        })
    }

    pub(super) fn session(&self) -> &[u8; 32] {
        &self.session
    }

    /// `delta` of the direction in which this party sends.
    pub(super) fn delta(&self) -> u128 {
        self.delta
    }

    /// The number of a draw from randomness that both parties know; they are in step.
    pub(super) fn draw(&mut self) -> usize {
        self.common += 1;
        self.common
    }

    /// Fresh random words of this party.
    pub(super) fn random(&mut self, count: usize) -> Zeroizing<Vec<u64>> {
        self.draws += 1;
        Zeroizing::new(self.own.words(self.draws, 0, count))
    }

    /// Makes at least `sending` and `receiving` transfers ready and no more than whole rounds; unused ones of before are forgotten. One round.
    pub(super) fn prepare(
        &mut self,
        wire: &mut Wire<'_>,
        sending: u64,
        receiving: u64,
    ) -> Result<()> {
        self.sending.clear();
        self.receiving.clear();
        let mine = mark(self.role);
        let mut message = Vec::with_capacity(silent_bytes(sending) as usize);
        for _ in 0..rounds_for(sending) {
            self.draws += 1;
            let (blocks, bytes) = silent::send(
                &self.permutation,
                &self.matrix,
                self.delta,
                mine,
                &self.sending.reserve,
                &self.own,
                self.draws,
            );
            self.sending.refill(blocks);
            message.extend_from_slice(&bytes);
        }
        let theirs = wire.exchange(&message, silent_bytes(receiving) as usize)?;
        for message in theirs.chunks_exact(silent::MESSAGE) {
            let other = mark(self.role.peer());
            let old = &self.receiving.reserve;
            let blocks = silent::receive(&self.permutation, &self.matrix, other, old, message);
            self.receiving.refill(blocks);
        }
        Ok(())
    }

    pub(super) fn send(&mut self, count: usize) -> Result<Sent> {
        let (q, first) = self.sending.take(count)?;
        Ok(Sent { q, first })
    }

    pub(super) fn receive(&mut self, count: usize) -> Result<Received> {
        let (t, first) = self.receiving.take(count)?;
        Ok(Received { t, first })
    }

    /// The random choice of a received transfer.
    pub(super) fn choice(&self, t: u128) -> u64 {
        u64::from(t & mark(self.role.peer()) != 0)
    }

    /// Pads of `words` words a transfer, for choice 0 where `flips` is 0, else for choice 1; `other` turns them round.
    pub(super) fn sender_pads(&self, sent: &Sent, flips: &[u8], other: bool, words: usize) -> Pads {
        let keys =
            sent.q.iter().zip(flips).map(|(q, f)| {
                q ^ (self.delta & u128::from((*f ^ u8::from(other)) & 1).wrapping_neg())
            });
        let keys: Zeroizing<Vec<u128>> = Zeroizing::new(keys.collect());
        Pads::new(&self.permutation, &keys, sent.first, self.role, words)
    }

    /// The pads of this receiver's choices.
    pub(super) fn receiver_pads(&self, received: &Received, words: usize) -> Pads {
        Pads::new(&self.permutation, &received.t, received.first, self.role.peer(), words)
    }
}

/// Transfers a task.
const RUN: usize = 512;

/// Pseudorandom words of transfers.
pub(super) struct Pads {
    words: Zeroizing<Vec<u64>>,
    stride: usize,
}

impl Pads {
    /// `H(key xor (index, block))`: a correlation-robust hash of blocks that differ by an unknown delta (Guo, Katz, Wang, Yu, ePrint 2019/074).
    fn new(
        permutation: &Permutation,
        keys: &[u128],
        first: u64,
        sender: Role,
        words: usize,
    ) -> Self {
        let blocks = words.div_ceil(2).max(1);
        let mut out = vec![0u64; 2 * blocks * keys.len()];
        out.par_chunks_mut(2 * blocks * RUN).zip(keys.par_chunks(RUN)).enumerate().for_each(
            |(run, (out, keys))| {
                let mut input = Zeroizing::new(Vec::with_capacity(out.len()));
                for (i, key) in keys.iter().enumerate() {
                    let index = first + (run * RUN + i) as u64;
                    let tweak = (index as u128) << 64 | (sender.index() as u128) << 32;
                    for block in 0..blocks {
                        let x = key ^ tweak ^ (block as u128) << 33;
                        input.extend([x as u64, (x >> 64) as u64]);
                    }
                }
                permutation.hash(&input, out);
            },
        );
        Self { words: Zeroizing::new(out), stride: 2 * blocks }
    }

    /// The words of transfer `i`.
    pub(super) fn of(&self, i: usize) -> &[u64] {
        &self.words[i * self.stride..(i + 1) * self.stride]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channel, Link, simulate};
    use std::time::Duration;

    /// Sets up both ends and prepares `count` transfers in both directions.
    fn ends(count: u64) -> [(Transfers, crate::Traffic); 2] {
        let [a, b] = Channel::pair();
        let end = |channel, role, seed| {
            let mut link = Link::new(channel, role, Duration::from_secs(20));
            let mut wire = Wire::new(&mut link);
            let mut transfers = Transfers::new(&mut wire, &Seed([seed; 32]))?;
            transfers.prepare(&mut wire, count, count)?;
            Ok((transfers, link.traffic()))
        };
        let (server, client) =
            simulate(|| end(a, Role::Server, 1), || end(b, Role::Client, 2)).unwrap();
        [server, client]
    }

    #[test]
    fn transfers_are_correlated_balanced_and_cost_what_they_say() {
        let count = silent::NET + 5;
        let [(mut server, traffic), (mut client, _)] = ends(count as u64);
        assert_eq!(traffic.sent, SETUP.0 + silent_bytes(count as u64));
        assert_eq!((traffic.rounds, rounds_for(count as u64)), (SETUP.1 + 1, 2));
        assert_eq!((server.delta ^ client.delta) & 1, 1);
        let (sent, received) = (server.send(count).unwrap(), client.receive(count).unwrap());
        let mut ones = 0u64;
        for (q, t) in sent.q.iter().zip(received.t.iter()) {
            let choice = client.choice(*t);
            ones += choice;
            assert_eq!(q ^ t, server.delta * u128::from(choice));
        }
        // Binomial with p = 1/2: 5 deviations.
        assert!((ones as f64 - count as f64 / 2.0).abs() < 2.5 * (count as f64).sqrt(), "{ones}");
        let mut sorted = sent.q.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), count);

        // Pads: the receiver's is the sender's for its choice.
        let (sent, received) = (client.send(1000).unwrap(), server.receive(1000).unwrap());
        let flips: Vec<u8> = (0..1000).map(|i| (i % 3 == 0) as u8).collect();
        let zero = client.sender_pads(&sent, &flips, false, 5);
        let one = client.sender_pads(&sent, &flips, true, 5);
        let got = server.receiver_pads(&received, 5);
        for (i, flip) in flips.iter().enumerate() {
            let chosen = server.choice(received.t[i]) as u8 ^ flip;
            let [same, other] = if chosen == 0 { [&zero, &one] } else { [&one, &zero] };
            assert_eq!(same.of(i)[..5], got.of(i)[..5]);
            assert!(other.of(i).iter().zip(got.of(i)).all(|(a, b)| a != b));
        }
        assert!(matches!(server.send(2 * silent::NET), Err(Error::Exhausted { .. })));
    }
}

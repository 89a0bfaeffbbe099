//! A dealer that is there: a third process with a channel to each party.
//!
//! 1. A party says version, role and plan; the dealer says the same of itself and gives the server the seed of the weight mask.
//! 2. Before a run each party asks, and gets its half. The dealer has made it before it is asked, while the run before was under way.
//! 3. It ends when a party leaves.
//!
//! It holds one link to each party and no way to the messages between them.

use crate::circuit::Circuit;
use crate::dealer::{Correlations, WeightMask, deal};
use crate::error::{Error, Result};
use crate::link::{DEALT, GREETING, Link};
use crate::party::hex;
use crate::prg::Seed;
use crate::role::Role;
use crate::session::VERSION;
use rand_core::CryptoRng;
use std::time::Duration;
use zeroize::Zeroizing;

const GREETING_BYTES: usize = 4 + 1 + 32;

fn greeting(circuit: &Circuit, role: Role) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    out.push(role.index() as u8);
    out.extend_from_slice(&circuit.hash());
    out
}

/// Refuses a dealer, or a party, of another version, role or plan.
fn check(ours: &[u8], theirs: &[u8]) -> Result<()> {
    for (what, range) in [("version", 0..4), ("role", 4..5), ("plan", 5..GREETING_BYTES)] {
        if ours[range.clone()] != theirs[range.clone()] {
            let (ours, theirs) = (hex(&ours[range.clone()]), hex(&theirs[range]));
            return Err(Error::Peer { what, ours, theirs });
        }
    }
    Ok(())
}

/// A party's end of its link to the dealer.
#[derive(Debug)]
pub struct LiveDealer {
    link: Link,
}

impl LiveDealer {
    /// Greets the dealer; the server gets the mask of its weights.
    ///
    /// # Errors
    /// [`Error::Peer`] when the dealer serves another plan; errors of the link.
    pub fn connect(circuit: &Circuit, mut link: Link) -> Result<(Self, Option<WeightMask>)> {
        let role = link.role();
        let ours = greeting(circuit, role);
        let seed = if role == Role::Server { 32 } else { 0 };
        let theirs = Zeroizing::new(link.exchange(GREETING, &ours, GREETING_BYTES + seed)?);
        let (theirs, seed) = theirs.split_at(GREETING_BYTES);
        check(&ours, theirs)?;
        let mask = seed.first_chunk().map(|seed| WeightMask(Seed(*seed)));
        Ok((Self { link }, mask))
    }

    /// The correlations of the next run.
    ///
    /// # Errors
    /// [`Error::Malformed`]; errors of the link.
    pub fn next(&mut self, circuit: &Circuit) -> Result<Correlations> {
        let role = self.link.role();
        let expected = Correlations::encoded_bytes(circuit, role);
        let all = Zeroizing::new(self.link.exchange(DEALT, &[1], expected)?);
        Correlations::decode(&all, circuit, role)
    }
}

/// Serves both parties, over a link whose role is the party's at the other end, until one of them leaves; returns the runs that both were
/// given correlations for. A party may take `idle` for a run and until its next one.
///
/// # Errors
/// [`Error::Peer`] for a party with another plan or role; [`Error::Disconnected`] when a party leaves between the halves of a run; errors of
/// the links.
///
/// # Security
/// As [`deal`]. The links must be protected and their ends known: what goes over them, both together, opens everything.
pub fn serve(
    circuit: &Circuit,
    mask: &WeightMask,
    mut links: [Link; 2],
    idle: Duration,
    rng: &mut impl CryptoRng,
) -> Result<usize> {
    for link in &mut links {
        let role = link.role();
        let ours = greeting(circuit, role);
        let theirs = link.exchange(GREETING, &[], GREETING_BYTES)?;
        check(&ours, &theirs)?;
        let seed = if role == Role::Server { &mask.0.0[..] } else { &[] };
        link.exchange(GREETING, &Zeroizing::new([&ours[..], seed].concat()), 0)?;
    }
    for run in 0.. {
        let halves = deal(circuit, mask, rng)?;
        for (i, link) in links.iter_mut().enumerate() {
            match link.exchange_within(idle, DEALT, &[], 1) {
                Err(Error::Disconnected { .. }) if i == 0 => return Ok(run),
                request => request?,
            };
            let half = &halves[link.role().index()];
            link.exchange(DEALT, &half.encode(), 0)?;
        }
    }
    Ok(0)
}

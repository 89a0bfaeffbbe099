//! Two parties without a dealer: oblivious transfers for what is not linear, on the circuits of dealer mode.
//!
//! A [`Pairing`] is made once a connection; [`run_without_dealer`] runs a [`NoDealerPlan`] over it. The result is that of dealer mode, with
//! other coins: roundings are as unbiased and as small (below one unit), tested against the same f64 functions.
//!
//! | what | protocol |
//! | --- | --- |
//! | random transfers | base transfers (ePrint 2015/267), extension (IKNP), then silent ones (Ferret, ePrint 2020/924) |
//! | truncation | local shift in a smaller ring, then extension of a value of known sign: one transfer an element |
//! | comparison | digits of 4 bits by transfers of 1 out of 16, joined by triples of bits |
//! | ReLU | comparison, selection by two transfers, extension |
//! | lines between knots | a comparison a knot, one product an element |
//! | matrix products | encryption of the client's half under a key of its own (ePrint 2022/207), replies flooded and made fresh |
//! | tables | keys of dealer mode's point functions, made together (half-tree, ePrint 2022/1431), then its gate on an opening |
//! | products of elements | one transfer a bit and direction; a factor that a row shares is transferred once |

mod arithmetic;
mod bits;
mod compare;
mod engine;
mod matrix;
mod ot;
mod party;
mod plan;
mod rlwe;
mod table;
mod tally;
mod wire;

pub use plan::NoDealerPlan;
pub use tally::NoDealerCost;

use crate::error::{Error, Result};
use crate::link::Link;
use crate::party::ServerModel;
use crate::prg::Seed;
use crate::role::Role;
use crate::session::greet;
use engine::Engine;
use ot::Transfers;
use rand_core::CryptoRng;
use std::time::Instant;
use wire::Wire;
use zeroize::Zeroizing;

/// What two parties share before they compute without a dealer: the secrets behind their transfers. One party's end; the other has
/// the matching one. Neither copied nor stored: a new connection makes a new one. It ends with a run that fails, as the ends no longer match.
pub struct Pairing {
    transfers: Option<Transfers>,
    /// Sum over runs of the statistical distance that their replies have from ones without the weights, at most.
    pub(crate) told: f64,
}

/// Largest [`Pairing`] sum of distances: 2^-10.
const TOLD: f64 = 1.0 / 1024.0;

impl std::fmt::Debug for Pairing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pairing")
    }
}

impl Pairing {
    /// Base transfers and their first extension, both ways: 3 rounds, [`NoDealerCost::setup_sent`] bytes from each party.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a message that is not a point of the group; errors of the link.
    pub fn new(link: &mut Link, rng: &mut impl CryptoRng) -> Result<Self> {
        let seed = Seed::random(rng);
        let transfers = Transfers::new(&mut Wire::new(link), &seed)?;
        Ok(Self { transfers: Some(transfers), told: 0.0 })
    }

    /// No run over it any more.
    pub(crate) fn end(&mut self) {
        self.transfers = None;
    }
}

/// Runs `plan` as the party that `link` belongs to. `model` are the server's tensors, of which the client has none; `inputs` and result as
/// in [`crate::run`].
///
/// # Errors
/// [`Error::Peer`] before any share has left, when the peer runs something else; [`Error::Input`] for a missing input, a server
/// without a model or a client with one; [`Error::Flooding`] after so many runs that their replies together could say something about the
/// weights; errors of the link; [`Error::Ended`] after any error.
pub fn run_without_dealer(
    plan: &NoDealerPlan<'_>,
    pairing: &mut Pairing,
    model: Option<&ServerModel>,
    inputs: &[Vec<u64>],
    link: &mut Link,
) -> Result<Vec<Vec<u64>>> {
    let role = link.role();
    if model.is_some() != (role == Role::Server) {
        let detail = format!("the {role} has {} model", if model.is_some() { "a" } else { "no" });
        return Err(Error::Input { what: "model", index: 0, detail });
    }
    // Another domain than dealer mode's: its plans have the same hash.
    let hash = blake3::derive_key("cipherform mpc 1 circuit without dealer", &plan.circuit.hash());
    begin(link, pairing, &hash)?;
    let start = Instant::now();
    let outputs = steps(plan, pairing, model, inputs, link)?;
    link.farewell(start.elapsed()).inspect_err(|_| pairing.end())?;
    Ok(outputs)
}

/// What the parties of a pairing compare when they begin.
pub(crate) fn begin(link: &mut Link, pairing: &mut Pairing, plan: &[u8; 32]) -> Result<()> {
    let role = link.role();
    let Some(transfers) = pairing.transfers.take() else { return Err(Error::Ended { role }) };
    greet(link, plan, transfers.session(), &[0; 16])?;
    pairing.transfers = Some(transfers);
    link.reset();
    Ok(())
}

/// A run between greeting and farewell.
pub(crate) fn steps(
    plan: &NoDealerPlan<'_>,
    pairing: &mut Pairing,
    model: Option<&ServerModel>,
    inputs: &[Vec<u64>],
    link: &mut Link,
) -> Result<Vec<Vec<u64>>> {
    let role = link.role();
    // Put back at the end: after a failure one party may have made transfers that the other has not.
    let Some(mut transfers) = pairing.transfers.take() else { return Err(Error::Ended { role }) };
    let told = pairing.told + plan.told_by_replies();
    if told > TOLD {
        return Err(Error::Flooding {
            runs: (pairing.told / plan.told_by_replies()).round() as u64,
        });
    }
    let mut wire = Wire::new(link);
    transfers.prepare(&mut wire, plan.transfers(role), plan.transfers(role.peer()))?;
    let mut engine = Engine { wire: &mut wire, transfers: &mut transfers };
    let keys = engine.keys(plan.sets(), plan.key_bytes())?;
    let party = party::Party {
        plan,
        engine,
        keys,
        model,
        inputs,
        cells: vec![Zeroizing::default(); plan.width.len()],
        outputs: Vec::new(),
    };
    let outputs = party.run()?;
    *pairing = Pairing { transfers: Some(transfers), told };
    Ok(outputs)
}

//! A run of a circuit between two parties.

use crate::circuit::Circuit;
use crate::dealer::Correlations;
use crate::error::{Error, Result};
use crate::link::{ANNOUNCE, GREETING, Link, SETUP};
use crate::party::{self, ClientModel, Model, Prepared, ServerModel, hex};
use crate::role::Role;
use std::time::Instant;

/// Version of frames and correlations.
pub(crate) const VERSION: u32 = 2;

const GREETING_BYTES: usize = 4 + 1 + 32 + 32 + 16;

fn greeting(role: Role, plan: &[u8; 32], nonce: &[u8; 32], mask: &[u8; 16]) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    out.push(role.index() as u8);
    out.extend_from_slice(plan);
    out.extend_from_slice(nonce);
    out.extend_from_slice(mask);
    out
}

/// Exchanges greetings and refuses a peer that runs something else. No share has left before this returns.
pub(crate) fn greet(
    link: &mut Link,
    plan: &[u8; 32],
    nonce: &[u8; 32],
    mask: &[u8; 16],
) -> Result<()> {
    let ours = greeting(link.role(), plan, nonce, mask);
    let theirs = link.exchange(GREETING, &ours, GREETING_BYTES)?;
    let expected = greeting(link.role().peer(), plan, nonce, mask);
    let fields = [
        ("version", 0..4),
        ("role", 4..5),
        ("plan", 5..37),
        ("correlations", 37..69),
        ("weight mask", 69..85),
    ];
    for (what, range) in fields {
        if theirs[range.clone()] != expected[range.clone()] {
            return Err(Error::Peer {
                what,
                ours: hex(&ours[range.clone()]),
                theirs: hex(&theirs[range]),
            });
        }
    }
    Ok(())
}

/// Sends the masked weights to the client: once a model and client, [`Circuit::setup_bytes`] bytes.
///
/// # Errors
/// [`Error::Peer`] when the client holds another plan; errors of the link.
pub fn send_model(circuit: &Circuit, model: &ServerModel, link: &mut Link) -> Result<()> {
    greet(link, &circuit.hash(), &[0; 32], &[0; 16])?;
    let masked = model.masked(circuit);
    let mut payload = masked.mask.to_vec();
    for word in masked.parameters.iter().flatten() {
        payload.extend_from_slice(&word.to_le_bytes());
    }
    link.exchange(SETUP, &payload, 0)?;
    Ok(())
}

/// Receives what [`send_model`] sends.
///
/// # Errors
/// [`Error::Peer`] when the server holds another plan; errors of the link.
pub fn receive_model(circuit: &Circuit, link: &mut Link) -> Result<ClientModel> {
    greet(link, &circuit.hash(), &[0; 32], &[0; 16])?;
    let expected = 16 + circuit.setup_bytes() as usize;
    let payload = link.exchange(SETUP, &[], expected)?;
    let (mask_bytes, words) = payload.split_at(16);
    let mut mask = [0; 16];
    mask.copy_from_slice(mask_bytes);
    let mut words = words.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w));
    let parameters = circuit.parameters.iter().map(|p| {
        let len = if p.masked { p.rows * p.stored_columns() } else { 0 };
        words.by_ref().take(len).collect()
    });
    Ok(ClientModel { parameters: parameters.collect(), mask })
}

/// Tells the server which correlations this run uses: the client speaks first, so that two stores that lost step find together.
///
/// # Errors
/// Errors of the link.
pub fn announce(correlations: &Correlations, link: &mut Link) -> Result<()> {
    link.exchange(ANNOUNCE, &correlations.nonce[..8], 0).map(|_| ())
}

/// The name of the correlations that the client announces; see [`crate::Store::take_named`].
///
/// # Errors
/// Errors of the link.
pub fn announced(link: &mut Link) -> Result<String> {
    Ok(hex(&link.exchange(ANNOUNCE, &[], 8)?))
}

/// Runs `circuit` as the party that `model` belongs to. `inputs` are this party's, in order, as integers at the scales of the circuit's
/// inputs; the result holds what was revealed to this party, in order of the reveals.
///
/// # Errors
/// [`Error::Peer`] before any share has left, when the peer has another plan, other correlations or the same role;
/// [`Error::Input`]; errors of the link. After an error the correlations are gone: a broken run is never repeated with them.
pub fn run(
    circuit: &Circuit,
    model: &Model<'_>,
    prepared: Prepared,
    inputs: &[Vec<u64>],
    link: &mut Link,
) -> Result<Vec<Vec<u64>>> {
    if model.role() != link.role() {
        return Err(Error::Peer {
            what: "role of the link",
            ours: model.role().to_string(),
            theirs: link.role().to_string(),
        });
    }
    greet(link, &circuit.hash(), &prepared.nonce(), &model.mask())?;
    link.reset();
    let start = Instant::now();
    let outputs = party::run(circuit, model, prepared, inputs, link)?;
    link.farewell(start.elapsed())?;
    Ok(outputs)
}

/// Runs both parties on two threads and returns what each made; the first error if one failed.
///
/// # Errors
/// The server's error, else the client's; [`Error::Ended`] for a party that panicked.
pub fn simulate<A: Send, B: Send>(
    server: impl FnOnce() -> Result<A> + Send,
    client: impl FnOnce() -> Result<B> + Send,
) -> Result<(A, B)> {
    std::thread::scope(|scope| {
        let server = scope.spawn(server);
        let client = client();
        let server = server.join().map_err(|_| Error::Ended { role: Role::Server })?;
        Ok((server?, client?))
    })
}

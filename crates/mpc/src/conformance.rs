//! What every channel must do, whatever carries it: the tests of memory, TCP, TLS and gRPC are this function.

use crate::channel::{Channel, Outgoing};
use crate::circuit::{Builder, Circuit};
use crate::dealer::{WeightMask, deal};
use crate::error::{Error, Result};
use crate::fixed::{decode_all, encode_all};
use crate::link::{HEADER, Link};
use crate::ops;
use crate::party::{ClientModel, Model, Prepared, ServerModel, Tensors};
use crate::role::Role;
use crate::session::{run, simulate};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// Checks connections that `connect` makes.
///
/// # Errors
/// What a channel returned where it should have worked.
///
/// # Panics
/// When a channel does something else than it should.
pub fn check(connect: impl Fn() -> Result<[Channel; 2]>) -> Result<()> {
    bytes_arrive_in_order_however_they_are_cut(&connect)?;
    both_may_send_at_once(&connect)?;
    silence_ends_at_the_deadline(&connect)?;
    who_leaves_is_heard_and_then_missed(&connect)?;
    who_dies_inside_a_frame_is_missed(&connect)?;
    a_garbled_frame_ends_both(&connect)?;
    another_plan_is_refused(&connect)?;
    a_run_costs_what_the_plan_says(&connect)
}

fn bytes_arrive_in_order_however_they_are_cut(
    connect: &impl Fn() -> Result<[Channel; 2]>,
) -> Result<()> {
    let [mut a, mut b] = connect()?;
    let deadline = Instant::now() + LONG;
    let all: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut got = vec![0; all.len()];
    std::thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| {
            let mut rest = &all[..];
            for size in [1, 31, 0, 4096, (1 << 20) + 1, usize::MAX] {
                let (piece, more) = rest.split_at(size.min(rest.len()));
                a.outgoing.send(piece.to_vec(), deadline)?;
                rest = more;
            }
            Ok(())
        });
        let mut rest = &mut got[..];
        for size in [7, 65_536, 1, usize::MAX] {
            let (piece, more) = rest.split_at_mut(size.min(rest.len()));
            b.incoming.receive(piece, deadline)?;
            rest = more;
        }
        sender.join().map_err(|_| Error::Disconnected { what: "a sender" })?
    })?;
    assert!(got == all, "bytes were lost or moved");
    Ok(())
}

fn both_may_send_at_once(connect: &impl Fn() -> Result<[Channel; 2]>) -> Result<()> {
    let [a, b] = connect()?;
    let big = |channel, role: Role| {
        let mut link = Link::new(channel, role, LONG);
        let payload = vec![role.index() as u8; 64 << 20];
        let theirs = link.exchange(1, &payload, payload.len())?;
        link.exchange(2, &[1], 1)?; // nobody leaves before the other has heard
        Ok(theirs)
    };
    let (server, client) = simulate(|| big(a, Role::Server), || big(b, Role::Client))?;
    assert!(server.iter().all(|x| *x == 1) && client.iter().all(|x| *x == 0));
    Ok(())
}

fn silence_ends_at_the_deadline(connect: &impl Fn() -> Result<[Channel; 2]>) -> Result<()> {
    let [a, b] = connect()?;
    let start = Instant::now();
    let heard = Link::new(a, Role::Server, SHORT).exchange(1, &[1], 1);
    assert!(matches!(heard, Err(Error::Timeout { .. })), "{heard:?}");
    assert!((SHORT..SHORT + LONG / 4).contains(&start.elapsed()), "{:?}", start.elapsed());
    drop(b);
    Ok(())
}

fn who_leaves_is_heard_and_then_missed(connect: &impl Fn() -> Result<[Channel; 2]>) -> Result<()> {
    let [a, b] = connect()?;
    let (missed, ()) = simulate(
        || {
            let mut link = Link::new(a, Role::Server, LONG);
            let said = link.exchange(1, &[], 3)?;
            assert!(said == [7, 8, 9], "{said:?}");
            let start = Instant::now();
            let missed = link.exchange(2, &[], 1);
            assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
            Ok(missed)
        },
        || Link::new(b, Role::Client, LONG).exchange(1, &[7, 8, 9], 0).map(|_| ()),
    )?;
    assert!(matches!(missed, Err(Error::Disconnected { .. })), "{missed:?}");
    Ok(())
}

fn a_run_costs_what_the_plan_says(connect: &impl Fn() -> Result<[Channel; 2]>) -> Result<()> {
    let parties = Parties::new(0.0)?;
    let [s, c] = connect()?;
    let (server, client) = parties.meet(&parties, s, c)?;
    server?;
    let out = client?;
    assert!(out.iter().all(|x| decode_all(x, 16, 64) == [0.0; 64]), "{out:?}");
    Ok(())
}

fn who_dies_inside_a_frame_is_missed(connect: &impl Fn() -> Result<[Channel; 2]>) -> Result<()> {
    let [mut a, b] = connect()?;
    let start = Instant::now();
    a.outgoing.send(vec![0; HEADER / 2], start + LONG)?;
    drop(a);
    let missed = Link::new(b, Role::Client, LONG).exchange(1, &[], 1);
    assert!(matches!(missed, Err(Error::Disconnected { .. })), "{missed:?}");
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    Ok(())
}

fn a_garbled_frame_ends_both(connect: &impl Fn() -> Result<[Channel; 2]>) -> Result<()> {
    let parties = Parties::new(0.0)?;
    let [s, c] = connect()?;
    // The server's first opening, in its payload.
    let fault = |mut f: Vec<u8>| {
        f[HEADER + 8] ^= 0x10;
        vec![f]
    };
    let faulty = Faulty { inner: Some(s.outgoing), at: 1, fault, sent: 0 };
    let start = Instant::now();
    let (server, client) = parties.meet(&parties, Channel::new(Box::new(faulty), s.incoming), c)?;
    assert!(matches!(client, Err(Error::Garbled { .. })), "{client:?}");
    assert!(matches!(server, Err(Error::Disconnected { .. })), "{server:?}");
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    Ok(())
}

fn another_plan_is_refused(connect: &impl Fn() -> Result<[Channel; 2]>) -> Result<()> {
    let [s, c] = connect()?;
    let start = Instant::now();
    let (server, client) = Parties::new(0.0)?.meet(&Parties::new(0.25)?, s, c)?;
    // Who reads the other's greeting first says why; the other may find it gone.
    let why = |e: &Error| matches!(e, Error::Peer { what: "plan", .. });
    let errors = [server.err(), client.err()];
    assert!(errors.iter().flatten().any(why), "{errors:?}");
    let ends = |e: &Error| why(e) || matches!(e, Error::Disconnected { .. });
    assert!(errors.iter().all(|e| e.as_ref().is_some_and(ends)), "{errors:?}");
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    Ok(())
}

type Output = Result<Vec<Vec<u64>>>;

/// Two parties with a small plan, which `added` tells from others.
struct Parties {
    circuit: Circuit,
    server: ServerModel,
    client: ClientModel,
}

impl Parties {
    fn new(added: f64) -> Result<Self> {
        let mut b = Builder::new();
        let x = b.input(Role::Client, &[64], 16, 3.0);
        let y = ops::relu(&mut b, x, 3)?;
        let y = b.add_public(y, added);
        b.reveal(y, Role::Client);
        let circuit = b.build();
        let mask = WeightMask::random(&mut ChaCha20Rng::seed_from_u64(1));
        let server = ServerModel::new(&circuit, &Tensors::new(), mask)?;
        let client = server.masked(&circuit);
        Ok(Self { circuit, server, client })
    }

    fn party(&self, role: Role, channel: Channel) -> Output {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let [for_server, for_client] = deal(&self.circuit, self.server.mask(), &mut rng)?;
        let (model, half, inputs) = match role {
            Role::Server => (Model::Server(&self.server), for_server, vec![]),
            Role::Client => {
                (Model::Client(&self.client), for_client, vec![encode_all(&[-1.5; 64], 16)])
            }
        };
        let mut link = Link::new(channel, role, LONG);
        let prepared = Prepared::new(&self.circuit, &model, half)?;
        let out = run(&self.circuit, &model, prepared, &inputs, &mut link)?;
        let (traffic, cost) = (link.traffic(), self.circuit.cost());
        assert!(traffic.sent == cost.sent(role) && traffic.received == cost.sent(role.peer()));
        assert!(traffic.rounds == cost.rounds, "{traffic:?} {cost:?}");
        Ok(out)
    }

    /// This server and `theirs` client.
    fn meet(&self, theirs: &Self, s: Channel, c: Channel) -> Result<(Output, Output)> {
        simulate(|| Ok(self.party(Role::Server, s)), || Ok(theirs.party(Role::Client, c)))
    }
}

/// What a fault does to the `n`-th message of a sender.
pub(crate) type Fault = fn(Vec<u8>) -> Vec<Vec<u8>>;

/// Hurts one message: number 0 is the greeting, 1 and 2 are openings.
pub(crate) struct Faulty {
    pub(crate) inner: Option<Box<dyn Outgoing>>,
    pub(crate) at: usize,
    pub(crate) fault: Fault,
    pub(crate) sent: usize,
}

impl Outgoing for Faulty {
    fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<()> {
        self.sent += 1;
        let messages = if self.sent == self.at + 1 { (self.fault)(bytes) } else { vec![bytes] };
        let hang_up = messages.is_empty();
        for message in messages {
            if let Some(inner) = &mut self.inner {
                inner.send(message, deadline)?;
            }
        }
        if hang_up {
            self.inner = None;
        }
        Ok(())
    }
}

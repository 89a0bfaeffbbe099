//! What every channel must do, whatever carries it: the tests of memory, TCP, TLS and gRPC are this function.

use crate::channel::Channel;
use crate::circuit::Builder;
use crate::dealer::{WeightMask, deal};
use crate::error::{Error, Result};
use crate::fixed::{decode_all, encode_all};
use crate::link::Link;
use crate::ops;
use crate::party::{Model, Prepared, ServerModel, Tensors};
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
    let mut b = Builder::new();
    let x = b.input(Role::Client, &[64], 16, 3.0);
    let y = ops::relu(&mut b, x, 3)?;
    b.reveal(y, Role::Client);
    let circuit = b.build();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let server = ServerModel::new(&circuit, &Tensors::new(), WeightMask::random(&mut rng))?;
    let client = server.masked(&circuit);
    let [for_server, for_client] = deal(&circuit, server.mask(), &mut rng)?;
    let inputs = [encode_all(&[-1.5; 64], 16)];
    let party = |channel, model: Model<'_>, half, inputs: &[Vec<u64>]| {
        let role = model.role();
        let mut link = Link::new(channel, role, LONG);
        let out = run(&circuit, &model, Prepared::new(&circuit, &model, half)?, inputs, &mut link)?;
        let (traffic, cost) = (link.traffic(), circuit.cost());
        assert!(traffic.sent == cost.sent(role) && traffic.received == cost.sent(role.peer()));
        assert!(traffic.rounds == cost.rounds, "{traffic:?} {cost:?}");
        Ok(out)
    };
    let [s, c] = connect()?;
    let (_, out) = simulate(
        || party(s, Model::Server(&server), for_server, &[]),
        || party(c, Model::Client(&client), for_client, &inputs),
    )?;
    assert!(out.iter().all(|x| decode_all(x, 16, 64) == [0.0; 64]), "{out:?}");
    Ok(())
}

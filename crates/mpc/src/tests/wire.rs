//! Faults on the wire, shaping, and both parties over sockets. Each fault ends both sides with a typed error inside the deadline.

use super::gates::fixed_rng;
pub(super) use crate::conformance::{Fault, Faulty};
use crate::*;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(super) const SHORT: Duration = Duration::from_millis(300);
pub(super) const LONG: Duration = Duration::from_secs(20);

pub(super) fn circuit(extra: f64) -> Circuit {
    let mut b = Builder::new();
    let x = b.input(Role::Client, &[64], 16, 3.0);
    let y = ops::relu(&mut b, x, 3).unwrap();
    let y = b.add_public(y, extra);
    let y = ops::relu(&mut b, y, 4).unwrap();
    b.reveal(y, Role::Client);
    b.build()
}

pub(super) struct Pair {
    circuit: Circuit,
    server: ServerModel,
    client: ClientModel,
}

impl Pair {
    pub(super) fn new(extra: f64) -> Self {
        let circuit = circuit(extra);
        let mask = WeightMask::random(&mut fixed_rng(50));
        let server = ServerModel::new(&circuit, &Tensors::new(), mask).unwrap();
        let client = server.masked(&circuit);
        Self { circuit, server, client }
    }

    pub(super) fn deal(&self, seed: u64) -> [Correlations; 2] {
        deal(&self.circuit, self.server.mask(), &mut fixed_rng(seed)).unwrap()
    }

    fn model(&self, role: Role) -> Model<'_> {
        match role {
            Role::Server => Model::Server(&self.server),
            Role::Client => Model::Client(&self.client),
        }
    }

    pub(super) fn party(
        &self,
        role: Role,
        c: Correlations,
        channel: Channel,
        deadline: Duration,
    ) -> Result<Traffic> {
        let mut link = Link::new(channel, role, deadline);
        self.over(&mut link, c)?;
        Ok(link.traffic())
    }

    fn over(&self, link: &mut Link, c: Correlations) -> Result<()> {
        let role = link.role();
        let model = self.model(role);
        let prepared = Prepared::new(&self.circuit, &model, c)?;
        let inputs = [encode_all(&[1.25; 64], 16)];
        let inputs = if role == Role::Client { &inputs[..] } else { &[] };
        let out = session::run(&self.circuit, &model, prepared, inputs, link)?;
        assert!(role == Role::Server || out[0].iter().all(|x| decode(*x, 16, 64) == 1.75));
        Ok(())
    }
}

type Expected = fn(&Error) -> bool;

fn with_fault(at: usize, fault: Fault) -> (Result<Traffic>, Result<Traffic>) {
    let pair = Pair::new(0.5);
    let [a, b] = Channel::pair();
    let faulty = Faulty { inner: Some(a.outgoing), at, fault, sent: 0 };
    let a = Channel::new(Box::new(faulty), a.incoming);
    let [s, c] = pair.deal(1);
    let start = Instant::now();
    let (server, client) = std::thread::scope(|scope| {
        let server = scope.spawn(|| pair.party(Role::Server, s, a, SHORT));
        let client = pair.party(Role::Client, c, b, SHORT);
        (server.join().unwrap(), client)
    });
    assert!(start.elapsed() < 4 * SHORT, "{:?}", start.elapsed());
    (server, client)
}

/// Any way in which a frame that is not what the plan says ends.
pub(super) fn is_refused(e: &Error) -> bool {
    is_cut(e) || matches!(e, Error::Frame { .. } | Error::Garbled { .. })
}

fn is_cut(e: &Error) -> bool {
    matches!(e, Error::Disconnected { .. } | Error::Timeout { .. })
}

#[test]
fn every_fault_of_a_sender_ends_both_parties_in_time() {
    let cases: [(Fault, Expected); 9] = [
        (|_| vec![], |e| matches!(e, Error::Disconnected { .. })),
        (|_| vec![Vec::new()], is_refused),
        (
            |mut f| {
                f.truncate(40);
                vec![f]
            },
            is_refused,
        ),
        (
            |mut f| {
                f.truncate(10);
                vec![f]
            },
            is_refused,
        ),
        (
            |mut f| {
                f[0] ^= 1;
                vec![f]
            },
            |e| matches!(e, Error::Frame { what: "length", .. }),
        ),
        (
            |mut f| {
                f[3] = 0xFF;
                vec![f]
            },
            |e| matches!(e, Error::Frame { what: "length", .. }),
        ),
        (
            |mut f| {
                f[4] ^= 1;
                vec![f]
            },
            |e| matches!(e, Error::Frame { what: "step", .. }),
        ),
        (
            |mut f| {
                f[8] ^= 3;
                vec![f]
            },
            |e| matches!(e, Error::Frame { what: "sequence", .. }),
        ),
        (
            |mut f| {
                f[40] ^= 0x10;
                vec![f]
            },
            |e| matches!(e, Error::Garbled { .. }),
        ),
    ];
    // Greeting, two openings, the result, farewell.
    for at in 0..=4 {
        for (i, (fault, expected)) in cases.iter().enumerate() {
            let (server, client) = with_fault(at, *fault);
            let error = client.unwrap_err();
            assert!(expected(&error), "case {i} at {at}: {error}");
            // Nobody answers a farewell: who spoke it last cannot know that it was not understood.
            let noticed = at == 4 || server.as_ref().err().is_some_and(is_cut);
            assert!(noticed, "case {i} at {at}: server {server:?}");
        }
    }
}

#[test]
fn a_replayed_frame_is_refused() {
    let (_, client) = with_fault(1, |f| vec![f.clone(), f]);
    assert!(matches!(client.unwrap_err(), Error::Frame { .. }));
}

/// Counts the bytes that leave.
struct Counting(Box<dyn Outgoing>, Arc<Mutex<usize>>);
impl Outgoing for Counting {
    fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<()> {
        *self.1.lock().unwrap() += bytes.len();
        self.0.send(bytes, deadline)
    }
}

#[test]
fn another_plan_other_correlations_or_the_same_role_are_refused_before_anything_is_shared() {
    let (ours, theirs) = (Pair::new(0.5), Pair::new(0.25));
    let count = Arc::new(Mutex::new(0));
    let [s, c] = ours.deal(2);
    let [_, other] = theirs.deal(2);
    let [_, later] = ours.deal(3);
    let run = |pair: &Pair, server: Correlations, client: Correlations| {
        *count.lock().unwrap() = 0;
        let [a, b] = Channel::pair();
        let wrap =
            |c: Channel| Channel::new(Box::new(Counting(c.outgoing, count.clone())), c.incoming);
        let (a, b) = (wrap(a), wrap(b));
        let results = std::thread::scope(|scope| {
            let server = scope.spawn(|| ours.party(Role::Server, server, a, SHORT));
            let client = pair.party(Role::Client, client, b, SHORT);
            [server.join().unwrap(), client]
        });
        // Two greetings and nothing else.
        assert!(*count.lock().unwrap() <= 2 * (HEADER + 85));
        // Who reads the other's greeting first says why; the other may find it gone.
        assert!(results.iter().any(|r| matches!(r, Err(Error::Peer { .. }))), "{results:?}");
        results
    };
    for result in run(&theirs, s, other) {
        assert!(matches!(
            result,
            Err(Error::Peer { what: "plan", .. } | Error::Disconnected { .. })
        ));
    }
    let [s, _] = ours.deal(2);
    for result in run(&ours, s, later) {
        assert!(matches!(
            result,
            Err(Error::Peer { what: "correlations", .. } | Error::Disconnected { .. })
        ));
    }
    // Correlations of the other role or plan do not even start.
    let [s, _] = theirs.deal(2);
    let model = ours.model(Role::Server);
    assert!(matches!(Prepared::new(&ours.circuit, &model, s), Err(Error::Peer { .. })));
    assert!(matches!(Prepared::new(&ours.circuit, &model, c), Err(Error::Peer { .. })));
}

#[test]
fn memory_and_tcp_are_channels() {
    conformance::check(|| Ok(Channel::pair())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    conformance::check(|| {
        let ends = simulate(
            || Channel::tcp_accept(&listener, LONG),
            || Channel::tcp_connect(address, LONG),
        );
        ends.map(<[Channel; 2]>::from)
    })
    .unwrap();
}

#[test]
fn a_dead_link_stays_dead() {
    let [a, b] = Channel::pair();
    drop(b);
    let mut link = Link::new(a, Role::Server, SHORT);
    assert!(link.exchange(1, &[1], 1).is_err());
    assert!(matches!(link.exchange(2, &[1], 1), Err(Error::Ended { role: Role::Server })));
}

#[test]
fn tcp_gives_the_same_counts_as_memory() {
    let pair = Pair::new(0.5);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let [s, c] = pair.deal(4);
    let (server, client) = simulate(
        || pair.party(Role::Server, s, Channel::tcp_accept(&listener, LONG)?, LONG),
        || pair.party(Role::Client, c, Channel::tcp_connect(address, LONG)?, LONG),
    )
    .unwrap();
    let [s, c] = pair.deal(5);
    let [a, b] = Channel::pair();
    let (in_memory, _) =
        simulate(|| pair.party(Role::Server, s, a, LONG), || pair.party(Role::Client, c, b, LONG))
            .unwrap();
    assert_eq!((server.sent, server.received), (in_memory.sent, in_memory.received));
    assert_eq!((server.sent, server.frames_sent), (client.received, client.frames_received));
}

#[test]
fn a_peer_that_leaves_a_socket_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let start = Instant::now();
    let (result, ()) = simulate(
        || {
            Ok(Link::new(Channel::tcp_accept(&listener, LONG)?, Role::Server, LONG).exchange(
                1,
                &[1],
                1,
            ))
        },
        || {
            drop(Channel::tcp_connect(address, LONG)?);
            Ok(())
        },
    )
    .unwrap();
    assert!(matches!(result, Err(Error::Disconnected { .. })) && start.elapsed() < LONG / 2);
    let nobody = Channel::tcp_accept(&listener, SHORT);
    assert!(matches!(nobody, Err(Error::Timeout { .. })));
}

#[test]
fn a_peer_that_reads_nothing_or_little_is_given_up_at_the_deadline() {
    use std::io::Read;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for reads in [false, true] {
        let start = Instant::now();
        let peer = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let mut little = vec![0; 1 << 16];
            // Every write of the sender makes progress: no time-out of a single one would end it.
            while start.elapsed() < 3 * SHORT {
                if reads && stream.read(&mut little).unwrap_or(0) == 0 {
                    return;
                }
                std::thread::sleep(SHORT / 20);
            }
        });
        let channel = Channel::tcp_accept(&listener, LONG).unwrap();
        let mut link = Link::new(channel, Role::Server, SHORT);
        let sent = link.exchange(1, &vec![0; 256 << 20], 0);
        let took = start.elapsed();
        assert!(matches!(sent, Err(Error::Timeout { .. })), "{reads} {sent:?}");
        // The copy and the checksum of 256 MiB come before the first write.
        assert!(took < 3 * SHORT + Duration::from_secs(2), "{took:?}");
        drop(link);
        peer.join().unwrap();
    }
}

#[test]
fn a_peer_cannot_invent_rounds() {
    let [a, b] = Channel::pair();
    let mut honest = Link::new(a, Role::Server, SHORT);
    let mut ahead = Link::new(b, Role::Client, SHORT);
    ahead.exchange(1, &[1], 0).unwrap();
    ahead.exchange(2, &[1], 0).unwrap();
    honest.exchange(1, &[], 1).unwrap();
    honest.exchange(2, &[], 1).unwrap();
    // Counters that were set back at one end only.
    honest.reset();
    ahead.exchange(3, &[1], 0).unwrap();
    let refused = honest.exchange(3, &[], 1);
    assert!(matches!(refused, Err(Error::Frame { .. })), "{refused:?}");
}

#[test]
fn the_shaper_delays_by_round_trip_and_bandwidth() {
    let network = Network { bandwidth: 100e6, one_way: Duration::from_millis(10) };
    let ping = |channel, role, times: u32, bytes: usize| {
        let mut link = Link::new(channel, role, LONG);
        let start = Instant::now();
        for i in 0..times {
            let payload = vec![0; bytes];
            if role == Role::Server {
                link.exchange(2 * i, &payload, 0)?;
                link.exchange(2 * i + 1, &[], bytes)?;
            } else {
                link.exchange(2 * i, &[], bytes)?;
                link.exchange(2 * i + 1, &payload, 0)?;
            }
        }
        Ok(start.elapsed())
    };
    let once = |times, bytes| {
        let [a, b] = Channel::pair().map(|c| c.shaped(network));
        let party = |channel, role| move || ping(channel, role, times, bytes);
        simulate(party(a, Role::Server), party(b, Role::Client)).unwrap().0.as_secs_f64()
    };
    for (times, bytes) in [(3, 64), (1, 1 << 20)] {
        let one_way = 0.01 + (bytes + HEADER) as f64 / 100e6;
        let ideal = 2.0 * times as f64 * one_way;
        // Other work on the machine delays, the network never hurries: one try in time is enough, none may be early.
        let in_time = (0..20).any(|_| {
            let seen = once(times, bytes);
            assert!(seen >= ideal, "{bytes}: {seen} {ideal}");
            seen < 1.25 * ideal
        });
        assert!(in_time, "{bytes}: {ideal}");
    }
}

#[test]
fn the_virtual_clock_is_the_sum_over_rounds() {
    let pair = Pair::new(0.5);
    let network = Network::WAN;
    let times: Vec<Duration> = (0..2)
        .map(|seed| {
            let [s, c] = pair.deal(seed);
            let [a, b] = Channel::pair();
            let party = |role, c, channel| {
                let mut link = Link::new(channel, role, LONG).with_virtual_network(network);
                pair.over(&mut link, c)?;
                Ok(link.traffic().network)
            };
            let (_, client) =
                simulate(|| party(Role::Server, s, a), || party(Role::Client, c, b)).unwrap();
            client
        })
        .collect();
    assert_eq!(times[0], times[1]);
    // Three messages in a row of 512 bytes and a header each.
    let ideal = 3.0 * (0.02 + (512 + HEADER) as f64 / 44e6);
    assert!((times[0].as_secs_f64() - ideal).abs() < 1e-6, "{:?} {ideal}", times[0]);
    assert_eq!(pair.circuit.network_time(network), times[0]);
}

#[test]
fn networks_parse() {
    assert_eq!("lan".parse::<Network>().unwrap(), Network::LAN);
    let n: Network = "10,125".parse().unwrap();
    assert_eq!((n.one_way, n.bandwidth), (Duration::from_millis(5), 125e6));
    for bad in ["", "fast", "10", "10,0", "-1,5", "nan,5", "10,1e-300", "10,1e300", "1e300,5"] {
        assert!(bad.parse::<Network>().is_err(), "{bad}");
    }
}

#[test]
fn stored_correlations_are_used_once() {
    let pair = Pair::new(0.5);
    let folder = tempfile::tempdir().unwrap();
    let mut stores =
        Role::BOTH.map(|role| Store::open(&folder.path().join(role.to_string())).unwrap());
    for seed in 0..2 {
        let dealt = pair.deal(seed);
        stores.iter().zip(&dealt).for_each(|(s, c)| s.put(c).unwrap());
        assert!(stores[0].put(&dealt[0]).is_err());
    }
    stores[0].put_mask(pair.server.mask()).unwrap();
    assert_eq!(stores[0].mask().unwrap(), *pair.server.mask());
    // The mask hides one set of weights, again and again, and no other.
    for _ in 0..2 {
        stores[0].bind_mask(&pair.server).unwrap();
    }
    let mut other = Pair::new(0.5).server;
    other.parameters.push(vec![1]);
    assert!(matches!(stores[0].bind_mask(&other), Err(Error::MaskUsed { .. })));
    assert_eq!(stores.each_ref().map(|s| s.remaining().unwrap()), [2, 2]);
    // A store opened again after a crash does not see what was taken.
    let s = stores[0].take(&pair.circuit, Role::Server).unwrap();
    let mut reopened = Store::open(&folder.path().join("client")).unwrap();
    let c = reopened.take(&pair.circuit, Role::Client).unwrap();
    let [a, b] = Channel::pair();
    simulate(|| pair.party(Role::Server, s, a, LONG), || pair.party(Role::Client, c, b, LONG))
        .unwrap();
    assert_eq!(stores[1].remaining().unwrap(), 1);

    // A damaged file is refused, and spent.
    let path =
        std::fs::read_dir(folder.path().join("client")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(stores[1].take(&pair.circuit, Role::Client), Err(Error::Malformed { .. })));
    assert!(matches!(
        stores[1].take(&pair.circuit, Role::Client),
        Err(Error::Exhausted { used: 1 })
    ));
    // The other role's, and a truncated file.
    assert!(matches!(stores[0].take(&pair.circuit, Role::Client), Err(Error::Malformed { .. })));
    assert!(matches!(
        stores[1].take_named("../server", &pair.circuit, Role::Client),
        Err(Error::Spent { .. })
    ));
}

/// Keeps a copy of what leaves.
struct Tapped(Box<dyn Outgoing>, Arc<Mutex<Vec<u8>>>);

impl Outgoing for Tapped {
    fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<()> {
        self.1.lock().unwrap().extend_from_slice(&bytes[HEADER..]);
        self.0.send(bytes, deadline)
    }
}

#[test]
fn openings_are_uniform_whatever_they_hide() {
    let n = 1 << 16;
    let mut b = Builder::new();
    let x = b.input(Role::Client, &[n], 16, 40.0);
    let m = b.open(x).unwrap();
    let y = b.lift(m, 8).unwrap();
    b.reveal(y, Role::Server);
    let circuit = b.build();
    let mask = WeightMask::random(&mut fixed_rng(70));
    let server = ServerModel::new(&circuit, &Tensors::new(), mask).unwrap();
    let client = server.masked(&circuit);
    // Zero, the largest value, and a ramp.
    let cases = [vec![0; n], vec![(1 << 56) - 1; n], (0..n as u64).map(|i| i << 20).collect()];
    for (seed, x) in cases.into_iter().enumerate() {
        let [s, c] = deal(&circuit, server.mask(), &mut fixed_rng(seed as u64)).unwrap();
        let tap = Arc::new(Mutex::new(Vec::new()));
        let [a, b] = Channel::pair();
        let b = Channel::new(Box::new(Tapped(b.outgoing, tap.clone())), b.incoming);
        let party = |channel, model: Model<'_>, half, inputs: &[Vec<u64>]| {
            let mut link = Link::new(channel, model.role(), LONG);
            let prepared = Prepared::new(&circuit, &model, half)?;
            session::run(&circuit, &model, prepared, inputs, &mut link)
        };
        simulate(
            || party(a, Model::Server(&server), s, &[]),
            || party(b, Model::Client(&client), c, &[x]),
        )
        .unwrap();
        // Greeting, then the opening; the shares of the result follow.
        let sent = tap.lock().unwrap();
        for byte in [0, 3, 7] {
            let mut bins = [0f64; 256];
            for word in sent[85..85 + 8 * n].as_chunks::<8>().0 {
                bins[word[byte] as usize] += 1.0;
            }
            let expected = n as f64 / 256.0;
            let chi2: f64 = bins.iter().map(|b| (b - expected).powi(2) / expected).sum();
            // 255 degrees of freedom: mean 255, deviation 22.6; five of them.
            assert!((chi2 - 255.0).abs() < 113.0, "byte {byte} of case {seed}: {chi2}");
        }
    }
}

#[test]
fn a_live_dealer_serves_both_until_they_leave() {
    let pair = Pair::new(0.5);
    let mask = WeightMask::random(&mut fixed_rng(50)); // the pair's
    let [[s, to_server], [c, to_client], [a, b]] = std::array::from_fn(|_| Channel::pair());
    let party = |role, dealer, peer| {
        let (mut dealer, mask) = LiveDealer::connect(&pair.circuit, Link::new(dealer, role, LONG))?;
        assert_eq!(mask.as_ref(), (role == Role::Server).then_some(pair.server.mask()));
        let mut link = Link::new(peer, role, LONG);
        (0..3).try_for_each(|_| pair.over(&mut link, dealer.next(&pair.circuit)?))
    };
    let serve = |circuit: &Circuit, [server, client]: [Channel; 2], seed| {
        let links = [(server, Role::Server), (client, Role::Client)];
        let links = links.map(|(channel, role)| Link::new(channel, role, LONG));
        serve(circuit, &mask, links, LONG, &mut fixed_rng(seed))
    };
    let served = std::thread::scope(|scope| {
        let dealer = scope.spawn(|| serve(&pair.circuit, [to_server, to_client], 51));
        simulate(|| party(Role::Server, s, a), || party(Role::Client, c, b)).unwrap();
        dealer.join().unwrap()
    });
    assert_eq!(served.unwrap(), 3);

    // Another plan, or the wrong party: refused before a seed is sent.
    let [[s, to_server], [c, to_client]] = std::array::from_fn(|_| Channel::pair());
    let other = Pair::new(0.25);
    let (served, refused) = std::thread::scope(|scope| {
        let dealer = scope.spawn(|| serve(&other.circuit, [to_server, to_client], 52));
        let refused = LiveDealer::connect(&pair.circuit, Link::new(s, Role::Server, LONG));
        drop(c);
        (dealer.join().unwrap(), refused.err())
    });
    assert!(matches!(served, Err(Error::Peer { what: "plan", .. })), "{served:?}");
    assert!(matches!(refused, Some(Error::Disconnected { .. })), "{refused:?}");
}

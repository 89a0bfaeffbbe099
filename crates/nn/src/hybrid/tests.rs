//! Crossings against f64, their bytes and rounds against the wire, and what a wrong peer is told.

use super::cross::{Passage, Side};
use super::{HybridClient, HybridPlan, HybridServer};
use crate::Error;
use crate::calibrate::MachineCosts;
use crate::exec::{ClearExecutor, Functions, Slots, execute};
use crate::program::{Crossing, Function, Parts};
use cipherform_ckks::{
    Context, Decryptor, Device, Encoder, Encryptor, KeyGenerator, PublicKey, SecretKey, presets,
};
use cipherform_mpc::{
    Builder, Channel, Circuit, Joint, Link, Network, NoDealerPlan, Pairing, Role, Traffic, simulate,
};
use num_complex::Complex64;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use std::time::Duration;

const FRACTION: u32 = 18;
/// Elements of the crossings of these tests: real and imaginary parts of the first 32 slots.
const ELEMENTS: u32 = 64;

struct World {
    context: Context,
    secret: SecretKey,
    public: PublicKey,
}

fn world() -> World {
    let context = Context::new(presets::get("toy11_lev").unwrap(), &Device::cpu()).unwrap();
    let generator = KeyGenerator::new(&context);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let secret = generator.secret_key(&mut rng).unwrap();
    let public = generator.public_key(&secret, &mut rng).unwrap();
    World { context, secret, public }
}

fn relu() -> Circuit {
    let mut b = Builder::new();
    let x = b.shared(&[ELEMENTS as usize], FRACTION, 2.0).unwrap();
    let y = cipherform_mpc::ops::relu(&mut b, x, 2).unwrap();
    b.keep(y);
    b.build()
}

/// Every element to its own part and to the one 64 slots on.
fn passage(world: &World, circuit: Option<Circuit>) -> Passage {
    let params = world.context.params();
    let read: Vec<u32> = (0..ELEMENTS).collect();
    let write = read.iter().flat_map(|&i| [(i, i), (i + 128, i)]).collect();
    let crossing = Crossing {
        parts: Parts { read, write },
        function: Function::Identity,
        factor_in: 2.0,
        factor_out: -0.75,
        log2_bound: 1.5,
    };
    Passage {
        crossing,
        circuit,
        entry: (1, params.scale_at(1)),
        exit: (3, params.scale_at(3)),
        fractions: (FRACTION, FRACTION),
    }
}

type Failed = cipherform_mpc::Error;

/// Both parties in one process; errors are texts, as threads of the engine carry its own.
fn both<A: Send, B: Send>(
    server: impl FnOnce(&mut Link, &mut Pairing, &mut ChaCha20Rng) -> Result<A, Error> + Send,
    client: impl FnOnce(&mut Link, &mut Pairing, &mut ChaCha20Rng) -> Result<B, Error> + Send,
) -> (Result<A, Error>, Result<B, Error>) {
    over(Channel::pair(), server, client)
}

/// The two ends of a connection over TCP.
fn tcp() -> [Channel; 2] {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, deadline) = (listener.local_addr().unwrap(), Duration::from_secs(20));
    std::thread::scope(|scope| {
        let there = scope.spawn(|| Channel::tcp_connect(address, deadline).unwrap());
        [Channel::tcp_accept(&listener, deadline).unwrap(), there.join().unwrap()]
    })
}

/// Both parties over these ends.
fn over<A: Send, B: Send>(
    [a, b]: [Channel; 2],
    server: impl FnOnce(&mut Link, &mut Pairing, &mut ChaCha20Rng) -> Result<A, Error> + Send,
    client: impl FnOnce(&mut Link, &mut Pairing, &mut ChaCha20Rng) -> Result<B, Error> + Send,
) -> (Result<A, Error>, Result<B, Error>) {
    let begin = |channel, role: Role| {
        let mut link = Link::new(channel, role, Duration::from_secs(20));
        let mut rng = ChaCha20Rng::seed_from_u64(5 + role.index() as u64);
        let pairing = Pairing::new(&mut link, &mut rng)?;
        Ok::<_, Failed>((link, pairing, rng))
    };
    simulate(
        || {
            let (mut link, mut pairing, mut rng) = begin(a, Role::Server)?;
            Ok(server(&mut link, &mut pairing, &mut rng))
        },
        || {
            let (mut link, mut pairing, mut rng) = begin(b, Role::Client)?;
            Ok(client(&mut link, &mut pairing, &mut rng))
        },
    )
    .unwrap()
}

fn slots(n: usize) -> Vec<Complex64> {
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let mut part = || (rng.next_u64() as f64 / 2f64.powi(63) - 1.0) * 1.9;
    (0..n).map(|_| Complex64::new(part(), part())).collect()
}

fn crossed(world: &World, passage: &Passage) -> (Vec<Complex64>, Vec<Complex64>, [Traffic; 2]) {
    let z = slots(world.context.params().slots());
    let encoder = Encoder::new(&world.context);
    let plain = encoder.encode(&z, 1, passage.entry.1).unwrap();
    let input = Encryptor::with_secret_key(&world.context, &world.secret)
        .unwrap()
        .encrypt(&plain, &mut ChaCha20Rng::seed_from_u64(3))
        .unwrap();
    let (server, client) = both(
        |link, pairing, rng| {
            let side = Side::new(&world.context);
            let mut joint = Joint::open(link, pairing, &[7; 32])?;
            let out = side.server(passage, &input, &world.public, &mut joint, rng)?;
            joint.close()?;
            Ok((out, link.traffic()))
        },
        |link, pairing, rng| {
            let side = Side::new(&world.context);
            let mut joint = Joint::open(link, pairing, &[7; 32])?;
            side.client(passage, &world.secret, &mut joint, rng)?;
            joint.close()?;
            Ok(link.traffic())
        },
    );
    let ((out, server), client) = (server.unwrap(), client.unwrap());
    assert_eq!((out.level(), out.scale()), passage.exit);
    let out = Decryptor::new(&world.context, &world.secret).unwrap().decrypt(&out).unwrap();
    (z, encoder.decode(&out).unwrap(), [server, client])
}

/// Ciphertext to shares, ReLU, ciphertext: within the units of both roundings; bytes and rounds as the formula says.
#[test]
fn relu_between_two_ciphertexts() {
    let world = world();
    for circuit in [Some(relu()), None] {
        let passage = passage(&world, circuit);
        let (z, out, [server, client]) = crossed(&world, &passage);
        let inner = passage.circuit.as_ref().map(|c| NoDealerPlan::new(c).unwrap().cost());
        let inner = inner.unwrap_or_default();
        let [down, up] = passage.seam_bytes(world.context.params()).unwrap();
        assert_eq!((server.sent, client.sent), (down + inner.server_sent, up + inner.client_sent));
        assert_eq!(server.rounds.max(client.rounds), inner.rounds + 2);
        let part = |z: &[Complex64], at: u32| {
            let slot = z[at as usize / 2];
            if at.is_multiple_of(2) { slot.re } else { slot.im }
        };
        let mut written = vec![false; 2 * z.len()];
        for &(to, element) in &passage.crossing.parts.write {
            written[to as usize] = true;
            let x = 2.0 * part(&z, element);
            let want = -0.75 * if passage.circuit.is_some() { x.max(0.0) } else { x };
            // A unit of the shares, the noise of two fresh encryptions (8 deviations of a slot, times the factors).
            let noise = 8.0 * 3.3 * 2048f64.sqrt() / 2f64.powi(40) * 2.5;
            let bound = 0.75 * 2f64.powi(-(FRACTION as i32)) + noise;
            assert!((part(&out, to) - want).abs() < bound, "{to} {want} {}", part(&out, to));
        }
        for (at, _) in written.iter().enumerate().filter(|(_, w)| !**w) {
            assert!(part(&out, at as u32).abs() < 1e-8, "{at}");
        }
    }
}

/// Uniform shares, even of a value that one party knew: what makes the second half of the crossing work.
#[test]
fn elements_that_would_wrap_get_fewer_bits() {
    assert_eq!(Passage::fraction(1, 0.0, 40), 34);
    assert_eq!(Passage::fraction(4096, 2.0, 40), 20);
    assert_eq!(Passage::fraction(4096, 2.0, 18), 18);
}

#[test]
fn a_peer_with_another_plan_is_refused() {
    let open = |plan: [u8; 32]| {
        move |link: &mut Link, pairing: &mut Pairing, _: &mut ChaCha20Rng| {
            Joint::open(link, pairing, &plan)?;
            Ok(link.traffic().sent)
        }
    };
    let (server, client) = both(open([1; 32]), open([2; 32]));
    for error in [server.unwrap_err(), client.unwrap_err()] {
        assert!(matches!(error, Error::Mpc(Failed::Peer { what: "plan", .. })), "{error}");
    }
}

#[test]
fn wrong_levels_and_short_messages_are_typed_errors() {
    let world = world();
    let passage = passage(&world, None);
    let encoder = Encoder::new(&world.context);
    let plain = encoder.encode(&[0.5], 2, world.context.params().scale_at(2)).unwrap();
    let encryptor = Encryptor::with_secret_key(&world.context, &world.secret).unwrap();
    let high = encryptor.encrypt(&plain, &mut ChaCha20Rng::seed_from_u64(3)).unwrap();
    // The server's ciphertext is not the plan's: refused before anything is sent.
    let (server, client) = both(
        |link, pairing, rng| {
            let mut joint = Joint::open(link, pairing, &[7; 32])?;
            Side::new(&world.context).server(&passage, &high, &world.public, &mut joint, rng)
        },
        |link, pairing, rng| {
            let mut joint = Joint::open(link, pairing, &[7; 32])?;
            Side::new(&world.context).client(&passage, &world.secret, &mut joint, rng)
        },
    );
    assert!(matches!(server.unwrap_err(), Error::WrongInputs { .. }));
    assert!(matches!(client.unwrap_err(), Error::Mpc(Failed::Disconnected { .. })));
    // A message of another length, then one of the right length that is no ciphertext.
    let length = passage.seam_bytes(world.context.params()).unwrap()[0] as usize;
    for garbled in [false, true] {
        let message = vec![1; if garbled { length } else { 100 }];
        let (_, client) = both(
            |link, pairing, _| Ok(Joint::open(link, pairing, &[7; 32])?.send(&message)?),
            |link, pairing, rng| {
                let mut joint = Joint::open(link, pairing, &[7; 32])?;
                Side::new(&world.context).client(&passage, &world.secret, &mut joint, rng)
            },
        );
        let error = client.unwrap_err();
        let expected = if garbled {
            matches!(error, Error::Ckks(cipherform_ckks::Error::Malformed { .. }))
        } else {
            matches!(error, Error::Mpc(Failed::Frame { what: "length", .. }))
        };
        assert!(expected, "{error}");
    }
}

fn shape(layers: usize) -> crate::Model {
    let shape = crate::RandomModel {
        tokens: 8,
        width: 16,
        heads: 2,
        ffn: 32,
        layers,
        classes: 4,
        scaled_heads: vec![1],
        ..crate::RandomModel::default()
    };
    shape.generate().unwrap()
}

/// A machine on which encrypted polynomials are dear, so that plans cross.
fn slow() -> MachineCosts {
    MachineCosts::nominal(16)
}

/// A model that is too deep for its set unless it crosses: logits against the clear model and against the program on exact slots, bytes and
/// rounds of every party against the plan, over TCP.
#[test]
fn a_model_runs_between_two_parties() {
    let model = shape(3);
    let context = Context::new(presets::get("toy11_deep").unwrap(), &Device::cpu()).unwrap();
    let server = HybridServer::new(&model, &context, &slow(), None).unwrap();
    let functions: Vec<&str> = server.plan().passages().iter().map(Passage::name).collect();
    assert!(functions.contains(&"cross.inverse_root"), "{functions:?}");
    let cost = server.plan().cost(context.params()).unwrap();
    let inputs: Vec<_> =
        (0..2).map(|i| crate::random_input(&model.config, 3, i).unwrap()).collect();
    let (served, got) = over(
        tcp(),
        |link, pairing, rng| {
            let session = server.setup(link, pairing)?;
            let setup = link.traffic().sent;
            let mut traffic = Vec::new();
            for _ in &inputs {
                server.infer(&session, link, pairing, rng)?;
                traffic.push(link.traffic());
            }
            Ok((setup, traffic))
        },
        |link, pairing, rng| {
            let client = HybridClient::setup(&context, link, pairing, rng)?;
            let setup = link.traffic().sent;
            let mut runs = Vec::new();
            for input in &inputs {
                runs.push((client.infer(input, link, pairing, rng)?, link.traffic()));
            }
            Ok((setup, runs))
        },
    );
    let ((server_setup, at_server), (client_setup, runs)) = (served.unwrap(), got.unwrap());
    assert_eq!([server_setup, client_setup], cost.setup);
    let clear = ClearExecutor::new(&model, Functions::Exact).unwrap();
    for ((input, (logits, traffic)), at_server) in inputs.iter().zip(&runs).zip(&at_server) {
        assert_eq!([at_server.sent, traffic.sent], cost.sent);
        assert_eq!(at_server.rounds.max(traffic.rounds), cost.rounds);
        let description = server.plan().description();
        let packed = description.encode(input).unwrap();
        let mut slots = Slots::new(server.program(), packed);
        let mut monitor = |_: &crate::Progress| std::ops::ControlFlow::Continue(());
        let exact = execute(server.program(), &mut slots, &[], &mut monitor).unwrap();
        let exact = description.decode(&exact[0]).unwrap();
        let clear = clear.run(input).unwrap();
        let distance =
            |a: &[f64]| a.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // Lines err by 2.5e-4 of what they give, at most, three layers in a row; measured 1.4e-4.
        assert!(
            distance(&exact) < 1e-3 && distance(&clear) < 1e-3,
            "{logits:?} {exact:?} {clear:?}"
        );
    }
}

/// The plan crosses where that is cheaper, and does not where the network makes it dear.
#[test]
fn the_network_decides_what_crosses() {
    let model = shape(1);
    let params = presets::get("toy11_deep").unwrap();
    let count =
        |network| HybridPlan::build(&model, &params, &slow(), network).unwrap().0.passages().len();
    let far = Network { bandwidth: 1e6, one_way: Duration::from_secs(30) };
    assert_eq!(count(Some(far)), 0);
    assert!(count(None) > 0);
}

#[test]
fn plans_from_outside_are_checked() {
    let model = shape(1);
    let params = presets::get("toy11_deep").unwrap();
    let (plan, _) = HybridPlan::build(&model, &params, &slow(), None).unwrap();
    let bytes = plan.to_bytes().unwrap();
    let read = HybridPlan::from_bytes(&bytes, &params).unwrap();
    assert_eq!(read.to_bytes().unwrap(), bytes);
    for cut in [0, 7, 8, 100, bytes.len() - 1] {
        assert!(HybridPlan::from_bytes(&bytes[..cut], &params).is_err(), "{cut}");
    }
    for (from, to) in [("\"factor_in\":", "\"factor_in\":-"), ("\"read\":[", "\"read\":[99999999,")]
    {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let crossings = String::from_utf8(bytes[8..8 + length as usize].to_vec()).unwrap();
        assert!(crossings.contains(from));
        let changed = crossings.replacen(from, to, 1);
        let mut out = (changed.len() as u64).to_le_bytes().to_vec();
        out.extend(changed.as_bytes());
        out.extend(&bytes[8 + length as usize..]);
        let error = HybridPlan::from_bytes(&out, &params).unwrap_err();
        assert!(matches!(error, Error::Malformed { what: "hybrid plan", .. }), "{error}");
    }
    let other = presets::get("toy11_lev").unwrap();
    assert!(HybridPlan::from_bytes(&bytes, &other).is_err());
}

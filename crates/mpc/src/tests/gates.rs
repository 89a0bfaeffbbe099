//! Every gate against the oracle, bit for bit, with both parties and the wire's counters.

use super::clear::clear;
use crate::*;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn fixed_rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// Runs both parties; checks the wire against the predicted cost and the results against the oracle; returns what was revealed to
/// the client, decoded.
pub(crate) fn both(
    circuit: &Circuit,
    tensors: &Tensors,
    inputs: &[Vec<u64>],
    seed: u64,
) -> Vec<Vec<f64>> {
    let mut rng = fixed_rng(seed);
    let mask = WeightMask::random(&mut rng);
    let server = ServerModel::new(circuit, tensors, mask).unwrap();
    let pair = deal(circuit, &server.mask, &mut rng).unwrap();
    let want = clear(circuit, &server, &pair, inputs);
    let offline = circuit.cost().offline;
    assert_eq!([pair[0].len() as u64, pair[1].len() as u64], [offline.server, offline.client]);
    let client = server.masked(circuit);
    let [a, b] = Channel::pair();
    let [server_half, client_half] = pair;
    let own = |role: Role| -> Vec<Vec<u64>> {
        let pairs = circuit.inputs.iter().zip(inputs);
        pairs.filter(|((owner, _), _)| *owner == role).map(|(_, x)| x.clone()).collect()
    };
    let party = |channel, model: Model<'_>, half| {
        let role = model.role();
        let mut link = Link::new(channel, role, DEADLINE);
        let prepared = Prepared::new(circuit, &model, half)?;
        let run = || session::run(circuit, &model, prepared, &own(role), &mut link);
        let (out, recording) = cipherform_profile::record(run);
        // Operator by operator: bytes each way, correlations, rounds.
        let header = cipherform_profile::Header::default();
        let report = cipherform_profile::Report::new(header, &[recording]).unwrap();
        let report = report.with_prediction(&circuit.prediction(role));
        assert_eq!(report.mismatches, []);
        Ok((out?, link.traffic()))
    };
    let ((out_s, traffic_s), (out_c, traffic_c)) = simulate(
        || party(a, Model::Server(&server), server_half),
        || party(b, Model::Client(&client), client_half),
    )
    .unwrap();
    let cost = circuit.cost();
    assert_eq!((traffic_s.sent, traffic_c.sent), (cost.server_sent, cost.client_sent));
    assert_eq!((traffic_s.received, traffic_c.received), (cost.client_sent, cost.server_sent));
    assert_eq!(traffic_s.rounds.max(traffic_c.rounds), cost.rounds);
    let mut outs = [out_s.into_iter(), out_c.into_iter()];
    circuit
        .outputs
        .iter()
        .map(|(to, id)| {
            let meta = &circuit.values[*id];
            let got = outs[to.index()].next().unwrap();
            let got: Vec<i64> = got.iter().map(|x| signed(*x, meta.ring)).collect();
            assert_eq!(got, want[*id], "output {id}");
            got.iter().map(|x| *x as f64 / (meta.scale as f64).exp2()).collect()
        })
        .collect()
}

fn uniform(rng: &mut impl Rng, n: usize, scale: u32, bound: f64) -> (Vec<f64>, Vec<u64>) {
    let x: Vec<f64> =
        (0..n).map(|_| (rng.next_u64() as f64 / 2f64.powi(63) - 1.0) * bound).collect();
    let words = encode_all(&x, scale);
    (decode_all(&words, scale, 64), words)
}

fn run1(
    build: impl FnOnce(&mut Builder, Share) -> Result<Share>,
    x: &[u64],
    scale: u32,
    log2: f64,
) -> Vec<f64> {
    let mut b = Builder::new();
    let input = b.input(Role::Client, &[x.len()], scale, log2);
    let out = build(&mut b, input).unwrap();
    b.reveal(out, Role::Client);
    both(&b.build(), &Tensors::new(), &[x.to_vec()], 1).remove(0)
}

#[test]
fn lift_rounds_within_one_unit() {
    let mut rng = fixed_rng(3);
    for (scale, drop, bound) in [(36, 18, 60.0), (55, 39, 60.0), (16, 0, 1e9)] {
        let (x, words) = uniform(&mut rng, 3000, scale, bound);
        let y =
            run1(|b, x| b.open(x).and_then(|m| b.lift(m, drop)), &words, scale, f64::log2(bound));
        let unit = ((scale - drop) as f64).exp2();
        let errors: Vec<f64> = y.iter().zip(&x).map(|(y, x)| (y - x) * unit).collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        assert!(errors.iter().all(|e| e.abs() < 1.0));
        // Standard deviation at most 0.41 units, so 5 sigma of the mean of 3000.
        assert!(mean.abs() < 5.0 * 0.41 / 3000f64.sqrt(), "{mean}");
    }
}

/// What an operator makes of values at a scale, below 2^log2.
pub(super) type Build = fn(&mut Builder, Share) -> Result<Share>;

/// Comparisons, whoever runs them.
pub(super) fn comparisons_are_exact(run: impl Fn(&[f64], u32, f64, Build) -> Vec<f64>) {
    let (mut x, _) = uniform(&mut fixed_rng(4), 2000, 16, 7.9);
    x[..4].copy_from_slice(&[0.0, -(2f64.powi(-16)), 2f64.powi(-16), 7.75]);
    let y = run(&x, 16, 3.0, |b, x| b.open(x).and_then(|m| b.relu(m, 0, 20)));
    assert!(y.iter().zip(&x).all(|(y, x)| *y == x.max(0.0)));
    let y = run(&x, 16, 3.0, |b, x| b.open(x).and_then(|m| b.relu(m, 5, 15)));
    assert!(y.iter().zip(&x).all(|(y, x)| (y - x.max(0.0)).abs() < 2f64.powi(-11)));
    let y = run(&x, 16, 3.0, |b, x| b.open(x).and_then(|m| b.sign(m, 0, 20)));
    assert!(y.iter().zip(&x).all(|(y, x)| *y == f64::from(*x >= 0.0)));
}

#[test]
fn relu_and_sign_are_exact_on_the_dropped_value() {
    comparisons_are_exact(|x, scale, log2, build| run1(build, &encode_all(x, scale), scale, log2));
}

#[test]
fn relu_after_shrunk_products_of_a_narrow_ring() {
    let mut rng = fixed_rng(5);
    let (x, xw) = uniform(&mut rng, 4 * 8, 42, 2.0);
    let (y, yw) = uniform(&mut rng, 8 * 5, 42, 2.0);
    let mut b = Builder::new();
    let (q, k) = (b.input(Role::Client, &[4, 8], 42, 1.0), b.input(Role::Server, &[8, 5], 42, 1.0));
    let (q, k) = (b.open(q).unwrap(), b.open(k).unwrap());
    let (q, k) = (b.shrink(q, 29).unwrap(), b.shrink(k, 29).unwrap());
    let s = b.matmul(q, k).unwrap();
    let s = b.calibrate(s, 5.0);
    let s = b.open(s).unwrap();
    let out = b.relu(s, 13, 19).unwrap();
    b.reveal(out, Role::Client);
    let circuit = b.build();
    // 5 bytes an element in a ring of 35 bits.
    assert_eq!(circuit.cost().client_sent, 8 * (32 + 40) + 5 * 20);
    let got = both(&circuit, &Tensors::new(), &[xw, yw], 6).remove(0);
    for (i, got) in got.iter().enumerate() {
        let want: f64 = (0..8).map(|p| x[i / 5 * 8 + p] * y[p * 5 + i % 5]).sum();
        assert!((got - want.max(0.0)).abs() < 8.0 * 2.0 * 2f64.powi(-12) * 2.0, "{got} {want}");
    }
}

#[test]
fn powers_tables_and_knots() {
    let mut rng = fixed_rng(7);
    let (x, words) = uniform(&mut rng, 500, 16, 3.9);
    for p in [2, 4, 6, 8] {
        let scale = (60 / p - 2).min(7);
        let power =
            |b: &mut Builder, x| b.open(x).and_then(|m| b.power(m, 16 - scale, scale + 4, p));
        let y = run1(power, &words, 16, 2.0);
        for (y, x) in y.iter().zip(&x) {
            let slack = p as f64 * 4f64.powi(p as i32 - 1) * 2f64.powi(-(scale as i32)) * 1.1;
            assert!((y - x.powi(p as i32)).abs() < slack, "{p}: {y} {x}");
        }
    }
    let table = Table::fit(f64::sin, (18, 15), 7, 2, 38).unwrap();
    let y = run1(|b, x| b.open(x).and_then(|m| b.table(m, &table)), &words, 16, 2.0);
    assert!(y.iter().zip(&x).all(|(y, x)| (y - x.sin()).abs() < 1e-4));
    let knots = Knots::fit(|x| 1.0 / x, (0.125, 4.0), 16, (19, 16), 36).unwrap();
    let positive: Vec<u64> = x.iter().map(|x| encode(x.abs() + 0.125, 16)).collect();
    let y = run1(|b, x| b.open(x).and_then(|m| b.knots(m, &knots)), &positive, 16, 2.0);
    for (y, x) in y.iter().zip(&x) {
        let x = x.abs() + 0.125;
        assert!((y * x - 1.0).abs() < 8e-4 || x > 3.99, "{y} {x}");
    }
}

#[test]
fn linear_layers_with_the_weights_at_the_server() {
    let mut rng = fixed_rng(8);
    let (x, words) = uniform(&mut rng, 6 * 10, 16, 4.0);
    let (w, _) = uniform(&mut rng, 10 * 7, 13, 1.0);
    let mut b = Builder::new();
    let input = b.input(Role::Client, &[6, 10], 16, 2.0);
    let weight = b.weight_with_mean("w", 10, 7, 13);
    let y = b.linear(input, weight, 6.0).unwrap();
    let y = b.open(y).unwrap();
    let y = b.lift(y, 13).unwrap();
    let y = b.add_server(y, "bias", 0.0);
    b.reveal(y, Role::Client);
    let circuit = b.build();
    let tensors = Tensors::from([("w".into(), w.clone()), ("bias".into(), vec![0.5; 8])]);
    assert_eq!(circuit.rounds(), 3);
    let got = both(&circuit, &tensors, &[words], 9).remove(0);
    for (i, got) in got.iter().enumerate() {
        let (row, col) = (i / 8, i % 8);
        let dot = |c: usize| (0..10).map(|p| x[row * 10 + p] * w[p * 7 + c]).sum::<f64>();
        let want = match col {
            7 => (0..7).map(dot).sum::<f64>() / 7.0 * 16.0,
            _ => dot(col),
        };
        assert!((got - 0.5 - want).abs() < 0.02, "{got} {want}");
    }
}

#[test]
fn sums_squares_products_views() {
    let mut rng = fixed_rng(10);
    let (x, words) = uniform(&mut rng, 3 * 4, 10, 4.0);
    let mut b = Builder::new();
    let input = b.input(Role::Client, &[3, 4], 10, 2.0);
    let m = b.open(input).unwrap();
    let squares = b.sum_squares(m);
    let t = b.view(m, View::of(&[3, 4]).permute(&[1, 0]).unwrap()).unwrap();
    let gram = b.matmul(m, t).unwrap();
    let same = b.mul(m, m).unwrap();
    let total = b.sum_last(same);
    let difference = b.sub(squares, total).unwrap();
    let first = b.view(gram, View::of(&[3, 3]).slice(1, 0, 1).unwrap()).unwrap();
    let joined = b.concat(&[difference, first, squares], 1).unwrap();
    let joined = b.times(joined, -3);
    let joined = b.add_public(joined, 1.0);
    b.reveal(joined, Role::Server);
    let got = both(&b.build(), &Tensors::new(), &[words], 11).remove(0);
    for (row, got) in got.chunks(3).enumerate() {
        let dot = |i: usize, j: usize| (0..4).map(|p| x[4 * i + p] * x[4 * j + p]).sum::<f64>();
        let want = [1.0, 1.0 - 3.0 * dot(row, 0), 1.0 - 3.0 * dot(row, row)];
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-9), "{got:?} {want:?}");
    }
}

#[test]
fn ranges_are_refused_when_the_circuit_is_written() {
    let mut b = Builder::new();
    let x = b.input(Role::Client, &[4], 55, 6.0);
    let m = b.open(x).unwrap();
    assert!(b.lift(m, 20).is_ok());
    assert!(matches!(b.relu(m, 40, 20), Err(Error::Range { op: "relu", .. })));
    let wide = b.input(Role::Client, &[4], 55, 9.0);
    assert!(matches!(b.open(wide), Err(Error::Range { op: "open", .. })));
    let edge = b.input(Role::Client, &[4], 55, 8.0);
    let edge = b.open(edge).unwrap();
    assert!(matches!(b.lift(edge, 20), Err(Error::Range { op: "lift", needed: 64, .. })));
    assert!(matches!(b.matmul(m, m), Err(Error::Shape { .. })));
    let other = b.input(Role::Client, &[4], 54, 1.0);
    assert!(matches!(b.add(x, other), Err(Error::Scale { .. })));
}

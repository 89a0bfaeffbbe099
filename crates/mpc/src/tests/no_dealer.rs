//! Without a dealer: every operator against f64, its cost against the wire.

use super::gates::fixed_rng;
use crate::ops::{self, Attention};
use crate::*;
use rand_core::Rng;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

/// Runs both parties; checks the wire against the plan's cost; returns what the client learnt, decoded.
fn both(circuit: &Circuit, tensors: &Tensors, inputs: &[Vec<u64>], seed: u64) -> Vec<Vec<f64>> {
    let mut rng = fixed_rng(seed);
    let model = ServerModel::new(circuit, tensors, WeightMask::random(&mut rng)).unwrap();
    let plan = NoDealerPlan::new(circuit).unwrap();
    let own = |role: Role| -> Vec<Vec<u64>> {
        let pairs = circuit.inputs.iter().zip(inputs);
        pairs.filter(|((owner, _), _)| *owner == role).map(|(_, x)| x.clone()).collect()
    };
    let party = |channel, role: Role| {
        let mut link = Link::new(channel, role, DEADLINE);
        let mut pairing = Pairing::new(&mut link, &mut fixed_rng(seed + 1 + role.index() as u64))?;
        assert_eq!(link.traffic().sent, NoDealerCost::setup_sent());
        let model = (role == Role::Server).then_some(&model);
        let out = run_without_dealer(&plan, &mut pairing, model, &own(role), &mut link)?;
        Ok((out, link.traffic()))
    };
    let [a, b] = Channel::pair();
    let ((_, server), (out, client)) =
        simulate(|| party(a, Role::Server), || party(b, Role::Client)).unwrap();
    let cost = plan.cost();
    assert_eq!((server.sent, client.sent), (cost.server_sent, cost.client_sent));
    assert_eq!((server.received, client.received), (cost.client_sent, cost.server_sent));
    assert_eq!(server.rounds.max(client.rounds), cost.rounds);
    let outputs = circuit.outputs.iter().filter(|(to, _)| *to == Role::Client);
    outputs.zip(out).map(|((_, id), x)| decode_all(&x, circuit.values[*id].scale, 64)).collect()
}

fn uniform(rng: &mut impl Rng, n: usize, scale: u32, bound: f64) -> (Vec<f64>, Vec<u64>) {
    let x: Vec<f64> =
        (0..n).map(|_| (rng.next_u64() as f64 / 2f64.powi(63) - 1.0) * bound).collect();
    let words = encode_all(&x, scale);
    (decode_all(&words, scale, 64), words)
}

/// One operator on shares that neither party knows: the sum of an input of each.
fn run1(
    x: &[f64],
    scale: u32,
    log2: f64,
    build: impl FnOnce(&mut Builder, Share) -> Result<Share>,
) -> Vec<f64> {
    let mut b = Builder::new();
    let shape = [x.len()];
    let (s, c) = (b.input(Role::Server, &shape, scale, log2), b.input(Role::Client, &shape, scale, log2));
    let sum = b.add(s, c).unwrap();
    let sum = b.calibrate(sum, log2);
    let y = build(&mut b, sum).unwrap();
    b.reveal(y, Role::Client);
    let mut rng = fixed_rng(77);
    let mask: Vec<u64> = x.iter().map(|_| rng.next_u64()).collect();
    let rest = x.iter().zip(&mask).map(|(x, m)| encode(*x, scale).wrapping_sub(*m)).collect();
    both(&b.build(), &Tensors::new(), &[mask, rest], 5).remove(0)
}

#[test]
fn truncation_rounds_below_one_unit_without_bias() {
    let mut rng = fixed_rng(1);
    for (scale, drop, bound) in [(36, 18, 60.0), (50, 34, 60.0), (16, 0, 1e9)] {
        let (x, _) = uniform(&mut rng, 3000, scale, bound);
        let y = run1(&x, scale, f64::log2(bound), |b, x| b.open(x).and_then(|m| b.lift(m, drop)));
        let unit = ((scale - drop) as f64).exp2();
        let errors: Vec<f64> = y.iter().zip(&x).map(|(y, x)| (y - x) * unit).collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        assert!(errors.iter().all(|e| e.abs() < 1.0));
        // The difference of two uniform fractions less what is lost: deviation at most 0.41 units; 5 sigma of the mean.
        assert!(mean.abs() < 5.0 * 0.41 / 3000f64.sqrt(), "{mean}");
    }
}

#[test]
fn comparisons_are_exact() {
    let mut rng = fixed_rng(2);
    let (mut x, _) = uniform(&mut rng, 2000, 16, 7.9);
    x[..4].copy_from_slice(&[0.0, -(2f64.powi(-16)), 2f64.powi(-16), 7.75]);
    let y = run1(&x, 16, 3.0, |b, x| b.open(x).and_then(|m| b.relu(m, 0, 20)));
    assert!(y.iter().zip(&x).all(|(y, x)| *y == x.max(0.0)));
    let y = run1(&x, 16, 3.0, |b, x| b.open(x).and_then(|m| b.relu(m, 5, 15)));
    assert!(y.iter().zip(&x).all(|(y, x)| (y - x.max(0.0)).abs() < 2f64.powi(-11)));
    let y = run1(&x, 16, 3.0, |b, x| b.open(x).and_then(|m| b.sign(m, 0, 20)));
    assert!(y.iter().zip(&x).all(|(y, x)| *y == f64::from(*x >= 0.0)));
}

#[test]
fn powers_knots_products() {
    let mut rng = fixed_rng(3);
    let (x, _) = uniform(&mut rng, 300, 16, 3.9);
    for p in [2, 3, 4, 6, 8] {
        let scale = (60 / p - 2).min(7);
        let y = run1(&x, 16, 2.0, |b, x| {
            b.open(x).and_then(|m| b.power(m, 16 - scale, scale + 4, p))
        });
        for (y, x) in y.iter().zip(&x) {
            let slack = p as f64 * 4f64.powi(p as i32 - 1) * 2f64.powi(-(scale as i32)) * 1.1;
            assert!((y - x.powi(p as i32)).abs() < slack, "{p}: {y} {x}");
        }
    }
    let knots = Knots::fit(|x| 1.0 / x, (0.125, 4.0), 16, (19, 16), 36).unwrap();
    let positive: Vec<f64> = x.iter().map(|x| x.abs() * 0.95 + 0.125).collect();
    let y = run1(&positive, 16, 2.0, |b, x| b.open(x).and_then(|m| b.knots(m, &knots)));
    assert!(y.iter().zip(&positive).all(|(y, x)| (y * x - 1.0).abs() < 8e-4));
    let y = run1(&x, 16, 2.0, |b, x| ops::multiply(b, x, x));
    assert!(y.iter().zip(&x).all(|(y, x)| (y - x * x).abs() < 2f64.powi(-15)));
}

#[test]
fn layer_norm_and_relu_softmax_follow_f64() {
    let mut rng = fixed_rng(4);
    let (t, d) = (5, 32);
    let (x, words) = uniform(&mut rng, t * d, 16, 3.0);
    let mut b = Builder::new();
    let input = b.input(Role::Client, &[t, d], 16, 2.0);
    let z = ops::layer_norm(&mut b, input, 1e-5).unwrap();
    b.reveal(z, Role::Client);
    let z = both(&b.build(), &Tensors::new(), &[words], 9).remove(0);
    for (row, z) in x.chunks(d).zip(z.chunks(d)) {
        let mean = row.iter().sum::<f64>() / d as f64;
        let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
        for (x, z) in row.iter().zip(z) {
            let want = (x - mean) / (var + 1e-5).sqrt();
            assert!((z - want).abs() < 2e-4 * want.abs() + 2f64.powi(-13) * (x - mean).abs() + 2f64.powi(-14), "{z} {want}");
        }
    }
    let (rows, tokens) = (6, 17);
    let (s, words) = uniform(&mut rng, rows * tokens, 16, 3.0);
    for (kind, bound) in [(Attention::ReluSoftmax, 3e-4), (Attention::Power(2), 8e-4)] {
        let mut b = Builder::new();
        let input = b.input(Role::Client, &[rows, tokens], 16, 2.0);
        let p = ops::softmax(&mut b, input, kind, 0.125).unwrap();
        b.reveal(p, Role::Client);
        let p = both(&b.build(), &Tensors::new(), &[words.clone()], 10).remove(0);
        let f = |s: &f64| if kind == Attention::ReluSoftmax { s.max(0.0) } else { s * s / 4.0 };
        for (s, p) in s.chunks(tokens).zip(p.chunks(tokens)) {
            let sum = s.iter().map(f).sum::<f64>() + 0.125;
            for (s, p) in s.iter().zip(p) {
                assert!((p - f(s) / sum).abs() < bound, "{kind:?} {p} {}", f(s) / sum);
            }
        }
    }
}

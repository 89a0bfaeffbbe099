//! Measured noise against the predictions of `noise`.
//!
//! | test | what it proves |
//! |---|---|
//! | `encodings` | rounding of full and of periodic vectors |
//! | `fresh_encryptions` | both encryptors |
//! | `key_switches` | relinearization, rotation, hoisting, conjugation at levels with one and several digits |
//! | `every_operation` | each operation of the evaluator against the method of the same name |
//! | `polynomials` | degrees 3 to 31, both bases, the average and the bound |
//! | `matrix_vector` | dense and periodic diagonals, several giant steps |
//! | `correlated_slots_need_the_bound` | sums over rotations of sums over rotations, as maps and by hand |
//! | `the_bound_holds_between_grid_points` | polynomials that are largest where no grid point is |
//! | `ten_products` | a chain of ten products over eleven levels |
//! | `rounding_is_laplace` | fourth moment of a rounding over the slots |
//! | `shared_errors_need_the_bound` | x + x: independent errors are too optimistic, the bound holds |
//! | `misuse` | typed errors |
//!
//! **Tolerance.** An error polynomial of n coefficients is measured by its root mean square over all slots. Errors that are
//! multiplied by the secret scatter most: over the slots |error|^2 is a product of two exponential variables, so its mean
//! over n/2 slots has the relative deviation sqrt(3 / (n/2)), and half of that, 1.22 / sqrt n, in the root. The weight of
//! the secret (binomial, p = 2/3) adds sqrt(1 / 8n). Together 1.28 / sqrt n; five of those are 6.4 / sqrt n. Where errors
//! are weighted by other slots' values, the relative variance grows by E|z|^4 / (E|z|^2)^2, which is 1.4 for the uniform
//! square and 1.8 for a uniform interval: 6.4 sqrt 1.8 = 8.6.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ckks::noise::{NoiseEstimate, NoiseMode, NoiseModel};
use cipherform_ckks::{
    Basis, Ciphertext, Encryptor, Error, KeyGenerator, KeySpec, LinearTransform, Polynomial,
};
use cipherform_ring::Device;
use common::Fixture;
use num_complex::Complex64;
use std::collections::BTreeMap;

const TYPICAL: NoiseMode = NoiseMode::Typical;

/// Root mean square of the slots.
fn size(slots: &[Complex64]) -> f64 {
    (slots.iter().map(Complex64::norm_sqr).sum::<f64>() / slots.len() as f64).sqrt()
}

/// Differences of the slots.
fn errors(f: &Fixture, want: &[Complex64], ct: &Ciphertext) -> Vec<Complex64> {
    let got = f.decrypt(ct);
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| g - w).collect()
}

/// Root mean square of the parts' errors, as the deviation of a coefficient.
fn measured(f: &Fixture, want: &[Complex64], ct: &Ciphertext) -> f64 {
    let parts = size(&errors(f, want, ct)) / 2f64.sqrt();
    parts * ct.scale() / (f.ctx.params().n() as f64 / 2.0).sqrt()
}

fn assert_close(f: &Fixture, what: &str, got: f64, want: f64, deviations: f64) {
    let tolerance = deviations / (f.ctx.params().n() as f64).sqrt();
    let name = f.ctx.params().name();
    assert!(
        (got / want - 1.0).abs() < tolerance,
        "{name} {what}: measured {got:.3e}, predicted {want:.3e}, tolerance {tolerance:.3}"
    );
}

/// The estimate is that of the ciphertext, and its deviation what is measured.
fn check(f: &Fixture, what: &str, estimate: &NoiseEstimate, want: &[Complex64], ct: &Ciphertext) {
    assert_eq!((estimate.level(), estimate.degree()), (ct.level(), ct.degree()), "{what}");
    assert!((estimate.scale() / ct.scale() - 1.0).abs() < 1e-12, "{what}");
    assert_close(f, what, measured(f, want, ct), estimate.std(), 8.6);
}

fn map(x: &[Complex64], f: impl Fn(Complex64) -> Complex64) -> Vec<Complex64> {
    x.iter().map(|&v| f(v)).collect()
}

fn zip(
    x: &[Complex64],
    y: &[Complex64],
    f: impl Fn(Complex64, Complex64) -> Complex64,
) -> Vec<Complex64> {
    x.iter().zip(y.iter().cycle()).map(|(&a, &b)| f(a, b)).collect()
}

#[test]
fn encodings() {
    let mut f = Fixture::new("lev13", Device::cpu());
    let model = NoiseModel::new(f.ctx.params());
    // A scale at which rounding to integers stands far above the 53 bits of the transform.
    let scale = 2f64.powi(24);
    for period in [512, 1024, 4096] {
        let slots = f.random_slots(period);
        let plain = f.encoder.encode(&slots, 1, scale).unwrap();
        let got = f.encoder.decode(&plain).unwrap();
        let error = size(&zip(&got, &slots, |g, w| g - w)) * scale / 8192f64.sqrt();
        // 2 x period uniform roundings: the root mean square scatters by sqrt(0.8 / 2 period) / 2; five of those.
        let tolerance = 5.0 * (0.1 / period as f64).sqrt();
        let want = model.encoding_periodic(period);
        assert!((error / want - 1.0).abs() < tolerance, "{period}: {error} v {want}");
    }
    assert!((model.encoding_periodic(4096) - model.encoding()).abs() < 1e-15);
}

#[test]
fn fresh_encryptions() {
    for set in ["toy11_lev", "lev13", "lev14"] {
        let mut f = Fixture::new(set, Device::cpu());
        let model = NoiseModel::new(f.ctx.params());
        let (slots, scale) = (f.random_slots(f.ctx.params().slots()), f.ctx.params().scale_at(1));
        let estimate = model.encrypted_with_secret_key(TYPICAL, 1, scale, size(&slots)).unwrap();
        let ct = f.encrypt(&slots, 1);
        check(&f, "secret key", &estimate, &slots, &ct);
        let public = KeyGenerator::new(&f.ctx).public_key(&f.secret, &mut f.rng).unwrap();
        let plain = f.encoder.encode(&slots, 1, scale).unwrap();
        let encryptor = Encryptor::with_public_key(&f.ctx, &public).unwrap();
        let ct = encryptor.encrypt(&plain, &mut f.rng).unwrap();
        let estimate = model.encrypted_with_public_key(TYPICAL, 1, scale, size(&slots)).unwrap();
        check(&f, "public key", &estimate, &slots, &ct);
    }
}

#[test]
fn key_switches() {
    // lev13 has the smallest margin of P over a digit, toy11_lev none at all: their key switches are noisy.
    let cases =
        [("toy11_lev", 3), ("toy11_deep", 24), ("toy11_deep", 7), ("lev13", 4), ("lev14", 7)];
    for (set, level) in cases {
        let mut f = Fixture::new(set, Device::cpu());
        let model = NoiseModel::new(f.ctx.params());
        let (slots, scale) = (f.ctx.params().slots(), f.ctx.params().scale_at(level));
        let specs =
            [KeySpec::relinearization(level), KeySpec::conjugation(level), f.rotation(1, level)];
        let keys = f.keys(specs);
        let x = f.random_slots(slots);
        let ct = f.encrypt(&x, level);
        let fresh = model.encrypted_with_secret_key(TYPICAL, level, scale, size(&x)).unwrap();
        let switched = fresh.rotate().unwrap();
        let rotated: Vec<_> = (0..slots).map(|j| x[(j + 1) % slots]).collect();
        let got = f.evaluator.rotate(&ct, 1, &keys).unwrap();
        check(&f, "rotate", &switched, &rotated, &got);
        let got = f.evaluator.hoisted_rotations(&ct, &[1], &keys).unwrap();
        check(&f, "hoisted", &switched, &rotated, &got[0]);
        let conjugated = map(&x, |v| v.conj());
        let got = f.evaluator.conjugate(&ct, &keys).unwrap();
        check(&f, "conjugate", &switched, &conjugated, &got);
        // The difference between a relinearized and an unrelinearized product is the key switch alone.
        let product = f.evaluator.mul(&ct, &ct).unwrap();
        let switched = f.evaluator.relinearize(&product, &keys).unwrap();
        let difference = f.evaluator.sub(&switched, &product).unwrap();
        let got = measured(&f, &vec![Complex64::ZERO; slots], &difference);
        assert_close(&f, "relinearize", got, model.key_switch(level), 8.6);
    }
}

#[test]
fn every_operation() {
    for (set, level) in [("toy11_deep", 24), ("lev13", 4), ("lev14", 7)] {
        let mut f = Fixture::new(set, Device::cpu());
        let model = NoiseModel::new(f.ctx.params());
        let (slots, scale) = (f.ctx.params().slots(), f.ctx.params().scale_at(level));
        let q = f.ctx.params().modulus_at(level) as f64;
        let keys = f.keys([KeySpec::relinearization(level), KeySpec::relinearization(level - 1)]);
        let (x, y) = (f.random_slots(slots), f.random_slots(slots));
        let (cx, cy) = (f.encrypt(&x, level), f.encrypt(&y, level));
        let estimate = |v: &[Complex64]| {
            model.encrypted_with_secret_key(TYPICAL, level, scale, size(v)).unwrap()
        };
        let (ex, ey) = (estimate(&x), estimate(&y));
        let e = &f.evaluator;
        let sum = zip(&x, &y, |a, b| a + b);
        check(&f, "add", &ex.add(&ey).unwrap(), &sum, &e.add(&cx, &cy).unwrap());
        let difference = zip(&x, &y, |a, b| a - b);
        check(&f, "sub", &ex.add(&ey).unwrap(), &difference, &e.sub(&cx, &cy).unwrap());
        check(&f, "neg", &ex, &map(&x, |v| -v), &e.neg(&cx).unwrap());
        check(&f, "mul_i", &ex, &map(&x, |v| v * Complex64::i()), &e.mul_i(&cx).unwrap());
        let seven = e.mul_integer(&cx, -7).unwrap();
        check(&f, "mul_integer", &ex.mul_integer(-7), &map(&x, |v| -7.0 * v), &seven);

        let c = Complex64::new(0.3, -0.7);
        let got = e.add_constant(&cx, c).unwrap();
        check(&f, "add_constant", &ex.add_constant(c), &map(&x, |v| v + c), &got);
        // At q, the input's error dominates; at 2^6 the rounding of the constant does.
        for at in [q, 64.0] {
            let got = e.mul_constant(&cx, c, at).unwrap();
            let want = map(&x, |v| v * c);
            check(&f, "mul_constant", &ex.mul_constant(c, at).unwrap(), &want, &got);
        }
        for (period, at) in [(slots, q), (slots, 256.0), (slots / 4, 256.0)] {
            let short = y[..period].to_vec();
            let plain = f.encoder.encode(&short, level, at).unwrap();
            let got = e.mul_plain(&cx, &plain).unwrap();
            let want = zip(&x, &short, |a, b| a * b);
            let estimate = ex.mul_plain(size(&short), at, period).unwrap();
            check(&f, "mul_plain", &estimate, &want, &got);
            let plain = f.encoder.encode(&short, level, scale).unwrap();
            let got = e.add_plain(&cx, &plain).unwrap();
            let want = zip(&x, &short, |a, b| a + b);
            check(&f, "add_plain", &ex.add_plain(size(&short), period), &want, &got);
        }

        let want = zip(&x, &y, |a, b| a * b);
        let (product, predicted) = (e.mul(&cx, &cy).unwrap(), ex.mul(&ey).unwrap());
        check(&f, "mul", &predicted, &want, &product);
        let relinearized = e.relinearize(&product, &keys).unwrap();
        let switched = predicted.relinearize().unwrap();
        check(&f, "mul + relinearize", &switched, &want, &relinearized);
        let rescaled = e.rescale(relinearized).unwrap();
        check(&f, "mul + relinearize + rescale", &switched.rescale().unwrap(), &want, &rescaled);
        let (rescaled, predicted) = (e.rescale(product).unwrap(), predicted.rescale().unwrap());
        check(&f, "mul + rescale", &predicted, &want, &rescaled);
        let relinearized = e.relinearize(&rescaled, &keys).unwrap();
        let predicted = predicted.relinearize().unwrap();
        check(&f, "mul + rescale + relinearize", &predicted, &want, &relinearized);
        let want = map(&x, |a| a * a);
        check(&f, "square", &ex.square().unwrap(), &want, &e.square(&cx).unwrap());

        let dropped = e.drop_level(&cx, level - 1).unwrap();
        check(&f, "drop_level", &ex.drop_level(level - 1).unwrap(), &x, &dropped);
        let aligned = e.set_level(&cx, level - 2).unwrap();
        check(&f, "set_level", &ex.set_level(level - 2).unwrap(), &x, &aligned);
        let same = e.set_level(&cx, level).unwrap();
        check(&f, "set_level, no change", &ex.set_level(level).unwrap(), &x, &same);
    }
}

/// Largest error of a part and the parts.
fn worst(errors: &[Complex64]) -> f64 {
    errors.iter().flat_map(|e| [e.re, e.im]).fold(0.0, |max, x| x.abs().max(max))
}

#[test]
fn polynomials() {
    for (set, level) in [("toy11_deep", 8), ("lev14", 7)] {
        let mut f = Fixture::new(set, Device::cpu());
        let model = NoiseModel::new(f.ctx.params());
        let (slots, scale) = (f.ctx.params().slots(), f.ctx.params().scale_at(level));
        let keys = f.keys([KeySpec::relinearization(level)]);
        let x = f.random_reals(slots);
        let ct = f.encrypt(&x, level);
        let fresh =
            |mode, message| model.encrypted_with_secret_key(mode, level, scale, message).unwrap();
        let wave = |degree: usize| -> Vec<f64> {
            (0..=degree).map(|i| (1.0 + i as f64 * 0.7).sin() / (1 + i) as f64).collect()
        };
        let cases = [
            Polynomial::interpolate(3, f64::exp).unwrap(),
            Polynomial::interpolate(15, |x| 1.0 / (1.5 + x)).unwrap(),
            Polynomial::interpolate(31, |x| (4.0 * x).sin()).unwrap(),
            Polynomial::new(Basis::Monomial, wave(15)).unwrap(),
            Polynomial::new(Basis::Chebyshev, wave(12)).unwrap(),
        ];
        for p in cases {
            let what = format!("degree {}", p.degree());
            let out = f.evaluator.polynomial(&ct, &p, &keys).unwrap();
            let want: Vec<Complex64> = x.iter().map(|&v| p.evaluate_f64(v).into()).collect();
            let typical = fresh(TYPICAL, (1.0f64 / 3.0).sqrt()).polynomial(&p).unwrap();
            check(&f, &what, &typical, &want, &out);
            // Size of the result: uniform inputs, n/2 of them.
            assert_close(&f, &what, size(&want), typical.message(), 8.6);
            // With probability 1 - 2^-40 no part of 2^14 is further out than the 2^-54 quantile.
            let bound = fresh(NoiseMode::Bound, 1.0).polynomial(&p).unwrap();
            let limit = bound.slot_std() * model.quantile(-54.0);
            let found = worst(&errors(&f, &want, &out));
            assert!(found < limit, "{what}: {found:e} v {limit:e}");
            assert!(bound.std() >= typical.std() && bound.message() >= typical.message());
            // The bound is that of the worst input, not of an impossible one.
            assert!(bound.std() < 16.0 * typical.std(), "{what}: {bound:?} v {typical:?}");
        }
    }
}

#[test]
fn matrix_vector() {
    for (set, level) in [("toy11_deep", 4), ("lev13", 4), ("lev14", 3)] {
        let mut f = Fixture::new(set, Device::cpu());
        let model = NoiseModel::new(f.ctx.params());
        let (slots, scale) = (f.ctx.params().slots(), f.ctx.params().scale_at(level));
        let q = f.ctx.params().modulus_at(level) as f64;
        let x = f.random_slots(slots);
        let ct = f.encrypt(&x, level);
        // Baby steps, diagonals, periods, scale of the plaintexts: in the last, whose coefficients are a few units, their rounding
        // dominates.
        let cases =
            [(4, -6..9, 64, q), (1, 0..3, slots, q), (8, 0..16, slots, q), (4, 0..8, slots, 512.0)];
        for (baby, amounts, period, at) in cases {
            let what = format!("{amounts:?} by {baby}, scale {at:e}");
            let diagonals: BTreeMap<i64, Vec<f64>> =
                amounts.map(|d| (d, f.random_reals(period))).collect();
            let map = LinearTransform::new(&f.encoder, level, at, &diagonals, baby).unwrap();
            let keys = f.keys(map.keys());
            let out = f.evaluator.linear_transform(&ct, &map, &keys).unwrap();
            let want: Vec<Complex64> = (0..slots as i64)
                .map(|j| {
                    let read = |d: i64| x[(j + d).rem_euclid(slots as i64) as usize];
                    diagonals.iter().map(|(&d, w)| read(d) * w[j as usize % period]).sum()
                })
                .collect();
            let estimate = |mode, size| {
                let fresh = model.encrypted_with_secret_key(mode, level, scale, size).unwrap();
                fresh.linear_transform(&diagonals, at, baby).unwrap()
            };
            let typical = estimate(TYPICAL, size(&x));
            check(&f, &what, &typical, &want, &out);
            assert_close(&f, &what, size(&want), typical.message(), 8.6);
            let bound = estimate(NoiseMode::Bound, 2f64.sqrt());
            assert!(bound.std() >= typical.std());
            assert!(want.iter().all(|v| v.norm() <= bound.message()));
            let rescaled = f.evaluator.rescale(out).unwrap();
            check(&f, &what, &typical.rescale().unwrap(), &want, &rescaled);
        }
    }
}

#[test]
fn ten_products() {
    for set in ["toy11_deep", "lev15"] {
        let mut f = Fixture::new(set, Device::cpu());
        let model = NoiseModel::new(f.ctx.params());
        let slots = f.ctx.params().slots();
        let top = 11;
        let keys = f.keys([KeySpec::relinearization(top)]);
        let fresh = |mode, level, size| {
            let scale = f.ctx.params().scale_at(level);
            model.encrypted_with_secret_key(mode, level, scale, size).unwrap()
        };
        // On the circle of radius 1.1 and 0.9 in turn, so that errors neither vanish nor explode.
        let factors: Vec<Vec<Complex64>> = (0..=10)
            .map(|i| {
                let radius = if i % 2 == 0 { 1.1 } else { 0.9 };
                let angle = |j: usize| (i + 1) as f64 * (j as f64 + 0.5);
                (0..slots).map(|j| Complex64::from_polar(radius, angle(j))).collect()
            })
            .collect();
        let mut want = factors[0].clone();
        let mut typical = fresh(TYPICAL, top, size(&want));
        let mut bound = fresh(NoiseMode::Bound, top, 1.1);
        let first = factors[0].clone();
        let mut ct = encrypt(&f, 99, &first, top);
        for (i, factor) in factors.iter().enumerate().skip(1) {
            let level = top + 1 - i;
            let other = encrypt(&f, i as u64, factor, level);
            let product = f.evaluator.mul(&ct, &other).unwrap();
            ct = f.evaluator.rescale(f.evaluator.relinearize(&product, &keys).unwrap()).unwrap();
            want = zip(&want, factor, |a, b| a * b);
            let step = |acc: &NoiseEstimate, other: &NoiseEstimate| {
                acc.mul(other).unwrap().relinearize().unwrap().rescale().unwrap()
            };
            typical = step(&typical, &fresh(TYPICAL, level, size(factor)));
            bound = step(&bound, &fresh(NoiseMode::Bound, level, size(factor)));
            check(&f, &format!("product {i}"), &typical, &want, &ct);
            assert!((typical.message() / size(&want) - 1.0).abs() < 1e-9);
            assert!(bound.std() >= typical.std());
        }
        let limit = bound.slot_std() * model.quantile(-54.0);
        assert!(worst(&errors(&f, &want, &ct)) < limit);
    }
}

fn encrypt(f: &Fixture, seed: u64, slots: &[Complex64], level: usize) -> Ciphertext {
    let mut rng = common::insecure_test_rng(seed);
    let plain = f.encoder.encode(slots, level, f.ctx.params().scale_at(level)).unwrap();
    Encryptor::with_secret_key(&f.ctx, &f.secret).unwrap().encrypt(&plain, &mut rng).unwrap()
}

#[test]
fn rounding_is_laplace() {
    let mut f = Fixture::new("lev15", Device::cpu());
    let x = f.random_slots(f.ctx.params().slots());
    let ct = f.encrypt(&x, 2);
    let ct = f.evaluator.set_level(&ct, 1).unwrap();
    let parts: Vec<f64> = errors(&f, &x, &ct).into_iter().flat_map(|e| [e.re, e.im]).collect();
    let moment = |k| parts.iter().map(|x| x.powi(k)).sum::<f64>() / parts.len() as f64;
    // Fourth moment over squared second: 6 for Laplace, 3 for Gauss. x^4 has the relative variance 8! / 4!^2 - 1 = 69;
    // both parts of a slot share its deviation, so 2^14 of the 2^15 parts are independent: 0.065, five of those 0.33.
    let kurtosis = moment(4) / moment(2).powi(2);
    assert!((kurtosis / 6.0 - 1.0).abs() < 0.33, "{kurtosis}");
    // The largest part has the deviation pi / sqrt 12 of a Gumbel variable around its mean; five of those.
    let model = NoiseModel::new(f.ctx.params());
    let largest = parts.iter().fold(0f64, |max, x| max.max(x.abs())) / moment(2).sqrt();
    let want = model.worst(parts.len());
    assert!((largest - want).abs() < 5.0 * 0.91, "{largest} v {want}");
}

#[test]
fn shared_errors_need_the_bound() {
    let mut f = Fixture::new("lev13", Device::cpu());
    let model = NoiseModel::new(f.ctx.params());
    let x = f.random_slots(f.ctx.params().slots());
    let ct = f.encrypt(&x, 2);
    let twice = f.evaluator.add(&ct, &ct).unwrap();
    let want = map(&x, |v| 2.0 * v);
    let scale = f.ctx.params().scale_at(2);
    let fresh = |mode| model.encrypted_with_secret_key(mode, 2, scale, 1.0).unwrap();
    let typical = fresh(TYPICAL).add(&fresh(TYPICAL)).unwrap();
    let bound = fresh(NoiseMode::Bound).add(&fresh(NoiseMode::Bound)).unwrap();
    let got = measured(&f, &want, &twice);
    assert_close(&f, "x + x", got, 2f64.sqrt() * typical.std(), 8.6);
    assert_close(&f, "x + x", got, bound.std(), 8.6);
    check(&f, "2 x", &fresh(TYPICAL).mul_integer(2), &want, &twice);
}

/// An operation and its estimate.
type Step<'a> =
    (&'a dyn Fn(&Ciphertext) -> Ciphertext, &'a dyn Fn(&NoiseEstimate) -> NoiseEstimate);

#[test]
fn correlated_slots_need_the_bound() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let model = NoiseModel::new(f.ctx.params());
    let (slots, scale) = (f.ctx.params().slots(), f.ctx.params().scale_at(1));
    let ones: BTreeMap<i64, Vec<f64>> = (0..8).map(|d| (d, vec![1.0])).collect();
    let map = LinearTransform::new(&f.encoder, 1, 1.0, &ones, 8).unwrap();
    let specs: Vec<KeySpec> = [1, 2, 4].into_iter().map(|k| f.rotation(k, 1)).collect();
    let keys = f.keys(map.keys().into_iter().chain(specs));
    let zeros = vec![Complex64::ZERO; slots];
    let fresh = model.encrypted_with_secret_key(NoiseMode::Bound, 1, scale, 0.0).unwrap();
    // By maps of eight rotations, and by three doublings each.
    let e = &f.evaluator;
    let mapped = |ct: &Ciphertext| e.linear_transform(ct, &map, &keys).unwrap();
    let doubled = |ct: &Ciphertext| {
        [1, 2, 4].into_iter().fold(ct.clone(), |ct, k| {
            let rotated = e.rotate(&ct, k, &keys).unwrap();
            e.add(&ct, &rotated).unwrap()
        })
    };
    let bound_mapped = |b: &NoiseEstimate| b.linear_transform(&ones, 1.0, 8).unwrap();
    let bound_doubled =
        |b: &NoiseEstimate| (0..3).fold(b.clone(), |b, _| b.add(&b.rotate().unwrap()).unwrap());
    let ways: [Step<'_>; 2] = [(&mapped, &bound_mapped), (&doubled, &bound_doubled)];
    for (way, (apply, walk)) in ways.into_iter().enumerate() {
        let mut bound = fresh.clone();
        let mut cts: Vec<Ciphertext> = (0..16).map(|i| encrypt(&f, i, &zeros, 1)).collect();
        for round in 1..=4 {
            cts = cts.iter().map(apply).collect();
            bound = walk(&bound);
            let squares: f64 = cts.iter().map(|ct| measured(&f, &zeros, ct).powi(2)).sum();
            let ratio = (squares / cts.len() as f64).sqrt() / bound.std();
            // After a few rounds all slots have one error, so that there are 16 samples of it, each of an exponentially
            // distributed square: the root of their mean scatters by 1 / 8. Five of those; and the bound is no fantasy.
            assert!((0.05..1.6).contains(&ratio), "way {way}, round {round}: {ratio}");
        }
    }
}

#[test]
fn the_bound_holds_between_grid_points() {
    let f = Fixture::new("toy11_deep", Device::cpu());
    let model = NoiseModel::new(f.ctx.params());
    let level = 6;
    let scale = f.ctx.params().scale_at(level);
    let (mut value, mut slope) = (0u32, 0u32);
    for i in 0..40 {
        // 1 - (x - a)^2 is at most 1; x - (x - a)^3 / 3 has slope at most 1. Both are reached at a.
        let a = -0.9 + 0.045 * f64::from(i);
        let parabola = Polynomial::new(Basis::Monomial, vec![1.0 - a * a, 2.0 * a, -1.0]).unwrap();
        let third = 1.0 / 3.0;
        let cubic = vec![a.powi(3) * third, 1.0 - a * a, a, -third];
        let cubic = Polynomial::new(Basis::Monomial, cubic).unwrap();
        let noisy = model.estimate(NoiseMode::Bound, level, scale, 1.0, 1e5).unwrap();
        value += u32::from(noisy.polynomial(&parabola).unwrap().message() >= 1.0);
        slope += u32::from(noisy.polynomial(&cubic).unwrap().slot_std() >= noisy.slot_std());
    }
    assert_eq!((value, slope), (40, 40));
}

#[test]
fn misuse() {
    let f = Fixture::new("toy11_lev", Device::cpu());
    let other = Fixture::new("toy11_deep", Device::cpu());
    let model = NoiseModel::new(f.ctx.params());
    let scale = f.ctx.params().scale_at(2);
    let a = model.estimate(TYPICAL, 2, scale, 1.0, 3.2).unwrap();
    let b = model.estimate(TYPICAL, 1, scale, 1.0, 3.2).unwrap();
    assert!(matches!(a.add(&b), Err(Error::LevelMismatch { lhs: 2, rhs: 1, .. })));
    let b = model.estimate(TYPICAL, 2, 2.0 * scale, 1.0, 3.2).unwrap();
    assert!(matches!(a.add(&b), Err(Error::ScaleMismatch { .. })));
    let b = model.estimate(NoiseMode::Bound, 2, scale, 1.0, 3.2).unwrap();
    assert!(matches!(a.mul(&b), Err(Error::InvalidArgument { .. })));
    let foreign = NoiseModel::new(other.ctx.params());
    let b = foreign.estimate(TYPICAL, 2, scale, 1.0, 3.2).unwrap();
    assert!(matches!(a.mul(&b), Err(Error::ParameterMismatch { .. })));
    assert!(matches!(a.relinearize(), Err(Error::DegreeMismatch { degree: 1, needed: 2, .. })));
    let product = a.square().unwrap();
    assert!(matches!(product.rotate(), Err(Error::DegreeMismatch { degree: 2, needed: 1, .. })));
    assert!(matches!(product.square(), Err(Error::DegreeMismatch { .. })));
    assert!(matches!(a.set_level(3), Err(Error::LevelTooHigh { level: 3, max: 2, .. })));
    assert!(matches!(a.drop_level(3), Err(Error::LevelTooHigh { .. })));
    let low = a.drop_level(0).unwrap();
    assert!(matches!(low.rescale(), Err(Error::LevelExhausted { .. })));
    assert!(matches!(low.square(), Err(Error::ValueTooLarge { .. })));
    let cubic = Polynomial::interpolate(3, f64::exp).unwrap();
    assert!(matches!(low.polynomial(&cubic), Err(Error::LevelExhausted { needed: 2, .. })));
    assert!(matches!(
        a.linear_transform(&BTreeMap::new(), scale, 1),
        Err(Error::InvalidArgument { .. })
    ));
    let refused =
        |level, scale, message, std| model.estimate(TYPICAL, level, scale, message, std).is_err();
    assert!(refused(4, scale, 1.0, 3.2));
    assert!(refused(0, 2f64.powi(60), 1.0, 3.2));
    assert!(refused(2, f64::NAN, 1.0, 3.2));
    assert!(refused(2, scale, f64::NAN, 3.2));
    assert!(refused(2, scale, 1.0, -1.0));
    assert!(a.with_message(f64::INFINITY).is_err());
}

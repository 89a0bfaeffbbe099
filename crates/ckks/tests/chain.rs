//! The scheme end to end, on both devices.
//!
//! | test | what it proves |
//! |---|---|
//! | `encrypt_decrypt` | both encryptors, every level, within the predicted noise |
//! | `multiply_rescale_rotate` | the whole chain against clear slots |
//! | `rotations_shift_left` | the order of slots, conjugation, the identity, hoisting |
//! | `devices_agree` | the same bytes on both devices, through keys, products, polynomial and linear map |
//! | `keys_serve_lower_levels` | a key of level l works at every level below |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ckks::noise::NoiseModel;
use cipherform_ckks::{Encryptor, KeyGenerator, KeySpec, LinearTransform, Polynomial};
use cipherform_ring::Device;
use common::{Fixture, max_error};
use num_complex::Complex64;
use std::collections::BTreeMap;

/// Rounding errors reach the slots multiplied by the secret, hence Laplace distributed: with P(x > 16 sigma) = e^-22.6,
/// none of 2^16 parts exceeds this.
const WORST: f64 = 16.0;

fn encrypt_decrypt(set: &str, device: Device) {
    let mut f = Fixture::new(set, device);
    let model = NoiseModel::new(f.ctx.params());
    let public = KeyGenerator::new(&f.ctx).public_key(&f.secret, &mut f.rng).unwrap();
    let slots = f.ctx.params().slots();
    for level in [0, 1, f.top()] {
        let want = f.random_slots(slots);
        let scale = f.ctx.params().scale_at(level);
        let plain = f.encoder.encode(&want, level, scale).unwrap();
        let secret_encryptor = Encryptor::with_secret_key(&f.ctx, &f.secret).unwrap();
        let a = secret_encryptor.encrypt(&plain, &mut f.rng).unwrap();
        let public_encryptor = Encryptor::with_public_key(&f.ctx, &public).unwrap();
        let b = public_encryptor.encrypt(&plain, &mut f.rng).unwrap();
        assert!(a.is_seeded() && !b.is_seeded());
        for (ct, noise) in [(a, model.fresh_secret_key()), (b, model.fresh_public_key())] {
            let bound = WORST * model.slot(noise.hypot(model.encoding())) / scale;
            let error = max_error(&want, &f.decrypt(&ct));
            assert!(error < bound, "{set} level {level}: {error:e} v {bound:e}");
        }
    }
}

#[test]
fn encrypt_decrypt_cpu() {
    encrypt_decrypt("toy11_deep", Device::cpu());
    encrypt_decrypt("lev13", Device::cpu());
}

#[test]
fn encrypt_decrypt_reference() {
    encrypt_decrypt("toy11_lev", Device::reference());
}

fn multiply_rescale_rotate(set: &str, device: Device) {
    let mut f = Fixture::new(set, device);
    let (top, slots) = (f.top(), f.ctx.params().slots());
    let keys = [KeySpec::relinearization(top), f.rotation(3, top - 1)];
    let keys = f.keys(keys);
    let (x, y) = (f.random_slots(slots), f.random_slots(slots));
    let (cx, cy) = (f.encrypt(&x, top), f.encrypt(&y, top));
    let e = &f.evaluator;
    let product = e.mul(&cx, &cy).unwrap();
    let product = e.rescale(e.relinearize(&product, &keys).unwrap()).unwrap();
    let rotated = e.rotate(&product, 3, &keys).unwrap();
    assert_eq!(rotated.level(), top - 1);
    assert!((rotated.scale() / f.ctx.params().scale_at(top - 1) - 1.0).abs() < 1e-14);
    let want: Vec<Complex64> =
        (0..slots).map(|j| x[(j + 3) % slots] * y[(j + 3) % slots]).collect();
    // Two fresh errors times |values| <= sqrt 2, one relinearization divided by q, one rescaling, one rotation.
    let model = NoiseModel::new(f.ctx.params());
    let fresh = model.fresh_secret_key().hypot(model.encoding()) * 2.0;
    let shrunk = model.key_switch(top) / f.ctx.params().modulus_at(top) as f64;
    let noise = fresh.hypot(shrunk).hypot(model.rounding()).hypot(model.key_switch(top - 1));
    let bound = WORST * model.slot(noise) / rotated.scale();
    let error = max_error(&want, &f.decrypt(&rotated));
    assert!(error < bound, "{set}: {error:e} v {bound:e}");
}

#[test]
fn multiply_rescale_rotate_cpu() {
    multiply_rescale_rotate("toy11_deep", Device::cpu());
    multiply_rescale_rotate("lev13", Device::cpu());
    multiply_rescale_rotate("lev14", Device::cpu());
}

#[test]
fn multiply_rescale_rotate_reference() {
    multiply_rescale_rotate("toy11_lev", Device::reference());
}

#[test]
fn rotations_shift_left() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let slots = f.ctx.params().slots();
    let x = f.random_slots(slots);
    let ct = f.encrypt(&x, 5);
    let amounts = [1, 0, -1, 512, 5 + slots as i64];
    let mut specs: Vec<_> =
        amounts.iter().filter_map(|&k| KeySpec::rotation(f.ctx.params(), k, 5)).collect();
    specs.push(KeySpec::conjugation(5));
    let keys = f.keys(specs);
    let hoisted = f.evaluator.hoisted_rotations(&ct, &amounts, &keys).unwrap();
    let model = NoiseModel::new(f.ctx.params());
    let noise = model.fresh_secret_key().hypot(model.key_switch(5)).hypot(model.encoding());
    let bound = WORST * model.slot(noise) / ct.scale();
    for (&k, hoisted) in amounts.iter().zip(&hoisted) {
        let want: Vec<Complex64> =
            (0..slots as i64).map(|j| x[(j + k).rem_euclid(slots as i64) as usize]).collect();
        let single = f.evaluator.rotate(&ct, k, &keys).unwrap();
        for got in [&single, hoisted] {
            let error = max_error(&want, &f.decrypt(got));
            assert!(error < bound, "rotation {k}: {error:e} v {bound:e}");
        }
    }
    // One division for all: not more noise than one rotation a term, and one rounding instead of four.
    let y = f.random_slots(slots);
    let other = f.encrypt(&y, 5);
    let terms: Vec<_> = [&ct, &other, &other, &ct, &ct].into_iter().zip(amounts).collect();
    let got = f.decrypt(&f.evaluator.sum_rotated(&terms, &keys).unwrap());
    let at = |values: &[Complex64], j: i64| values[j.rem_euclid(slots as i64) as usize];
    let want: Vec<Complex64> = (0..slots as i64)
        .map(|j| {
            let sources = [&x, &y, &y, &x, &x].into_iter().zip(amounts);
            sources.map(|(values, k)| at(values, j + k)).sum()
        })
        .collect();
    let error = max_error(&want, &got);
    assert!(error < 5.0 * bound, "sum of rotations: {error:e} v {:e}", 5.0 * bound);
    let want: Vec<Complex64> = x.iter().map(Complex64::conj).collect();
    let got = f.evaluator.conjugate(&ct, &keys).unwrap();
    assert!(max_error(&want, &f.decrypt(&got)) < bound);
}

#[test]
fn keys_serve_lower_levels() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let slots = f.ctx.params().slots();
    let spec = f.rotation(1, 12);
    let keys = f.keys([spec]);
    let x = f.random_slots(slots);
    let want: Vec<Complex64> = (0..slots).map(|j| x[(j + 1) % slots]).collect();
    let model = NoiseModel::new(f.ctx.params());
    // 4, 5 and 9, 10 sit on both sides of the ends of digits.
    for level in [0, 1, 4, 5, 9, 10, 12] {
        let ct = f.encrypt(&x, level);
        let got = f.evaluator.rotate(&ct, 1, &keys).unwrap();
        let noise = model.fresh_secret_key().hypot(model.key_switch(level)).hypot(model.encoding());
        let bound = WORST * model.slot(noise) / ct.scale();
        let error = max_error(&want, &f.decrypt(&got));
        assert!(error < bound, "level {level}: {error:e} v {bound:e}");
    }
}

#[test]
fn devices_agree() {
    let run = |device| {
        let mut f = Fixture::new("toy11_lev", device);
        let scale = f.ctx.params().modulus_at(1) as f64;
        let diagonals = BTreeMap::from([(0, vec![0.5]), (1, vec![0.25, -0.5]), (2, vec![0.125])]);
        let map = LinearTransform::new(&f.encoder, 1, scale, &diagonals, 2).unwrap();
        let specs = [KeySpec::relinearization(3), KeySpec::conjugation(1)];
        let keys = f.keys(map.keys().into_iter().chain(specs));
        let ct = f.encrypt(&[0.5, -0.25, 0.75, 0.125], 3);
        let polynomial = Polynomial::interpolate(3, f64::exp).unwrap();
        let e = &f.evaluator;
        let ct = e.polynomial(&ct, &polynomial, &keys).unwrap();
        let ct = e.conjugate(&ct, &keys).unwrap();
        let ct = e.rescale(e.linear_transform(&ct, &map, &keys).unwrap()).unwrap();
        (ct.to_bytes().unwrap(), f.decrypt(&ct))
    };
    let (reference, slots) = run(Device::reference());
    for cpu in Device::cpus() {
        assert!(run(cpu).0 == reference, "{cpu} computed other words");
    }
    let want = 0.5 * 0.5f64.exp() + 0.25 * (-0.25f64).exp() + 0.125 * 0.75f64.exp();
    // The cubic misses exp by at most 1 / (2^3 4!) * 1.2 on [-1, 1].
    assert!((slots[0].re - want).abs() < 0.01, "{} v {want}", slots[0]);
}

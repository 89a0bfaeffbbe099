//! The same ciphertexts, byte for byte, on a CUDA card and on the CPU. Skipped, loudly, where there is no card.
//!
//! | test | what it proves |
//! |---|---|
//! | `toy_sets` | every operation of the evaluator and both kinds of bootstrap, toy degrees |
//! | `all_sets` | ignored (minutes of CPU, 20 GB): the same for every parameter set, at every level that operations can have |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ckks::{
    BootstrapOptions, Bootstrapper, Ciphertext, KeyKind, KeySpec, LinearTransform, Polynomial,
    presets,
};
use cipherform_ring::Device;
use common::Fixture;
use std::collections::BTreeMap;

/// The first card. With `CIPHERFORM_NEED_CUDA` set it must be there.
fn cuda() -> Option<Device> {
    match Device::cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            assert!(std::env::var_os("CIPHERFORM_NEED_CUDA").is_none(), "{error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// What the evaluator makes of two ciphertexts at a level, by name.
fn operations(f: &mut Fixture, level: usize) -> Vec<(String, Vec<u8>)> {
    let slots = f.ctx.params().slots();
    let (x, y) = (f.random_slots(slots), f.random_slots(slots));
    let (a, b) = (f.encrypt(&x, level), f.encrypt(&y, level));
    let diagonals: BTreeMap<i64, Vec<f64>> =
        (0..6).map(|d| (d, f.random_reals(slots.min(64)))).collect();
    let scale = f.ctx.params().modulus_at(level) as f64;
    let map = LinearTransform::new(&f.encoder, level, scale, &diagonals, 3).unwrap();
    let rotations = [1, 3, -2];
    let mut specs: Vec<KeySpec> = map.keys();
    specs.extend(rotations.iter().map(|&k| f.rotation(k, level)));
    specs.push(KeySpec { kind: KeyKind::Relinearization, level });
    specs.push(KeySpec { kind: KeyKind::Conjugation, level });
    // Keys are made in parallel, and of two for the same rotation the first to be done would stay.
    specs.sort();
    specs.dedup();
    let keys = f.many_keys(&specs);
    let plaintext = f.encoder.encode(&y, level, f.ctx.params().scale_at(level)).unwrap();
    let periodic = f.encoder.encode(&[0.5, -0.25], level, f.ctx.params().scale_at(level)).unwrap();
    let e = &f.evaluator;
    let product = e.mul(&a, &b).unwrap();
    let mut out = vec![
        ("encrypted".to_owned(), a.clone()),
        ("add".to_owned(), e.add(&a, &b).unwrap()),
        ("sub".to_owned(), e.sub(&a, &b).unwrap()),
        ("neg".to_owned(), e.neg(&a).unwrap()),
        ("add_plain".to_owned(), e.add_plain(&a, &plaintext).unwrap()),
        ("mul_plain".to_owned(), e.mul_plain(&a, &plaintext).unwrap()),
        ("mul_plain, periodic".to_owned(), e.mul_plain(&a, &periodic).unwrap()),
        ("add_constant".to_owned(), e.add_constant(&a, 0.75).unwrap()),
        ("mul_i".to_owned(), e.mul_i(&a).unwrap()),
        ("mul".to_owned(), product.clone()),
        ("relinearize".to_owned(), e.relinearize(&product, &keys).unwrap()),
        ("rescale".to_owned(), e.rescale(product.clone()).unwrap()),
        ("rotate".to_owned(), e.rotate(&a, 3, &keys).unwrap()),
        ("conjugate".to_owned(), e.conjugate(&a, &keys).unwrap()),
        ("linear".to_owned(), e.linear_transform(&a, &map, &keys).unwrap()),
        ("linear, rescaled".to_owned(), e.linear_transform_rescale(&a, &map, &keys).unwrap()),
    ];
    let hoisted = e.hoisted_rotations(&a, &rotations, &keys).unwrap();
    out.extend(hoisted.into_iter().map(|ct| ("hoisted".to_owned(), ct)));
    let batch = e.relinearize_rescale(&[product.clone(), product], &keys).unwrap();
    out.extend(batch.into_iter().map(|ct| ("relinearize_rescale".to_owned(), ct)));
    let sine = Polynomial::interpolate(7, |x| (2.0 * x).sin()).unwrap();
    if sine.depth() <= level {
        out.push(("polynomial".to_owned(), e.polynomial(&a, &sine, &keys).unwrap()));
    }
    let name = |what: &str| format!("{} at level {level}: {what}", f.ctx.params().name());
    out.iter().map(|(what, ct)| (name(what), ct.to_bytes().unwrap())).collect()
}

/// Bootstraps of one complex and of two real ciphertexts, by name.
fn bootstraps(f: &mut Fixture, options: BootstrapOptions) -> Vec<(String, Vec<u8>)> {
    let b = Bootstrapper::new(&f.ctx, options).unwrap();
    let keys = f.many_keys(&b.keys());
    let z = f.random_slots(f.ctx.params().slots());
    let real = f.random_reals(f.ctx.params().slots());
    let (z, real) = (f.encrypt(&z, b.input_level()), f.encrypt(&real, b.input_level()));
    let [first, second] = b.bootstrap_pair(&real, &real, &keys).unwrap();
    let outputs = [("complex", b.bootstrap(&z, &keys).unwrap()), ("real", first), ("real", second)];
    let name = |what| format!("{} bootstrap, {what}", f.ctx.params().name());
    let bytes = |ct: &Ciphertext| ct.to_bytes().unwrap();
    outputs.iter().map(|(what, ct)| (name(what), bytes(ct))).collect()
}

fn run(set: &str, levels: &[usize], device: Device) -> Vec<(String, Vec<u8>)> {
    let can_bootstrap = presets::get(set).unwrap().bootstrapping().is_some();
    let mut out = Vec::new();
    for &level in levels {
        out.extend(operations(&mut Fixture::new(set, device), level));
    }
    if can_bootstrap {
        out.extend(bootstraps(&mut Fixture::new(set, device), BootstrapOptions::default()));
    }
    out
}

fn compare(set: &str, levels: &[usize], card: Device) {
    let (expected, got) = (run(set, levels, Device::cpu()), run(set, levels, card));
    assert_eq!(expected.len(), got.len());
    for ((what, expected), (_, got)) in expected.iter().zip(&got) {
        assert!(expected == got, "{what}");
    }
    eprintln!("{set}: {} ciphertexts are the same", got.len());
}

#[test]
fn toy_sets() {
    let Some(card) = cuda() else { return };
    for set in presets::names().into_iter().filter(|name| name.starts_with("toy")) {
        let top = presets::get(set).unwrap().max_level();
        compare(set, &[1, top / 2 + 1, top], card);
    }
}

#[test]
#[ignore = "slow: every parameter set at its own degree, on the CPU too"]
fn all_sets() {
    let Some(card) = cuda() else { return };
    for set in presets::names().into_iter().filter(|name| !name.starts_with("toy")) {
        let top = presets::get(set).unwrap().max_level();
        compare(set, &[top / 2 + 1, top], card);
    }
}

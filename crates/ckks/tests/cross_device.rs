//! The same ciphertexts, byte for byte, on every device. CUDA cards are skipped, loudly, where there is none.
//!
//! | test | what it proves |
//! |---|---|
//! | `toy_sets` | every operation of the evaluator and every kind of bootstrap, toy degrees |
//! | `programs` | random programs of 40 operations from the top of a toy set down to level 0, again and again |
//! | `a_production_set` | on a card only: every operation of a set whose degree has kernels of its own, two digits |
//! | `all_sets` | ignored (minutes of CPU, 20 GB): the same for every production set, at its top and a middle level |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ckks::{
    BootstrapOptions, Bootstrapper, Ciphertext, Encryptor, KeyGenerator, KeyKind, KeySpec,
    LinearTransform, Polynomial, presets,
};
use cipherform_ring::Device;
use common::{Fixture, insecure_test_rng};
use num_complex::Complex64;
use rand_core::Rng;
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

/// A card and the CPU with its other instruction sets: all that are compared with the CPU.
fn devices() -> Vec<Device> {
    let cpus = Device::cpus().into_iter().filter(|&device| device != Device::cpu());
    cpus.chain(cuda()).collect()
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
    // Each once: of two keys for one rotation, made on many cores, either may be kept.
    let more: Vec<KeySpec> = rotations.iter().map(|&k| f.rotation(k, level)).collect();
    specs.extend(more.into_iter().filter(|spec| !map.keys().contains(spec)));
    specs.push(KeySpec { kind: KeyKind::Relinearization, level });
    specs.push(KeySpec { kind: KeyKind::Conjugation, level });
    // Keys are made in parallel, and of two for the same rotation the first to be done would stay.
    specs.sort();
    specs.dedup();
    let keys = f.many_keys(&specs);
    let nominal = f.ctx.params().scale_at(level);
    let plaintext = f.encoder.encode(&y, level, nominal).unwrap();
    let public = KeyGenerator::new(&f.ctx).public_key(&f.secret, &mut f.rng).unwrap();
    let encryptor = Encryptor::with_public_key(&f.ctx, &public).unwrap();
    let for_all = encryptor.encrypt(&plaintext, &mut f.rng).unwrap();
    let complex = Complex64::new(0.25, -0.75);
    let periodic = f.encoder.encode(&[0.5, -0.25], level, nominal).unwrap();
    let e = &f.evaluator;
    let product = e.mul(&a, &b).unwrap();
    let in_place = |change: &dyn Fn(&mut Ciphertext)| {
        let mut out = a.clone();
        change(&mut out);
        out
    };
    let mut sum = product.clone();
    e.add_assign(&mut sum, &e.square(&b).unwrap()).unwrap();
    let mut with_plain = e.mul_plain(&b, &plaintext).unwrap();
    e.mul_plain_add_assign(&mut with_plain, &a, &periodic).unwrap();
    let mut out = vec![
        ("encrypted".to_owned(), a.clone()),
        ("encrypted with the public key".to_owned(), for_all),
        ("add_assign".to_owned(), in_place(&|x| e.add_assign(x, &b).unwrap())),
        ("sub_assign".to_owned(), in_place(&|x| e.sub_assign(x, &b).unwrap())),
        ("neg_assign".to_owned(), in_place(&|x| e.neg_assign(x).unwrap())),
        ("add_plain_assign".to_owned(), in_place(&|x| e.add_plain_assign(x, &plaintext).unwrap())),
        ("add_constant_assign".to_owned(), in_place(&|x| e.add_constant_assign(x, -0.5).unwrap())),
        ("mul_integer_assign".to_owned(), in_place(&|x| e.mul_integer_assign(x, -9).unwrap())),
        ("sub_plain".to_owned(), e.sub_plain(&a, &plaintext).unwrap()),
        ("mul_integer".to_owned(), e.mul_integer(&a, i64::MIN).unwrap()),
        ("mul_constant".to_owned(), e.mul_constant(&a, -0.3, nominal).unwrap()),
        ("mul_constant, complex".to_owned(), e.mul_constant(&a, complex, nominal).unwrap()),
        ("add_constant, complex".to_owned(), e.add_constant(&a, complex).unwrap()),
        ("square".to_owned(), e.square(&a).unwrap()),
        ("sum of products".to_owned(), sum),
        ("mul_plain_add_assign".to_owned(), with_plain),
        ("drop_level".to_owned(), e.drop_level(&a, level - 1).unwrap()),
        ("set_level".to_owned(), e.set_level(&a, level - 1).unwrap()),
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
        (
            "sum_rotated".to_owned(),
            e.sum_rotated(&[(&a, 3), (&b, 0), (&b, 3), (&a, 0)], &keys).unwrap(),
        ),
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
        let scale = f.ctx.params().scale_at(level - sine.depth()) * 0.75;
        let other = e.polynomial_to_scale(&a, &sine, scale, &keys).unwrap();
        out.push(("polynomial_to_scale".to_owned(), other));
    }
    let name = |what: &str| format!("{} at level {level}: {what}", f.ctx.params().name());
    out.iter().map(|(what, ct)| (name(what), ct.to_bytes().unwrap())).collect()
}

/// Bootstraps of one complex, of two real and of one real ciphertext, by name.
fn bootstraps(f: &mut Fixture, options: BootstrapOptions) -> Vec<(String, Vec<u8>)> {
    let b = Bootstrapper::new(&f.ctx, options).unwrap();
    let keys = f.many_keys(&b.keys());
    let z = f.random_slots(f.ctx.params().slots());
    let real = f.random_reals(f.ctx.params().slots());
    let (z, real) = (f.encrypt(&z, b.input_level()), f.encrypt(&real, b.input_level()));
    let [first, second] = b.bootstrap_pair(&real, &real, &keys).unwrap();
    let batch = b.bootstrap_batch(&[&real, &z], &keys).unwrap();
    let [real_in_batch, complex_in_batch] = batch.try_into().unwrap();
    let alone = b.bootstrap(&z, &keys).unwrap();
    assert!(complex_in_batch.to_bytes().unwrap() == alone.to_bytes().unwrap());
    let outputs = [
        ("complex", alone),
        ("in a batch", real_in_batch),
        ("first of two real", first),
        ("second of two real", second),
        ("real", b.bootstrap_real(&real, &keys).unwrap()),
    ];
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

fn compare(set: &str, levels: &[usize], devices: &[Device]) {
    let expected = run(set, levels, Device::cpu());
    for &device in devices {
        let got = run(set, levels, device);
        assert_eq!(expected.len(), got.len());
        for ((what, expected), (_, got)) in expected.iter().zip(&got) {
            assert!(expected == got, "{what} on {device}");
        }
        eprintln!("{set}: {} ciphertexts on {device} are the same", got.len());
    }
}

#[test]
fn toy_sets() {
    let devices = devices();
    for set in presets::names().into_iter().filter(|name| name.starts_with("toy")) {
        let top = presets::get(set).unwrap().max_level();
        compare(set, &[1, top / 2 + 1, top], &devices);
    }
}

#[test]
fn a_production_set() {
    // The degree whose kernels fuse what toy degrees do one after the other.
    if let Some(card) = cuda() {
        let level = presets::get("lev16_36").unwrap().max_level() / 2 + 1;
        compare("lev16_36", &[level], &[card]);
    }
}

/// Every ciphertext of a random program. Scales are nominal throughout, so that any two can meet.
fn program(f: &mut Fixture, seed: u64) -> Vec<(String, Vec<u8>)> {
    let top = f.top();
    let kinds = |level| {
        let kind = |kind| KeySpec { kind, level };
        [kind(KeyKind::Relinearization), kind(KeyKind::Conjugation), f.rotation(3, level)]
    };
    let specs: Vec<KeySpec> = (0..=top).flat_map(kinds).collect();
    let keys = f.many_keys(&specs);
    let slots = f.ctx.params().slots();
    let mut choices = insecure_test_rng(seed);
    let fresh = |f: &mut Fixture| {
        let x = f.random_slots(slots);
        f.encrypt(&x, top)
    };
    let (mut x, mut y) = (fresh(f), fresh(f));
    let mut out = Vec::new();
    for step in 0..40 {
        if x.level() == 0 {
            x = fresh(f);
        }
        let e = &f.evaluator;
        let level = x.level();
        // The other one at the same level, whichever is higher coming down.
        let mut meet = || {
            let common = x.level().min(y.level());
            x = e.set_level(&x, common).unwrap();
            y = e.set_level(&y, common).unwrap();
            common > 0
        };
        let choice = choices.next_u32() % 11;
        match choice {
            0 => {
                meet();
                x = e.add(&x, &y).unwrap();
            }
            1 => {
                meet();
                e.sub_assign(&mut y, &x).unwrap();
            }
            2 if meet() => {
                let products = [e.mul(&x, &y).unwrap(), e.square(&x).unwrap()];
                let mut both = e.relinearize_rescale(&products, &keys).unwrap();
                (y, x) = (both.pop().unwrap(), both.pop().unwrap());
            }
            3 => x = e.rotate(&x, 3, &keys).unwrap(),
            4 => x = e.conjugate(&x, &keys).unwrap(),
            5 => x = e.mul_integer(&x, i64::from(choices.next_u32())).unwrap(),
            6 => x = e.add_constant(&x, Complex64::new(0.5, -0.125)).unwrap(),
            7 => {
                let scale = f.ctx.params().scale_at(level);
                let values = [0.5, -0.25, 1.0, 0.125];
                let plaintext = f.encoder.encode(&values, level, scale).unwrap();
                x = e.rescale(e.mul_plain(&x, &plaintext).unwrap()).unwrap();
            }
            8 => x = e.mul_i(&x).unwrap(),
            9 => x = e.hoisted_rotations(&x, &[3, 0], &keys).unwrap().swap_remove(0),
            _ => std::mem::swap(&mut x, &mut y),
        }
        let name = |which| format!("program {seed}, step {step} ({choice}): {which}");
        out.push((name("x"), x.to_bytes().unwrap()));
        out.push((name("y"), y.to_bytes().unwrap()));
    }
    out
}

#[test]
fn programs() {
    for seed in 0..6 {
        let on = |device| program(&mut Fixture::new("toy11_lev", device), seed);
        let expected = on(Device::cpu());
        for device in devices() {
            for ((what, expected), (_, got)) in expected.iter().zip(&on(device)) {
                assert!(expected == got, "{what} on {device}");
            }
        }
    }
}

#[test]
#[ignore = "slow: every parameter set at its own degree, on the CPU too"]
fn all_sets() {
    let Some(card) = cuda() else { return };
    for set in presets::names().into_iter().filter(|name| !name.starts_with("toy")) {
        let top = presets::get(set).unwrap().max_level();
        compare(set, &[top / 2 + 1, top], &[card]);
    }
}
